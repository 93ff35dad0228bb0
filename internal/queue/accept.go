// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Accept stores notifications and returns one error for each, nil if it is on disk. Their ID, App
// and AcceptedAt must be set. A *push.FieldError means that the notification is invalid,
// push.ErrQueueFull that the queue is full: neither is stored. After any other error the
// notification may or may not be stored.
func (q *Queue) Accept(ctx context.Context, ns []*push.Notification) []error {
	errs := make([]error, len(ns))
	groups := q.groupByDestination(ctx, ns, errs)
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
func (q *Queue) groupByDestination(ctx context.Context, ns []*push.Notification, errs []error) map[destination]*group {
	groups := map[destination]*group{}
	var g *group // of the previous notification; usually the next one has the same destination
	for i, n := range ns {
		t := newTask(n)
		encoded, err := q.prepare(ctx, t)
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
func (q *Queue) prepare(ctx context.Context, t *task) ([]byte, error) {
	if err := q.cfg.Sender.Check(t.Notification); err != nil {
		return nil, err
	}
	if ahead := q.cfg.MaxDelay; ahead > 0 && t.Due.Sub(t.AcceptedAt) > ahead {
		return nil, &push.FieldError{Field: "send_at", Reason: reasonTooFarAhead,
			Allowed: fmt.Sprintf("at most %s ahead, the retention of the history (history.max_age)", ahead)}
	}
	if !t.Due.IsZero() && q.scheduledBytes(ctx) > q.cfg.MaxBytes {
		return nil, fmt.Errorf("%w: scheduled notifications exceed %d bytes", push.ErrQueueFull, q.cfg.MaxBytes)
	}
	return t.encode()
}

func (q *Queue) appendGroup(ctx context.Context, g *group, errs []error) {
	handle := q.tasks
	if g.destination.stream == scheduledStreamName {
		handle = q.scheduled
	}
	before := [...]uint64{q.tasks.lastSeq.Load(), q.scheduled.lastSeq.Load()}
	offsets, err := handle.writer.AppendAll(ctx, g.destination.subject(), g.encoded)
	var persisted map[string]bool
	switch {
	case errors.Is(err, jetstream.ErrFull):
		err = fmt.Errorf("%w: %w", push.ErrQueueFull, err)
	case errors.Is(err, jetstream.ErrUnwritable):
		persisted = q.reconcileWrite(ctx, g.tasks, before)
	}
	accepted := make([]*task, 0, len(g.tasks))
	for i, offset := range offsets {
		handle.advance(offset.Seq)
		if offset.Seq == 0 && !persisted[g.tasks[i].ID] {
			errs[g.index[i]] = err
			continue
		}
		accepted = append(accepted, g.tasks[i])
	}
	q.notifyPartition(g.destination.partition)
	if len(accepted) > 0 {
		q.recordAccepted(ctx, accepted)
	}
}

// recordAccepted appends the tasks to the journal. It ignores failures, because the next event of a
// task also shows that it was accepted. Tasks with an Idempotency-Key are appended synchronously,
// so that a repeated call finds them after a crash.
func (q *Queue) recordAccepted(ctx context.Context, accepted []*task) {
	var keyed []push.Event
	others := make([]push.Event, 0, len(accepted))
	now := time.Now().UTC()
	for _, t := range accepted {
		if len(t.KeyHash) > 0 {
			keyed = append(keyed, t.waitingEvent(now))
		} else {
			others = append(others, t.waitingEvent(now))
		}
	}
	err := q.cfg.Journal.AppendAsync(context.WithoutCancel(ctx), others...)
	if len(keyed) > 0 {
		_, appendErr := q.cfg.Journal.Append(ctx, keyed...)
		err = errors.Join(err, appendErr)
	}
	if err != nil {
		q.cfg.Logger.Warn("accepted notifications not recorded in the history yet", "app", accepted[0].App, "err", err)
	}
}
