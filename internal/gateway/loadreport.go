// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// loadReportHeader is in every response of the API. It reports how much load the gateway accepts,
// as a dictionary (RFC 9651):
//
//	Sluice-Gateway: concurrency=512, target=1, max=25, zone="tokyo-a", keys="dkq1x8w2k3f4", draining
//
// concurrency is the recommended number of requests in flight on this connection. target is the
// latency that the gateway aims for and max its timeout, both in seconds. zone is the gateway's
// zone. keys is set if gateways share Idempotency-Keys: at all gateways with the same value, calls
// with the same key are one call. draining is set while the gateway shuts down. It is one header
// field instead of six to keep responses small. The report is advisory; package client follows it.
const loadReportHeader = "Sluice-Gateway"

// minConnConcurrency is the lowest concurrency that a connection is given, however many connections
// there are.
const minConnConcurrency = 8

// loadReporter formats the header value. It caches the value, which changes only with the number of
// connections, the idempotency domain and the drain state.
type loadReporter struct {
	zone              string
	idempotencyDomain func() string
	concurrency       int // of all connections together
	target, max       time.Duration

	conns *atomic.Int64 // open connections
	last  atomic.Pointer[loadReport]
}

// loadReport is a header value and what it was formatted from.
type loadReport struct {
	conns             int64
	draining          bool
	idempotencyDomain string
	value             []string
}

// value returns the header value. Callers must not modify it.
func (r *loadReporter) value(draining bool) []string {
	conns, domain, last := r.conns.Load(), r.idempotencyDomain(), r.last.Load()
	if last != nil && last.conns == conns && last.draining == draining && last.idempotencyDomain == domain {
		return last.value
	}
	now := &loadReport{conns: conns, draining: draining, idempotencyDomain: domain, value: []string{r.format(conns, draining, domain)}}
	r.last.Store(now)
	return now.value
}

func (r *loadReporter) format(conns int64, draining bool, domain string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "concurrency=%d, target=%s, max=%s", max(minConnConcurrency, r.concurrency/int(max(conns, 1))), formatSeconds(r.target), formatSeconds(r.max))
	if r.zone != "" {
		fmt.Fprintf(&b, ", zone=%q", r.zone) // config allows no character that needs escaping
	}
	if domain != "" {
		fmt.Fprintf(&b, ", keys=%q", domain)
	}
	if draining {
		b.WriteString(", draining")
	}
	return b.String()
}

// formatSeconds formats d as a decimal with at most three fractional digits (RFC 9651 §3.3.2).
func formatSeconds(d time.Duration) string {
	return strconv.FormatFloat(d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// withLoadReport adds the load report to every response. While the gateway drains, it also makes
// clients connect elsewhere: it sets Connection: close, which net/http turns into GOAWAY for
// HTTP/2. Unlike SetKeepAlivesEnabled, this closes no idle connection, on which a request may be
// about to arrive.
func (g *Gateway) withLoadReport(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		draining := g.draining.Load()
		w.Header()[loadReportHeader] = g.loadReporter.value(draining)
		if draining {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
