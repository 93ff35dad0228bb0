// SPDX-License-Identifier: Apache-2.0

// Package panics turns panics of background work into errors, so that a bug in the work for one app
// does not end the process.
package panics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"
)

// The wait before work that panicked runs again. It doubles with each panic, and starts again after
// work has run for maxDelay.
const minDelay, maxDelay = time.Second, time.Minute

// Error is a panic. A panic's value can contain secrets: the text is that of a runtime error, or
// else the type of the value.
type Error struct{ text string }

// Error returns "panicked: " and the text.
func (e *Error) Error() string { return "panicked: " + e.text }

// Recover calls work. If work panics, Recover logs the task with the stack and returns an *Error.
func Recover(log *slog.Logger, task string, work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e := &Error{fmt.Sprintf("%T", p)}
			if runtimeErr, ok := p.(runtime.Error); ok {
				e.text = runtimeErr.Error()
			}
			log.Error("background task panicked, please report this bug", "task", task, "err", e, "stack", string(debug.Stack()))
			err = e
		}
	}()
	return work()
}

// Restart calls work as Recover does. After a panic it waits and calls work again, until ctx ends.
func Restart(ctx context.Context, log *slog.Logger, task string, work func(context.Context) error) error {
	delay := minDelay
	for {
		started := time.Now()
		err := Recover(log, task, func() error { return work(ctx) })
		if _, panicked := errors.AsType[*Error](err); !panicked {
			return err
		}
		if time.Since(started) >= maxDelay {
			delay = minDelay
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil
		}
		delay = min(2*delay, maxDelay)
	}
}
