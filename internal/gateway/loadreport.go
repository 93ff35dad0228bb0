// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// loadReportHeader is in every answer of the API: what the gateway grants its callers, as a dictionary (RFC 9651):
//
//	Sluice-Gateway: concurrency=512, target=1, max=25, zone="tokyo-a", keys="dkq1x8w2k3f4", draining
//
// concurrency is how many requests it would have in flight on this connection, target the seconds within which it means
// to answer and max those within which it always does, zone where it stands. keys is there where Idempotency-Keys are
// shared: at all gateways that say the same, calls with one key are one call. draining is there once it takes leave. One
// field, and not six: every answer pays for it. Nobody has to obey; client does.
const loadReportHeader = "Sluice-Gateway"

// minConnConcurrency is what a connection is granted in the thickest crowd.
const minConnConcurrency = 8

// loadReporter words the header. Its text changes with the number of callers, so it is made anew only then.
type loadReporter struct {
	zone              string
	idempotencyDomain func() string // with whom they are shared
	concurrency       int           // to be shared by all connections
	target, max       time.Duration

	conns atomic.Int64
	last  atomic.Pointer[loadReport]
}

// loadReport is the header's value for a number of connections.
type loadReport struct {
	conns             int64
	draining          bool
	idempotencyDomain string
	value             []string
}

// trackConn is an http.Server's ConnState.
func (s *loadReporter) trackConn(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.conns.Add(-1)
	}
}

// value returns the header's value. Nobody writes into it.
func (s *loadReporter) value(draining bool) []string {
	conns, keys, last := s.conns.Load(), s.idempotencyDomain(), s.last.Load()
	if last != nil && last.conns == conns && last.draining == draining && last.idempotencyDomain == keys {
		return last.value
	}
	now := &loadReport{conns: conns, draining: draining, idempotencyDomain: keys, value: []string{s.format(conns, draining, keys)}}
	s.last.Store(now)
	return now.value
}

func (s *loadReporter) format(conns int64, draining bool, keys string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "concurrency=%d, target=%s, max=%s", max(minConnConcurrency, s.concurrency/int(max(conns, 1))), formatSeconds(s.target), formatSeconds(s.max))
	if s.zone != "" {
		fmt.Fprintf(&b, ", zone=%q", s.zone) // config lets no character in that would need escaping
	}
	if keys != "" {
		fmt.Fprintf(&b, ", keys=%q", keys)
	}
	if draining {
		b.WriteString(", draining")
	}
	return b.String()
}

// formatSeconds writes d as a decimal, with at most three digits behind its point (RFC 9651 §3.3.2).
func formatSeconds(d time.Duration) string {
	return strconv.FormatFloat(d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// withLoadReport puts the signals into every answer. From a draining gateway it also tells each caller to connect elsewhere
// from then on: with HTTP/1.1 by Connection: close, of which net/http makes a GOAWAY with HTTP/2. Unlike
// SetKeepAlivesEnabled that closes no idle connection, on which the next request may just be on its way.
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
