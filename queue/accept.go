// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/push"
)

// Accept returns once each of the notifications is on disk or is known not to be: an error for each, nil for one that is
// safe. A *push.FieldError says that it cannot be sent as it is, push.ErrFull that there is no room: then nothing of it was
// kept. After any other error nobody can tell. Their ID, App and AcceptedAt must be set.
func (q *Queue) Accept(ctx context.Context, ns []*push.Notification) []error {
	errs := make([]error, len(ns))
	bundles := q.bundles(ctx, ns, errs)
	var accepting sync.WaitGroup
	for _, b := range bundles {
		if len(bundles) == 1 {
			q.accept(ctx, b, errs)
			break
		}
		accepting.Go(func() { q.accept(ctx, b, errs) })
	}
	accepting.Wait()
	return errs
}

// bundle is what is appended to one subject at once.
type bundle struct {
	shelf shelf
	tasks []*task
	texts [][]byte
	index []int // in the list that was to be accepted
}

// bundles sorts notifications by the subject that they are appended to, and takes note of those that cannot be.
func (q *Queue) bundles(ctx context.Context, ns []*push.Notification, errs []error) map[shelf]*bundle {
	bundles := map[shelf]*bundle{}
	var b *bundle // most go where the one before them went
	for i, n := range ns {
		t := newTask(n)
		text, err := q.checked(ctx, t)
		if err != nil {
			errs[i] = err
			continue
		}
		if s := t.shelf(); b == nil || b.shelf != s {
			if b = bundles[s]; b == nil {
				b = &bundle{shelf: s}
				bundles[s] = b
			}
		}
		b.tasks, b.texts, b.index = append(b.tasks, t), append(b.texts, text), append(b.index, i)
	}
	return bundles
}

// tooFarAhead is the reason of a refusal: what becomes of it could not be told for so long.
const tooFarAhead = "TooFarAhead"

// checked writes t as the disk will have it, if there is any use in keeping it.
func (q *Queue) checked(ctx context.Context, t *task) ([]byte, error) {
	if err := q.cfg.Sender.Check(t.N); err != nil {
		return nil, err
	}
	if ahead := q.cfg.MaxDelay; ahead > 0 && t.Due.Sub(t.AcceptedAt) > ahead {
		return nil, &push.FieldError{Field: "send_at", Reason: tooFarAhead,
			Allowed: fmt.Sprintf("at most %s ahead: for so long the history is kept (history.max_age)", ahead)}
	}
	if !t.Due.IsZero() && q.laterBytes(ctx) > q.cfg.MaxBytes {
		return nil, fmt.Errorf("%w: what is scheduled takes more than %d bytes", push.ErrQueueFull, q.cfg.MaxBytes)
	}
	return t.write()
}

func (q *Queue) accept(ctx context.Context, b *bundle, errs []error) {
	k := q.tasks
	if b.shelf.stream == laterName {
		k = q.later
	}
	before := [...]uint64{q.tasks.newest.Load(), q.later.newest.Load()}
	places, err := k.writer.AppendAll(ctx, b.shelf.subject(), b.texts)
	var kept map[string]bool
	switch {
	case errors.Is(err, engine.ErrFull):
		err = fmt.Errorf("%w: %w", push.ErrQueueFull, err)
	case errors.Is(err, engine.ErrUnwritable):
		kept = q.inTruth(ctx, b.tasks, before)
	}
	safe := make([]*task, 0, len(b.tasks))
	for i, place := range places {
		k.reached(place.Seq)
		if place.Seq == 0 && !kept[b.tasks[i].ID] {
			errs[b.index[i]] = err
			continue
		}
		safe = append(safe, b.tasks[i])
	}
	q.find(b.shelf.source)
	if len(safe) > 0 {
		q.tell(ctx, safe)
	}
}

// tell has the journal know of tasks that are safe, whether or not it does: their next event tells of them too. One with an
// Idempotency-Key is told on disk, for a caller who asks again after a crash must find it.
func (q *Queue) tell(ctx context.Context, safe []*task) {
	var keyed []push.Event
	others := make([]push.Event, 0, len(safe))
	now := time.Now().UTC()
	for _, t := range safe {
		if len(t.KeyHash) > 0 {
			keyed = append(keyed, t.waits(now))
		} else {
			others = append(others, t.waits(now))
		}
	}
	err := q.cfg.Journal.Note(context.WithoutCancel(ctx), others...)
	if len(keyed) > 0 {
		_, failed := q.cfg.Journal.Append(ctx, keyed...)
		err = errors.Join(err, failed)
	}
	if err != nil {
		q.cfg.Logger.Warn("queue: accepted notifications are not in the history yet", "app", safe[0].App, "err", err)
	}
}
