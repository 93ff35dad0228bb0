// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
)

// sendContext returns the context of a send that is cancelled when the client disconnects, which ends
// request: then it waits for nothing more. An attempt in flight goes on until its end or the end of
// timeout, so that the history has its result. The caller calls cancel when the send has returned.
func sendContext(request, timeout context.Context) *sendCtx {
	c := &sendCtx{request: request, attempts: attemptCtx{timeout, request}}
	c.Context = push.WithAttemptContext(&c.attempts, &c.attempts)
	return c
}

// sendCtx implements context.Context. It has the deadline and the values of the attempts, and ends
// earlier if request does. Most sends wait for nothing, so what observes request is made only when
// something calls Done.
type sendCtx struct {
	context.Context // of the attempts
	attempts        attemptCtx
	request         context.Context
	returned        atomic.Bool

	mu          sync.Mutex
	waits       context.Context // nil before the first Done
	stopWaiting func()
}

func (c *sendCtx) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits == nil {
		waits, cancel := context.WithCancel(c.Context)
		stop := context.AfterFunc(c.request, cancel)
		c.waits, c.stopWaiting = waits, func() { stop(); cancel() }
		if c.returned.Load() {
			cancel()
		}
	}
	return c.waits.Done()
}

func (c *sendCtx) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if c.returned.Load() {
		return context.Canceled
	}
	return c.request.Err()
}

// cancel ends the context.
func (c *sendCtx) cancel() {
	c.returned.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopWaiting != nil {
		c.stopWaiting()
	}
}

// attemptCtx has the values of one context and the end of another. Package context finds the latter
// with Value, to add children without a goroutine.
type attemptCtx struct {
	context.Context
	values context.Context
}

func (c *attemptCtx) Value(key any) any {
	if value := c.Context.Value(key); value != nil {
		return value
	}
	return c.values.Value(key)
}

// sharedTimeout makes contexts with a timeout. Those that are made soon after each other are one
// context with one timer.
type sharedTimeout struct{ last atomic.Pointer[timeoutCtx] }

type timeoutCtx struct {
	context.Context
	created time.Time
}

// context returns a context that ends with parent, or after timeout, or up to 1/256 of it earlier: by
// default, a tenth of a second. parent and timeout are the same for all calls.
func (s *sharedTimeout) context(parent context.Context, timeout time.Duration) context.Context {
	last, now := s.last.Load(), time.Now()
	if last == nil || now.Sub(last.created) > timeout/256 {
		ctx, cancel := context.WithTimeout(parent, timeout)
		_ = cancel // other calls use the context
		last = &timeoutCtx{ctx, now}
		s.last.Store(last)
	}
	return last.Context
}

// timeoutContext returns a context that ends after timeout. The caller calls stop when it needs the
// context no longer.
func (s *server) timeoutContext(timeout time.Duration) (ctx context.Context, stop func()) {
	if timeout < s.limits.SendTimeout {
		return context.WithTimeout(context.Background(), timeout)
	}
	return s.timeout.context(context.Background(), timeout), func() {}
}
