// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"strings"
)

type traceKey struct{}

// TraceParent returns the W3C traceparent header of the request that ctx belongs to, or "" if it had none that is
// valid. It is for traces alone: nothing decides by it.
func TraceParent(ctx context.Context) string {
	parent, _ := ctx.Value(traceKey{}).(string)
	return parent
}

// traceParent reads the header by the rules of W3C Trace Context §3.2.2: version, trace-id and parent-id in lower-case
// hex, neither ID all zero, version ff forbidden, and more fields only in versions to come.
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

// isHex reports whether s is n lower-case hex digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
