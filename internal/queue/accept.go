// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/push"
)

// acceptTimeout bounds one call of Accept. It is far below the default of Config.SettleTime.
const acceptTimeout = time.Minute

// Accept stores notifications and returns one error for each, nil if it is on disk. Their ID, App
// and AcceptedAt must be set. A *push.FieldError means that the notification is invalid,
// push.ErrQueueFull that the queue is full: neither is stored. After any other error the
// notification may or may not be stored: Confirm finds out.
//
// Accept writes the events that the notifications are accepted, with their Idempotency-Keys, before
// their tasks. So every task has its event and its key in the journal, whenever the process dies. An
// event whose task was not written is ended by resolve or recover.
func (q *clusterQueue) Accept(ctx context.Context, ns []*push.Notification) []error {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	errs := make([]error, len(ns))
	if ctx.Err() != nil { // the claims of the keys have taken all the time
		for i := range errs {
			errs[i] = fmt.Errorf("queue: %w", ctx.Err())
		}
		return errs
	}
	groups := q.groupByDestination(ns, errs)
	defer q.admit(ctx, groups, errs)()
	if !q.recordAccepted(ctx, groups, errs) {
		return errs
	}
	var wg sync.WaitGroup
	for _, g := range groups {
		if len(groups) == 1 {
			q.appendGroup(ctx, g, errs)
			break
		}
		wg.Go(func() { q.appendGroup(ctx, g, errs) })
	}
	wg.Wait()
	return errs
}

// group is a list of tasks that are appended to one subject.
type group struct {
	destination destination
	tasks       []*task
	encoded     [][]byte
	index       []int // of the notification in the call
}

// groupByDestination groups the notifications by subject, and sets the errors of those that cannot
// be accepted.
func (q *clusterQueue) groupByDestination(ns []*push.Notification, errs []error) map[destination]*group {
	groups := map[destination]*group{}
	var g *group // of the previous notification; usually the next one has the same destination
	for i, n := range ns {
		t := newTask(n)
		encoded, err := q.prepare(t)
		if err != nil {
			errs[i] = err
			continue
		}
		if d := t.destination(); g == nil || g.destination != d {
			if g = groups[d]; g == nil {
				g = &group{destination: d}
				groups[d] = g
			}
		}
		g.tasks, g.encoded, g.index = append(g.tasks, t), append(g.encoded, encoded), append(g.index, i)
	}
	return groups
}

// reasonTooFarAhead refuses a SendAt beyond Config.MaxDelay.
const reasonTooFarAhead = "TooFarAhead"

// prepare checks whether t can be accepted, and encodes it.
func (q *clusterQueue) prepare(t *task) ([]byte, error) {
	if err := q.cfg.check(t.Notification); err != nil {
		return nil, err
	}
	return t.encode()
}

// check returns why n cannot be accepted, or nil.
func (c *Config) check(n *push.Notification) error {
	if err := c.Sender.Check(n); err != nil {
		return err
	}
	if c.MaxDelay > 0 && n.SendAt.Sub(n.AcceptedAt) > c.MaxDelay {
		return &push.FieldError{Field: "send_at", Reason: reasonTooFarAhead,
			Allowed: fmt.Sprintf("at most %s ahead, the retention of the history (history.max_age)", c.MaxDelay)}
	}
	return nil
}

// recordAccepted appends the events that the tasks are accepted. It sets the errors and returns false
// if it fails.
func (q *clusterQueue) recordAccepted(ctx context.Context, groups map[destination]*group, errs []error) bool {
	var events []push.Event
	now := time.Now().UTC()
	for _, g := range groups {
		for _, t := range g.tasks {
			events = append(events, t.waitingEvent(now))
		}
	}
	if len(events) == 0 {
		return false
	}
	_, err := q.cfg.Journal.Append(ctx, events...)
	if err == nil {
		return true
	}
	for _, g := range groups {
		q.resolveLater(&acceptance{tasks: g.tasks})
		for _, i := range g.index {
			errs[i] = fmt.Errorf("queue: %w", err)
		}
	}
	return false
}

func (q *clusterQueue) appendGroup(ctx context.Context, g *group, errs []error) {
	handle := q.handle(g.destination.partition)
	before := [...]uint64{q.tasks.lastSeq.Load(), q.scheduled.lastSeq.Load()}
	offsets := make([]jetstream.Offset, len(g.tasks)) // after a panic, none is known to be stored
	err := panics.Recover(q.cfg.Logger, "append to "+g.destination.stream, func() (err error) {
		offsets, err = handle.writer.AppendAll(ctx, g.destination.subject(), g.encoded)
		return err
	})
	failed := &acceptance{written: true, before: before}
	var index []int
	for i, offset := range offsets {
		handle.advance(offset.Seq)
		if offset.Seq == 0 {
			failed.tasks, index = append(failed.tasks, g.tasks[i]), append(index, g.index[i])
		}
	}
	q.notifyPartition(g.destination.partition)
	if len(index) == 0 {
		return
	}
	q.resolveLater(failed)
	if errors.Is(err, jetstream.ErrFull) {
		err = fmt.Errorf("%w: %w", push.ErrQueueFull, err)
	} else {
		failed.wait(ctx)
	}
	for i, t := range failed.tasks {
		if !failed.isStored(t.ID) {
			errs[index[i]] = err
		}
	}
}
