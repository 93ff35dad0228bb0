// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
)

// The reasons of an Error, as the providers' tables spell them.
const (
	BreakerOpen = "BREAKER_OPEN"     // FailFast, and all that is left is ejected
	NoEndpoint  = "NO_ENDPOINT"      // none is live
	QueueFull   = "LOCAL_QUEUE_FULL" // all were at their cap until the caller's time was up
)

// Error is why there was no lease. Nothing was sent, and no endpoint is to
// blame for it: push.NoAnswer makes Unsent of it, or Abandoned if the caller
// left.
type Error struct {
	Pool   string
	Reason string // BreakerOpen, NoEndpoint or QueueFull
	Err    error  // the context's error, or more words
}

func (p *Pool) errorf(reason string, err error) *Error {
	return &Error{Pool: p.cfg.Name, Reason: reason, Err: err}
}

// Error names the pool, the reason and the cause.
func (e *Error) Error() string {
	s := "pool " + e.Pool + ": " + e.Reason
	switch {
	case errors.Is(e.Err, context.Canceled), errors.Is(e.Err, context.DeadlineExceeded):
		return s + " until the caller's time was up (GET /v1/status shows every endpoint): " + e.Err.Error()
	default:
		return s + ": " + e.Err.Error()
	}
}

// Unwrap returns the cause, so that errors.Is finds a context's error.
func (e *Error) Unwrap() error { return e.Err }

// Unprocessed reports true: nothing was sent.
func (e *Error) Unprocessed() bool { return true }

// EndpointFault reports false: no endpoint was asked.
func (e *Error) EndpointFault() bool { return false }

// Code returns the reason.
func (e *Error) Code() string { return e.Reason }
