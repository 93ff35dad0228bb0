// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sync"
)

// WorkerPool is goroutines that send the notifications of batches and outlive them. A new goroutine has to grow its stack on
// the way to an endpoint, which cost a sixth of all that a notification costs; one of the crew has grown it before. The
// zero value is ready; until Run runs, and after, everything has a goroutine of its own.
type WorkerPool struct {
	workers sync.WaitGroup

	mu      sync.Mutex
	running bool
	idle    []chan task // the last to have come is the first to go
}

// maxIdleWorkers is how many wait for work, of some 8 KiB each. More than that come and go.
const maxIdleWorkers = 1024

// Run keeps the crew together until ctx ends, and returns when all of it have gone.
func (c *WorkerPool) Run(ctx context.Context) error {
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	<-ctx.Done()
	c.stop()
	c.workers.Wait()
	return nil
}

func (c *WorkerPool) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
	for _, next := range c.idle {
		close(next)
	}
	c.idle = nil
}

// submit has one of the crew do the errand. It does not wait for its end.
func (c *WorkerPool) submit(e task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.idle) - 1
	switch {
	case last >= 0:
		c.idle[last] <- e
		c.idle = c.idle[:last]
	case c.running:
		c.workers.Go(func() { c.work(e) })
	default:
		go e.run()
	}
}

// work does one errand after the other, until there are enough others who wait for one.
func (c *WorkerPool) work(e task) {
	next := make(chan task, 1)
	for ok := true; ok; e, ok = <-next {
		e.run()
		if !c.parkIdle(next) {
			return
		}
	}
}

// parkIdle waits for work, unless enough others do.
func (c *WorkerPool) parkIdle(next chan task) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running || len(c.idle) >= maxIdleWorkers {
		return false
	}
	c.idle = append(c.idle, next)
	return true
}

// task is a notification of a batch on its way.
type task struct {
	*batch
	job
	deadlineCtx context.Context
}

// run carries it to its end. One with a key may have to wait for the end of another, which is not for within to bound.
func (e task) run() {
	defer e.running.Done()
	defer func() { <-e.slots }()
	ctx := e.deadlineCtx
	if e.key != "" {
		ctx = e.ctx
	}
	e.runGuarded([]job{e.job}, func() { e.deliver(ctx, e.submission) })
}
