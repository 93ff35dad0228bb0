// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Error says why there is no verdict on a notification, or why a call failed. The receipt returned
// with it has the verdict: if it is push.Unknown, the notification may have been sent; otherwise it
// was not delivered. An Error contains no secret.
type Error struct {
	// Type is the last part of the problem type in the gateway's API: invalid-field, throttled,
	// unauthorized, unavailable, unknown, unauthenticated, … It is stable.
	Type string
	// Status is the HTTP status, or 0 if no gateway responded.
	Status int
	// Title and Detail are for humans: the kind of problem, and what to do or what is allowed.
	Title, Detail string
	// Field is the path of the notification's invalid field, or empty.
	Field string
	// RequestID identifies the request in the gateway's log.
	RequestID string
	// RetryAfter is how long to wait before another call; 0 if waiting does not help or the time is
	// unknown.
	RetryAfter time.Duration
	// Attempts are the attempts at gateways, in order.
	Attempts []push.Attempt
}

// Error returns the type, the field and the detail.
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

// reasonNoGateway is the reason of a receipt for a response that does not come from a gateway.
const reasonNoGateway = "NO_GATEWAY"

var errNeedsGateway = errors.New("client: this needs a gateway with a queue; a client made by Direct has none")

// problemTypes maps verdicts to problem types, for receipts without a problem document.
var problemTypes = map[push.Verdict]string{
	push.Refused: "invalid-field", push.Throttled: "throttled", push.Unauthorized: "unauthorized",
	push.Unknown: "unknown", push.Unsent: "unavailable", push.Unavailable: "unavailable", push.Abandoned: "abandoned",
}

// advice is the detail for verdicts without one.
var advice = map[push.Verdict]string{
	push.Throttled: "send it again after RetryAfter", push.Unauthorized: "the operator must check the app's key or certificate",
	push.Unknown: "sending it again may display it twice; set OnUnknown to let the gateways repeat it", push.Unsent: "send it again later",
	push.Unavailable: "send it again later", push.Abandoned: "the context was cancelled",
}

// errorFor returns why r has no verdict on the notification, or nil if it has one. The gateway uses
// the same rule to choose between status 200 and an error status.
func errorFor(r push.Receipt, attempts []push.Attempt) error {
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
		Type: problemTypes[r.Verdict], Field: r.Field, Detail: cmp.Or(r.Detail, detail), RetryAfter: r.RetryAfter, Attempts: attempts,
	}
}
