// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Checkpoint is how far a webhook is, and what it could not deliver.
type Checkpoint struct {
	// Since is when the webhook was made first: what happened before is not told.
	Since time.Time `json:"since"`
	// After is the cursor of the last event that was delivered, parked or of no interest; empty before the first.
	After string `json:"after,omitempty"`
	// Parked are the ranges that were given up, oldest first, at most 100 of them.
	DeadLettered []Range `json:"parked,omitempty"`
}

// Range is events that were given up. They are kept for as long as the history keeps any event, and can be read from the
// feed: behind After, up to Until.
type Range struct {
	After  string    `json:"after"`
	Until  string    `json:"until"`
	Events int       `json:"events"` // 0 if nobody can tell
	From   time.Time `json:"from"`   // when the first of them happened
	To     time.Time `json:"to"`
	Reason string    `json:"reason"`
}

const maxDeadLettered = 100

// Status is a webhook at a moment. It holds no secret.
type Status struct {
	App  string `json:"app"`
	Name string `json:"name"`
	// Position is the cursor of the last event that is done with.
	Cursor string `json:"position,omitempty"`
	// ToldUpTo is when the last event happened that the receiver took.
	DeliveredUpTo time.Time `json:"told_up_to,omitzero"`
	// Told counts the events that the receiver took since the process began.
	Delivered uint64 `json:"told"`
	// Failures counts the attempts in a row that failed; Reason is the last one's, and NextTry when the next is.
	Failures    int       `json:"failures"`
	Reason      string    `json:"reason,omitempty"`
	NextAttempt time.Time `json:"next_try,omitzero"`
	// Parked is what was given up.
	DeadLettered []Range `json:"parked,omitempty"`
}

// Status returns how it stands.
func (w *Webhook) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Status{
		App: w.cfg.App, Name: w.cfg.Name, Cursor: w.checkpoint.After, DeliveredUpTo: w.deliveredUpTo, Delivered: w.delivered, Failures: w.failures, Reason: w.lastError,
		NextAttempt: w.nextAttempt, DeadLettered: slices.Clone(w.checkpoint.DeadLettered),
	}
}

// deliver posts a batch until its receiver takes it, or it is given up. An event is tried until it is a day old, and once
// at least; while the receiver fails, what is as old already is not tried at all.
func (w *Webhook) deliver(ctx context.Context, b batch) error {
	if len(b.events) == 0 {
		return w.skip(ctx, b)
	}
	for {
		if trouble := w.lastFailure(); trouble != "" {
			old, rest := b.splitAt(time.Now().Add(-w.cfg.RetryFor))
			if err := w.deadLetter(ctx, old, trouble); err != nil || len(rest.events) == 0 {
				return err
			}
			b = rest
		}
		id, body := b.message(w.name, w.cfg.App)
		err := w.post(ctx, id, body)
		if err == nil {
			w.recordSuccess(b)
			return w.advance(ctx, b, nil)
		}
		if ctx.Err() != nil || !w.sleep(ctx, w.recordFailure(err)) {
			return ctx.Err()
		}
	}
}

// lastFailure is the reason of the last failure, or empty if the last attempt was none.
func (w *Webhook) lastFailure() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastError
}

// recordFailure notes a failure and returns how long to wait.
func (w *Webhook) recordFailure(err error) time.Duration {
	w.mu.Lock()
	w.failures++
	n := w.failures
	wait := backoff(n, w.cfg.Backoff, w.cfg.MaxBackoff)
	if refused, ok := errors.AsType[*statusError](err); ok {
		wait = max(wait, refused.retryAfter)
	}
	w.lastError, w.nextAttempt = err.Error(), time.Now().Add(wait)
	w.mu.Unlock()
	if n&(n-1) == 0 { // the first, second, fourth …
		w.log.Warn("webhook: the receiver does not take its events; trying again", "failures", n, "err", err, "wait", wait)
	}
	return wait
}

func (w *Webhook) recordSuccess(b batch) {
	w.mu.Lock()
	failures := w.failures
	w.failures, w.lastError, w.nextAttempt = 0, "", time.Time{}
	_, w.deliveredUpTo = b.timeRange()
	w.delivered += uint64(len(b.events))
	w.mu.Unlock()
	if failures > 0 {
		w.log.Info("webhook: the receiver takes its events again", "failures", failures)
	}
}

// deadLetter gives events up, if there are any, and goes on behind them.
func (w *Webhook) deadLetter(ctx context.Context, b batch, reason string) error {
	if len(b.events) == 0 {
		return nil
	}
	from, to := b.timeRange()
	r := Range{After: w.cursor(), Until: b.cursor, Events: len(b.events), From: from, To: to, Reason: reason}
	w.log.Error("webhook: events are parked; read them from the feed of events", "after", r.After, "until", r.Until,
		"events", r.Events, "reason", reason)
	return w.advance(ctx, b, &r)
}

// minSaveInterval is how long a webhook that is told nothing keeps in mind alone how far it is.
const minSaveInterval = 10 * time.Second

// skip goes on behind events that are not told.
func (w *Webhook) skip(ctx context.Context, b batch) error {
	w.mu.Lock()
	early := time.Since(w.saved) < minSaveInterval
	w.mu.Unlock()
	if early {
		return nil
	}
	return w.advance(ctx, b, nil)
}

// advance goes on behind a batch, once that is saved.
func (w *Webhook) advance(ctx context.Context, b batch, parked *Range) error {
	w.mu.Lock()
	p := w.checkpoint
	p.DeadLettered = slices.Clone(p.DeadLettered)
	w.mu.Unlock()
	p.After = b.cursor
	if parked != nil {
		p.addDeadLettered(*parked)
	}
	return w.save(ctx, p)
}

func (w *Webhook) save(ctx context.Context, p Checkpoint) error {
	if err := w.cfg.Checkpoints.Save(ctx, w.name, p); err != nil {
		return fmt.Errorf("position: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkpoint, w.saved = p, time.Now()
	return nil
}

// addDeadLettered adds a range, to the last if it goes on there for the same reason.
func (p *Checkpoint) addDeadLettered(r Range) {
	if n := len(p.DeadLettered); n > 0 && p.DeadLettered[n-1].Until == r.After && p.DeadLettered[n-1].Reason == r.Reason {
		last := &p.DeadLettered[n-1]
		last.Until, last.To, last.Events = r.Until, r.To, last.Events+r.Events
		return
	}
	p.DeadLettered = append(p.DeadLettered, r)
	if len(p.DeadLettered) > maxDeadLettered {
		p.DeadLettered = p.DeadLettered[len(p.DeadLettered)-maxDeadLettered:]
	}
}

// skipExpired goes on with the oldest event that is kept, for those behind the position are not.
func (w *Webhook) skipExpired(ctx context.Context) {
	w.log.Error("webhook: events were forgotten before they could be told; going on with the oldest that are kept", "after", w.cursor())
	w.mu.Lock()
	p := w.checkpoint
	p.DeadLettered = slices.Clone(p.DeadLettered)
	w.mu.Unlock()
	p.addDeadLettered(Range{After: p.After, Reason: "forgotten: older than what the history keeps", To: time.Now().UTC()})
	p.After = ""
	if err := w.save(ctx, p); err != nil {
		w.log.Warn("webhook: the position cannot be saved", "err", err)
		w.sleep(ctx, w.cfg.Backoff)
	}
}
