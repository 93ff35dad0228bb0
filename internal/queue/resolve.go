// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/push"
)

// acceptance is a group of tasks that Accept could not store completely: of each, the event that it
// is accepted may be in the journal, and the task in its stream.
type acceptance struct {
	tasks   []*task
	written bool      // the write of the tasks was started
	before  [2]uint64 // the last sequence of each stream before that

	resolved chan struct{}   // closed when stored is set
	stored   map[string]bool // IDs of the tasks that will be sent
	then     []func()        // called after that
}

// wait waits until a is resolved or ctx ends.
func (a *acceptance) wait(ctx context.Context) {
	select {
	case <-a.resolved:
	case <-ctx.Done():
	}
}

// isStored reports whether a task is known to be stored.
func (a *acceptance) isStored(id string) bool {
	select {
	case <-a.resolved:
		return a.stored[id]
	default:
		return false
	}
}

// resolveLater passes a to runResolvers. Until it is resolved, Confirm waits for it.
func (q *clusterQueue) resolveLater(a *acceptance) {
	a.resolved = make(chan struct{})
	q.mu.Lock()
	for _, t := range a.tasks {
		q.unresolved[t.ID] = a
	}
	q.mu.Unlock()
	select {
	case q.toResolve <- a:
	case <-q.stopped: // the next process finds the events without tasks
	}
}

// runResolvers resolves acceptances until ctx ends.
func (q *clusterQueue) runResolvers(ctx context.Context) error {
	var resolvers errgroup.Group
	for {
		select {
		case a := <-q.toResolve:
			resolvers.Go(func() error {
				return panics.Restart(ctx, q.cfg.Logger, "search for tasks after a failed write", func(ctx context.Context) error {
					q.resolve(ctx, a)
					return nil
				})
			})
		case <-ctx.Done():
			close(q.stopped)
			return resolvers.Wait()
		}
	}
}

// resolve finds out which tasks were stored, and cancels the others: their events are in the
// journal, but they will not be sent. It retries until ctx ends.
func (q *clusterQueue) resolve(ctx context.Context, a *acceptance) {
	for q.tryResolve(ctx, a) != nil {
		if !sleep.For(ctx, retryInterval) {
			return
		}
	}
	q.mu.Lock()
	for _, t := range a.tasks {
		if q.unresolved[t.ID] == a {
			delete(q.unresolved, t.ID)
		}
	}
	q.mu.Unlock()
	close(a.resolved)
	for _, f := range a.then {
		f()
	}
}

// AfterResolved implements backend.
func (q *clusterQueue) AfterResolved(id string, f func()) {
	q.mu.Lock()
	a := q.unresolved[id]
	if a != nil {
		a.then = append(a.then, f)
	}
	q.mu.Unlock()
	if a == nil {
		f()
	}
}

// tryResolve waits until the engine is writable: by then a write in progress has either happened or
// will not happen. A task that is not in its stream is cancelled. If it arrives there nevertheless,
// the order of the journal decides between its cancellation and its first attempt. In a cluster, the
// event that it is accepted may arrive later, too, and has no effect after the cancellation.
func (q *clusterQueue) tryResolve(ctx context.Context, a *acceptance) error {
	if err := q.cfg.Engine.Writable(); err != nil {
		return err
	}
	found := map[string]bool{}
	if a.written {
		// In this order, because a task may move from the first stream to the second.
		for i, handle := range []*streamHandle{q.tasks, q.scheduled} {
			err := handle.forEachTask(ctx, a.before[i], func(id string, _ []byte) error {
				found[id] = true
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	ids := make([]string, len(a.tasks))
	for i, t := range a.tasks {
		ids[i] = t.ID
	}
	states, err := q.cfg.latestStates(ctx, ids)
	if err != nil {
		return err
	}
	var cancelled []push.Event
	for _, t := range a.tasks {
		status := states[t.ID].Status
		if !found[t.ID] && (isWaiting(status) || status == "" && !q.cfg.Engine.Embedded()) {
			cancelled = append(cancelled, notStoredEvent(t))
		}
	}
	if len(cancelled) > 0 {
		if _, err := q.cfg.Journal.Append(ctx, cancelled...); err != nil {
			return err
		}
		if states, err = q.cfg.latestStates(ctx, ids); err != nil {
			return err
		}
	}
	a.stored = map[string]bool{}
	for id, s := range states {
		a.stored[id] = s.Status != "" && s.Status != push.StatusCancelled
	}
	return nil
}

// latestStates returns the states after all events that are in the journal at the time of the call.
func (c *Config) latestStates(ctx context.Context, ids []string) (map[string]State, error) {
	if err := c.Journal.WaitCaughtUp(ctx); err != nil {
		return nil, err
	}
	return c.Journal.States(ctx, ids)
}

// notStoredEvent cancels a task that was not stored. It does not carry the Idempotency-Key, which
// another notification may have by now.
func notStoredEvent(t *task) push.Event {
	e := t.newEvent(push.StatusCancelled, time.Now().UTC())
	e.KeyHash, e.BodyHash, e.Tags = nil, nil, t.Notification.Tags
	e.Receipt = &push.Receipt{ID: t.ID, State: push.StatusCancelled, Outcome: push.Outcome{Reason: push.ReasonNotStored}}
	return e
}

// forEachTask calls f with the IDs and texts of the tasks in messages after seq, up to the end of the
// stream, until f returns an error.
func (s *streamHandle) forEachTask(ctx context.Context, seq uint64, f func(id string, data []byte) error) error {
	for {
		m, err := s.stream.GetMsg(ctx, seq+1, natsjs.WithGetMsgSubject(">"))
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		seq = m.Sequence
		for _, data := range jetstream.Items(m.Data) {
			if id, ok := taskID(data); ok {
				if err := f(id, data); err != nil {
					return err
				}
			}
		}
	}
}
