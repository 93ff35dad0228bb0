// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"strings"
)

type traceKey struct{}

// TraceParent returns the W3C traceparent header of the request that ctx belongs to, or "" if there
// is none or it is invalid. Use it only for traces and logs.
func TraceParent(ctx context.Context) string {
	parent, _ := ctx.Value(traceKey{}).(string)
	return parent
}

// traceParent returns the header if it is valid by W3C Trace Context §3.2.2: version, trace-id and
// parent-id are lower-case hex, neither ID is all zero, the version is not ff, and only later
// versions than 00 have more fields.
func traceParent(r *http.Request) string {
	parent := r.Header.Get("Traceparent")
	if parent == "" || len(parent) > 128 {
		return ""
	}
	part := strings.Split(parent, "-")
	if len(part) < 4 || (part[0] == "00" && len(part) != 4) || part[0] == "ff" {
		return ""
	}
	if !isHex(part[0], 2) || !isHex(part[1], 32) || !isHex(part[2], 16) || !isHex(part[3], 2) {
		return ""
	}
	if strings.Trim(part[1], "0") == "" || strings.Trim(part[2], "0") == "" {
		return ""
	}
	return parent
}

// isHex reports whether s consists of n lower-case hex digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
