// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sync"
)

// WorkerPool runs the sends of batches in goroutines that are reused. A new goroutine has to grow
// its stack on the way to an endpoint, which took a sixth of the total cost of a notification. The
// zero value is ready to use. Before Run starts and after it ends, each send gets a goroutine of
// its own.
type WorkerPool struct {
	workers sync.WaitGroup

	mu      sync.Mutex
	running bool
	idle    []chan task // last in, first out
}

// maxIdleWorkers limits the workers that wait for a task. Each holds about 8 KiB. Workers beyond
// that exit after their task.
const maxIdleWorkers = 1024

// Run keeps the workers until ctx ends, and returns when all of them have exited.
func (p *WorkerPool) Run(ctx context.Context) error {
	p.mu.Lock()
	p.running = true
	p.mu.Unlock()
	<-ctx.Done()
	p.stop()
	p.workers.Wait()
	return nil
}

func (p *WorkerPool) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	for _, tasks := range p.idle {
		close(tasks)
	}
	p.idle = nil
}

// submit starts the task. It does not wait for its end.
func (p *WorkerPool) submit(t task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.idle) - 1
	switch {
	case last >= 0:
		p.idle[last] <- t
		p.idle = p.idle[:last]
	case p.running:
		p.workers.Go(func() { p.work(t) })
	default:
		go t.run()
	}
}

// work runs tasks until enough other workers are idle.
func (p *WorkerPool) work(t task) {
	tasks := make(chan task, 1)
	for ok := true; ok; t, ok = <-tasks {
		t.run()
		if !p.parkIdle(tasks) {
			return
		}
	}
}

// parkIdle registers the worker as idle, unless enough others are.
func (p *WorkerPool) parkIdle(tasks chan task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running || len(p.idle) >= maxIdleWorkers {
		return false
	}
	p.idle = append(p.idle, tasks)
	return true
}

// task is the send of one notification of a batch.
type task struct {
	*batch
	job
	deadlineCtx context.Context
}

// run sends the notification and writes its receipt. A notification with a key may have to wait for
// an earlier request with the same key, which deadlineCtx must not limit.
func (t task) run() {
	defer t.running.Done()
	defer func() { <-t.slots }()
	t.runGuarded([]job{t.job}, func() {
		if t.key != "" {
			t.deliver(t.ctx, t.submission)
		} else {
			t.result.receipt = t.sender.Send(t.deadlineCtx, t.n)
		}
	})
}
