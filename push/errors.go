// SPDX-License-Identifier: Apache-2.0

package push

import "errors"

// Errors of a queue or a history that mean that the call had no effect. After any other error it is
// unknown whether the call took effect.
var (
	// ErrQueueFull means that nothing was stored: the queue has reached its limit or its disk is
	// full.
	ErrQueueFull = errors.New("push: the queue is full")
	// ErrNotFound means that the app has no notification with this ID, or that all its events have
	// expired.
	ErrNotFound = errors.New("push: no notification of this app has this ID")
	// ErrCursorExpired means that events directly after the cursor have expired. A reader that
	// resumes at the cursor would miss them.
	ErrCursorExpired = errors.New("push: the cursor has expired: events after it are no longer stored")
	// ErrKeyReused means that the Idempotency-Key was used before with a different body.
	ErrKeyReused = errors.New("push: the Idempotency-Key was used before with a different body")
	// ErrKeyInUse means that an earlier call with the same Idempotency-Key did not finish in time.
	ErrKeyInUse = errors.New("push: an earlier call with this Idempotency-Key is still in progress")
	// ErrInvalidCursor means that the cursor is not one of this history's.
	ErrInvalidCursor = errors.New("push: not a cursor of this history")
)
