// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// tasks are background goroutines that end together.
type tasks struct {
	ctx    context.Context // of all tasks
	cancel context.CancelFunc

	mu    sync.Mutex // guards ended, and group against use after its end
	ended bool
	group errgroup.Group
}

func newTasks() *tasks {
	ctx, cancel := context.WithCancel(context.Background())
	return &tasks{ctx: ctx, cancel: cancel}
}

// start runs a task in a goroutine. It does nothing after the end.
func (t *tasks) start(run func(ctx context.Context) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.group.Go(func() error { return run(t.ctx) })
	}
}

// end ends the context, waits for all tasks, and returns the first error of a task.
func (t *tasks) end() error {
	t.cancel()
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	return t.group.Wait()
}
