// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Error is why there is no verdict on a notification, or why nothing could be asked at all. The receipt that comes with it
// has the verdict: with push.Unknown it may have been sent, with all others it was not. Nothing in it is secret.
type Error struct {
	// Type names the sort of problem, as the end of the type in the gateways' contract: invalid-field, throttled,
	// unauthorized, unavailable, unknown, unauthenticated, … It never changes.
	Type string
	// Status is the HTTP status, or 0 where no gateway gave an answer.
	Status int
	// Title and Detail are for people: what it is, and what to do or what is allowed.
	Title, Detail string
	// Field is the path of the notification's field that is not allowed, or empty.
	Field string
	// RequestID finds the call in the gateway's log.
	RequestID string
	// RetryAfter is how long to stay away; 0 where waiting does not help or nobody said.
	RetryAfter time.Duration
	// Attempts are the gateways that were asked, in order.
	Attempts []push.Attempt
}

// Error names the sort, the field, and what to do.
func (e *Error) Error() string {
	s := "client: " + e.Type
	if e.Field != "" {
		s += ": " + e.Field
	}
	if detail := cmp.Or(e.Detail, e.Title); detail != "" {
		s += ": " + strings.TrimPrefix(detail, e.Field+": ")
	}
	return s
}

// reasonNoGateway is the reason of a receipt that no gateway wrote.
const reasonNoGateway = "NO_GATEWAY"

var errNeedsGateway = errors.New("client: this needs a gateway with a queue; a client made by Direct has none")

// problemTypes are the types of the problems that a receipt alone tells.
var problemTypes = map[push.Verdict]string{
	push.Refused: "invalid-field", push.Throttled: "throttled", push.Unauthorized: "unauthorized",
	push.Unknown: "unknown", push.Unsent: "unavailable", push.Unavailable: "unavailable", push.Abandoned: "abandoned",
}

// advice says what to do with each of them.
var advice = map[push.Verdict]string{
	push.Throttled: "send it again after RetryAfter", push.Unauthorized: "the operator has to look at the app's key or certificate",
	push.Unknown: "sending it again may show it twice; OnUnknown lets the gateways decide", push.Unsent: "send it again later",
	push.Unavailable: "send it again later", push.Abandoned: "the context was cancelled",
}

// errorFor returns why r holds no verdict on the notification, or nil if it does: the same line that the gateways draw
// between 200 and the rest.
func errorFor(r push.Receipt, asked []push.Attempt) error {
	switch {
	case !r.IsFinal(), r.Verdict == push.Accepted, r.Verdict == push.Unregistered, r.Verdict == push.Expired, r.State == push.StatusCancelled,
		r.Verdict == push.Refused && len(r.Attempts) > 0:
		return nil
	}
	detail := advice[r.Verdict]
	if r.Reason != "" && detail != "" {
		detail = r.Reason + ": " + detail
	}
	return &Error{
		Type: problemTypes[r.Verdict], Field: r.Field, Detail: cmp.Or(r.Detail, detail), RetryAfter: r.RetryAfter, Attempts: asked,
	}
}
