// SPDX-License-Identifier: Apache-2.0

package push

import "errors"

// What a queue or a history says instead of doing what it was asked. Any other error of theirs means that it is not known
// whether it was done.
var (
	// ErrQueueFull means that nothing was kept, because the queue has reached its bound or its disk is full.
	ErrQueueFull = errors.New("push: the queue is full")
	// ErrNotFound means that no notification of this app has this ID, or that all of its events are forgotten.
	ErrNotFound = errors.New("push: no notification of this app has this ID")
	// ErrCursorExpired means that events right behind a cursor are forgotten, so that whoever reads on from there misses some.
	ErrCursorExpired = errors.New("push: the events behind this cursor are forgotten")
	// ErrKeyReused means that an Idempotency-Key came with another body before.
	ErrKeyReused = errors.New("push: the Idempotency-Key came with another body before")
	// ErrKeyInUse means that another call with an Idempotency-Key has not ended in time.
	ErrKeyInUse = errors.New("push: another call with the Idempotency-Key has not ended yet")
	// ErrInvalidCursor means that a cursor is none of this history's.
	ErrInvalidCursor = errors.New("push: not a cursor of this history")
)
