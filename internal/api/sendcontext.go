// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// sendContext returns the context of a send that is cancelled when the client disconnects, which ends
// request: then it waits for nothing more. An attempt in flight goes on until its end, the timeout or
// the end of parent, so that the history has its result.
func sendContext(request, parent context.Context, timeout time.Duration) (send context.Context, cancel func()) {
	attempts, cancelAttempts := context.WithTimeout(parent, timeout)
	c := &sendCtx{Context: push.WithAttemptContext(attempts, attempts), request: request, cancelAttempts: cancelAttempts}
	return c, c.cancel
}

// sendCtx implements context.Context. It has the deadline and the values of the attempts, and ends
// earlier if request does. Most sends wait for nothing, so what observes request is made only when
// something calls Done.
type sendCtx struct {
	context.Context // of the attempts
	request         context.Context
	cancelAttempts  context.CancelFunc

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
	}
	return c.waits.Done()
}

func (c *sendCtx) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	return c.request.Err()
}

// cancel ends the context.
func (c *sendCtx) cancel() {
	c.cancelAttempts()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopWaiting != nil {
		c.stopWaiting()
	}
}
