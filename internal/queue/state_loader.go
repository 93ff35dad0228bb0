// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"sync"
)

// stateLoader asks the journal how notifications stand, at once for all who came to ask while it was asking for others.
type stateLoader struct {
	journal Journal
	wake    chan struct{} // there is a question

	mu   sync.Mutex
	next *stateBatch // nil while nobody waits
}

// stateBatch is one call of the journal's.
type stateBatch struct {
	ids    []string
	done   chan struct{} // closed when there is an answer
	states map[string]State
	err    error
}

func newStateLoader(j Journal) *stateLoader {
	return &stateLoader{journal: j, wake: make(chan struct{}, 1)}
}

// load tells how a notification stands, no earlier than when it was called. run has to run.
func (a *stateLoader) load(ctx context.Context, id string) (State, error) {
	q := a.enqueue(id)
	select {
	case a.wake <- struct{}{}:
	default:
	}
	select {
	case <-q.done:
		return q.states[id], q.err
	case <-ctx.Done():
		return State{}, ctx.Err()
	}
}

// enqueue adds id to the next question.
func (a *stateLoader) enqueue(id string) *stateBatch {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		a.next = &stateBatch{done: make(chan struct{})}
	}
	a.next.ids = append(a.next.ids, id)
	return a.next
}

// run asks until done is closed.
func (a *stateLoader) run(ctx context.Context, done <-chan struct{}) {
	for {
		select {
		case <-a.wake:
			a.flush(ctx)
		case <-done:
			return
		}
	}
}

func (a *stateLoader) flush(ctx context.Context) {
	a.mu.Lock()
	q := a.next
	a.next = nil
	a.mu.Unlock()
	if q == nil {
		return
	}
	states, err := a.journal.States(ctx, q.ids)
	if err != nil {
		err = fmt.Errorf("queue: %w", err)
	}
	q.states, q.err = states, err
	close(q.done)
}
