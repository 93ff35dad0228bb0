// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Reasons of an Error. The providers' error tables list the same codes.
const (
	BreakerOpen = "BREAKER_OPEN"     // FailFast is set, and all remaining endpoints are ejected
	NoEndpoint  = "NO_ENDPOINT"      // no endpoint is live, or they cannot be reached for several reasons
	QueueFull   = "LOCAL_QUEUE_FULL" // all endpoints were at their limit until the context ended
)

// Error reports why Pick returned no lease. Nothing was sent, and no endpoint is at fault.
// push.NoResponse maps it to Unsent, or to Abandoned if the caller's context was canceled.
type Error struct {
	Pool   string
	Reason string // BreakerOpen, NoEndpoint, QueueFull, or a wire.Reason why no endpoint can be reached
	Err    error  // the context's error, or an explanation
	// Detail says in words why no endpoint can be reached, and RetryAfter is the time until the next
	// dial. Both are zero if some endpoint can be reached.
	Detail     string
	RetryAfter time.Duration

	permanent bool // waiting does not help, because the configuration of one side is wrong
}

// push.NoResponse finds these methods with errors.As, so a changed signature would compile and turn
// every such outcome into Unknown.
var (
	_ push.TransportError = (*Error)(nil)
	_ push.TransportError = (*wire.Error)(nil)
)

func (p *Pool) errorf(reason string, err error) *Error {
	return &Error{Pool: p.cfg.Name, Reason: reason, Err: err}
}

// Error returns the pool, the reason and the underlying error.
func (e *Error) Error() string {
	s := "pool " + e.Pool + ": " + e.Reason
	if !errors.Is(e.Err, context.Canceled) && !errors.Is(e.Err, context.DeadlineExceeded) {
		return s + ": " + e.Err.Error()
	}
	s += " until the context ended (GET /v1/status shows every endpoint): " + e.Err.Error()
	if e.Detail != "" {
		s += "; " + e.Detail
	}
	return s
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// Unprocessed returns true: nothing was sent.
func (e *Error) Unprocessed() bool { return true }

// EndpointFault returns false: no endpoint was contacted.
func (e *Error) EndpointFault() bool { return false }

// Code returns the reason.
func (e *Error) Code() string { return e.Reason }
