// SPDX-License-Identifier: Apache-2.0

package client

import (
	"strconv"
	"strings"
	"time"
)

// loadReport is what a gateway reports about itself in the header Sluice-Gateway. Absent values are
// zero.
type loadReport struct {
	concurrency       int           // concurrent requests granted to this connection
	maxDuration       time.Duration // maximum response time
	zone              string
	idempotencyDomain string // gateways with the same value share their Idempotency-Keys
	draining          bool   // the gateway will stop and gets no new requests
	raw               string // the header value
}

const loadReportHeader = "sluice-gateway"

// parseLoadReport parses the header: a dictionary (RFC 9651) of numbers, strings without escapes,
// and flags. It ignores unknown members.
func parseLoadReport(text string) (s loadReport) {
	s.raw = text
	for member := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(member), "=")
		switch name {
		case "concurrency":
			s.concurrency, _ = strconv.Atoi(value)
		case "max":
			s.maxDuration = seconds(value)
		case "zone":
			s.zone = strings.Trim(value, `"`)
		case "keys":
			s.idempotencyDomain = strings.Trim(value, `"`)
		case "draining":
			s.draining = value == "" || value == "?1"
		}
	}
	return s
}

// seconds parses a decimal number of seconds. Invalid values are zero.
func seconds(text string) time.Duration {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0 && v < 1e6) {
		return 0
	}
	return time.Duration(v * float64(time.Second))
}
