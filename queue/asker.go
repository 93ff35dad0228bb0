// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"sync"
)

// asker asks the journal how notifications stand, at once for all who came to ask while it was asking for others.
type asker struct {
	journal Journal
	wake    chan struct{} // there is a question

	mu   sync.Mutex
	next *question // nil while nobody waits
}

// question is one call of the journal's.
type question struct {
	ids    []string
	done   chan struct{} // closed when there is an answer
	states map[string]State
	err    error
}

func newAsker(j Journal) *asker { return &asker{journal: j, wake: make(chan struct{}, 1)} }

// state tells how a notification stands, no earlier than when it was called. run has to run.
func (a *asker) state(ctx context.Context, id string) (State, error) {
	q := a.join(id)
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

// join adds id to the next question.
func (a *asker) join(id string) *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		a.next = &question{done: make(chan struct{})}
	}
	a.next.ids = append(a.next.ids, id)
	return a.next
}

// run asks until done is closed.
func (a *asker) run(ctx context.Context, done <-chan struct{}) {
	for {
		select {
		case <-a.wake:
			a.ask(ctx)
		case <-done:
			return
		}
	}
}

func (a *asker) ask(ctx context.Context) {
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
