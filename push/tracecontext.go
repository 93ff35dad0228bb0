// SPDX-License-Identifier: Apache-2.0

package push

import "strings"

// TraceContext says to which trace a notification belongs (W3C Trace Context). It identifies the span
// of the call that the notification came with. The zero value is that of a notification without one.
type TraceContext struct {
	// TraceParent is the header traceparent, version 00, or empty.
	TraceParent string `json:"traceparent,omitempty"`
	// TraceState is the header tracestate, which belongs to TraceParent.
	TraceState string `json:"tracestate,omitempty"`
}

// The positions of the fields in a traceparent of version 00.
const (
	traceIDStart, traceIDEnd = 3, 35
	traceParentLength        = 55
)

// TraceID returns the ID of the trace, 32 hex digits, or "" if there is none.
func (t *TraceContext) TraceID() string {
	if len(t.TraceParent) < traceParentLength {
		return ""
	}
	return t.TraceParent[traceIDStart:traceIDEnd]
}

// Sampled reports whether the spans of the trace are recorded.
func (t *TraceContext) Sampled() bool {
	return len(t.TraceParent) >= traceParentLength && strings.IndexByte("13579bdf", t.TraceParent[traceParentLength-1]) >= 0
}

// ParseTraceParent returns a traceparent as version 00, or "" if it is invalid by W3C Trace Context
// §3.2.2: version, trace-id and parent-id are lower-case hex, neither ID is all zero, the version is not
// ff, and only later versions than 00 have more fields. An intermediary sends a later version on as the
// version that it knows.
func ParseTraceParent(text string) string {
	if len(text) < traceParentLength || len(text) > 128 {
		return ""
	}
	head, more := text[:traceParentLength], text[traceParentLength:]
	version, id, span, flags := head[:2], head[traceIDStart:traceIDEnd], head[36:52], head[53:]
	switch {
	case head[2] != '-' || head[35] != '-' || head[52] != '-' || version == "ff":
		return ""
	case more != "" && (version == "00" || more[0] != '-'):
		return ""
	case !isLowerHex(version) || !isLowerHex(id) || !isLowerHex(span) || !isLowerHex(flags):
		return ""
	case strings.Trim(id, "0") == "" || strings.Trim(span, "0") == "":
		return ""
	case version == "00":
		return text
	}
	return "00" + head[2:]
}

// isLowerHex reports whether s consists of hex digits in lower case.
func isLowerHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// maxTraceState is the size of a tracestate that must at least be passed on (W3C Trace Context §3.3.1.1).
const maxTraceState = 512

// ParseTraceState returns the value of the header tracestate, which can have several lines, or "" if it
// is too long or has other characters than visible ASCII, spaces and tabs.
func ParseTraceState(lines []string) string {
	text := ""
	switch len(lines) {
	case 0:
	case 1:
		text = lines[0]
	default:
		text = strings.Join(lines, ",")
	}
	if len(text) > maxTraceState || strings.ContainsFunc(text, func(c rune) bool { return c != '\t' && (c < ' ' || c > '~') }) {
		return ""
	}
	return text
}
