// SPDX-License-Identifier: Apache-2.0

package client

import (
	"strconv"
	"strings"
	"time"
)

// loadReport are what a gateway tells of itself in the header Sluice-Gateway; zero is what it does not tell.
type loadReport struct {
	concurrency       int           // requests that it grants this connection
	maxDuration       time.Duration // within which it always answers
	zone              string
	idempotencyDomain string // whom it shares its Idempotency-Keys with
	draining          bool   // it takes its leave
	raw               string // as it was written
}

const loadReportHeader = "sluice-gateway"

// parseLoadReport reads the header: a dictionary (RFC 9651), of which gateways use numbers, plain strings and flags. What it
// does not know it passes over.
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

// seconds reads a decimal; what is no sensible time is none.
func seconds(text string) time.Duration {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0 && v < 1e6) {
		return 0
	}
	return time.Duration(v * float64(time.Second))
}
