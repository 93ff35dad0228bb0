// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/sluice-push/sluice/internal/panics"
)

// stateLoader reads states from the journal. It combines the calls that arrive during one read into
// the next.
type stateLoader struct {
	journal Journal
	log     *slog.Logger
	wake    chan struct{} // receives a value when next is set

	mu   sync.Mutex
	next *stateBatch // nil if no call waits
}

// stateBatch is one call of Journal.States.
type stateBatch struct {
	ids    []string
	done   chan struct{} // closed when states or err is set
	states map[string]State
	err    error
}

func newStateLoader(j Journal, log *slog.Logger) *stateLoader {
	return &stateLoader{journal: j, log: log, wake: make(chan struct{}, 1)}
}

// load returns the state of a notification at the time of the call or later. It blocks unless run
// is running.
func (l *stateLoader) load(ctx context.Context, id string) (State, error) {
	b := l.enqueue(id)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	select {
	case <-b.done:
		return b.states[id], b.err
	case <-ctx.Done():
		return State{}, ctx.Err()
	}
}

// enqueue adds id to the next batch.
func (l *stateLoader) enqueue(id string) *stateBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.next = &stateBatch{done: make(chan struct{})}
	}
	l.next.ids = append(l.next.ids, id)
	return l.next
}

// run reads batches until done is closed.
func (l *stateLoader) run(ctx context.Context, done <-chan struct{}) {
	for {
		select {
		case <-l.wake:
			l.flush(ctx)
		case <-done:
			return
		}
	}
}

func (l *stateLoader) flush(ctx context.Context) {
	l.mu.Lock()
	b := l.next
	l.next = nil
	l.mu.Unlock()
	if b == nil {
		return
	}
	err := panics.Recover(l.log, "states of queued notifications", func() (err error) {
		b.states, err = l.journal.States(ctx, b.ids)
		return err
	})
	if err != nil {
		b.err = fmt.Errorf("queue: %w", err)
	}
	close(b.done)
}
