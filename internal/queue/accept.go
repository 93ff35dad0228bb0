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

// Accept returns once each of the notifications is on disk or is known not to be: an error for each, nil for one that is
// safe. A *push.FieldError says that it cannot be sent as it is, push.ErrFull that there is no room: then nothing of it was
// kept. After any other error nobody can tell. Their ID, App and AcceptedAt must be set.
func (q *Queue) Accept(ctx context.Context, ns []*push.Notification) []error {
	errs := make([]error, len(ns))
	bundles := q.groupByDestination(ctx, ns, errs)
	var accepting sync.WaitGroup
	for _, b := range bundles {
		if len(bundles) == 1 {
			q.appendGroup(ctx, b, errs)
			break
		}
		accepting.Go(func() { q.appendGroup(ctx, b, errs) })
	}
	accepting.Wait()
	return errs
}

// group is what is appended to one subject at once.
type group struct {
	destination destination
	tasks       []*task
	encoded     [][]byte
	index       []int // in the list that was to be accepted
}

// groupByDestination sorts notifications by the subject that they are appended to, and takes note of those that cannot be.
func (q *Queue) groupByDestination(ctx context.Context, ns []*push.Notification, errs []error) map[destination]*group {
	bundles := map[destination]*group{}
	var b *group // most go where the one before them went
	for i, n := range ns {
		t := newTask(n)
		text, err := q.prepare(ctx, t)
		if err != nil {
			errs[i] = err
			continue
		}
		if s := t.destination(); b == nil || b.destination != s {
			if b = bundles[s]; b == nil {
				b = &group{destination: s}
				bundles[s] = b
			}
		}
		b.tasks, b.encoded, b.index = append(b.tasks, t), append(b.encoded, text), append(b.index, i)
	}
	return bundles
}

// reasonTooFarAhead is the reason of a refusal: what becomes of it could not be told for so long.
const reasonTooFarAhead = "TooFarAhead"

// prepare writes t as the disk will have it, if there is any use in keeping it.
func (q *Queue) prepare(ctx context.Context, t *task) ([]byte, error) {
	if err := q.cfg.Sender.Check(t.Notification); err != nil {
		return nil, err
	}
	if ahead := q.cfg.MaxDelay; ahead > 0 && t.Due.Sub(t.AcceptedAt) > ahead {
		return nil, &push.FieldError{Field: "send_at", Reason: reasonTooFarAhead,
			Allowed: fmt.Sprintf("at most %s ahead: for so long the history is kept (history.max_age)", ahead)}
	}
	if !t.Due.IsZero() && q.scheduledBytes(ctx) > q.cfg.MaxBytes {
		return nil, fmt.Errorf("%w: what is scheduled takes more than %d bytes", push.ErrQueueFull, q.cfg.MaxBytes)
	}
	return t.encode()
}

func (q *Queue) appendGroup(ctx context.Context, b *group, errs []error) {
	k := q.tasks
	if b.destination.stream == scheduledStreamName {
		k = q.scheduled
	}
	before := [...]uint64{q.tasks.lastSeq.Load(), q.scheduled.lastSeq.Load()}
	places, err := k.writer.AppendAll(ctx, b.destination.subject(), b.encoded)
	var kept map[string]bool
	switch {
	case errors.Is(err, jetstream.ErrFull):
		err = fmt.Errorf("%w: %w", push.ErrQueueFull, err)
	case errors.Is(err, jetstream.ErrUnwritable):
		kept = q.reconcileWrite(ctx, b.tasks, before)
	}
	safe := make([]*task, 0, len(b.tasks))
	for i, place := range places {
		k.advance(place.Seq)
		if place.Seq == 0 && !kept[b.tasks[i].ID] {
			errs[b.index[i]] = err
			continue
		}
		safe = append(safe, b.tasks[i])
	}
	q.notifyPartition(b.destination.partition)
	if len(safe) > 0 {
		q.recordAccepted(ctx, safe)
	}
}

// recordAccepted has the journal know of tasks that are safe, whether or not it does: their next event tells of them too. One with an
// Idempotency-Key is told on disk, for a caller who asks again after a crash must find it.
func (q *Queue) recordAccepted(ctx context.Context, safe []*task) {
	var keyed []push.Event
	others := make([]push.Event, 0, len(safe))
	now := time.Now().UTC()
	for _, t := range safe {
		if len(t.KeyHash) > 0 {
			keyed = append(keyed, t.waitingEvent(now))
		} else {
			others = append(others, t.waitingEvent(now))
		}
	}
	err := q.cfg.Journal.AppendAsync(context.WithoutCancel(ctx), others...)
	if len(keyed) > 0 {
		_, failed := q.cfg.Journal.Append(ctx, keyed...)
		err = errors.Join(err, failed)
	}
	if err != nil {
		q.cfg.Logger.Warn("queue: accepted notifications are not in the history yet", "app", safe[0].App, "err", err)
	}
}
