// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"sync"
)

// Crew is goroutines that send the notifications of batches and outlive them. A new goroutine has to grow its stack on
// the way to an endpoint, which cost a sixth of all that a notification costs; one of the crew has grown it before. The
// zero value is ready; until Run runs, and after, everything has a goroutine of its own.
type Crew struct {
	staff sync.WaitGroup

	mu   sync.Mutex
	open bool
	idle []chan errand // the last to have come is the first to go
}

// mostIdle is how many wait for work, of some 8 KiB each. More than that come and go.
const mostIdle = 1024

// Run keeps the crew together until ctx ends, and returns when all of it have gone.
func (c *Crew) Run(ctx context.Context) error {
	c.mu.Lock()
	c.open = true
	c.mu.Unlock()
	<-ctx.Done()
	c.dismiss()
	c.staff.Wait()
	return nil
}

func (c *Crew) dismiss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = false
	for _, next := range c.idle {
		close(next)
	}
	c.idle = nil
}

// send has one of the crew do the errand. It does not wait for its end.
func (c *Crew) send(e errand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.idle) - 1
	switch {
	case last >= 0:
		c.idle[last] <- e
		c.idle = c.idle[:last]
	case c.open:
		c.staff.Go(func() { c.serve(e) })
	default:
		go e.do()
	}
}

// serve does one errand after the other, until there are enough others who wait for one.
func (c *Crew) serve(e errand) {
	next := make(chan errand, 1)
	for ok := true; ok; e, ok = <-next {
		e.do()
		if !c.rest(next) {
			return
		}
	}
}

// rest waits for work, unless enough others do.
func (c *Crew) rest(next chan errand) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open || len(c.idle) >= mostIdle {
		return false
	}
	c.idle = append(c.idle, next)
	return true
}

// errand is a notification of a batch on its way.
type errand struct {
	*batch
	job
	within context.Context
}

// do carries it to its end. One with a key may have to wait for the end of another, which is not for within to bound.
func (e errand) do() {
	defer e.busy.Done()
	defer func() { <-e.places }()
	ctx := e.within
	if e.key != "" {
		ctx = e.ctx
	}
	e.guarded([]job{e.job}, func() { e.carry(ctx, e.order) })
}
