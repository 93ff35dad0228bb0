// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
)

// Checkpoint is the progress of a webhook.
type Checkpoint struct {
	// Since is when the webhook was created. Earlier events are not delivered.
	Since time.Time `json:"since"`
	// After is the cursor of the last event that was delivered, dead-lettered or filtered out;
	// empty before the first.
	After string `json:"after,omitempty"`
	// DeadLettered are the ranges of events that were not delivered, oldest first, at most 100.
	DeadLettered []Range `json:"parked,omitempty"` // the name is kept for checkpoints of earlier versions
	// Disabled is set after the receiver has disabled the webhook.
	Disabled *Disabled `json:"disabled,omitempty"`
}

// Disabled records that the receiver has disabled the webhook with a response of 410.
type Disabled struct {
	At     time.Time `json:"at"`
	Config string    `json:"config"` // digest of the configuration; any other one enables the webhook
}

// Range is a range of events that were not delivered. They can be read from the event feed, after
// After and up to Until, as long as the history stores them.
type Range struct {
	After  string    `json:"after"`
	Until  string    `json:"until"`
	Events int       `json:"events"` // 0 if unknown
	From   time.Time `json:"from"`   // time of the first event
	To     time.Time `json:"to"`
	Reason string    `json:"reason"`
}

const maxDeadLettered = 100

// Status is a snapshot of a webhook. It contains no secret.
type Status struct {
	App  string `json:"app"`
	Name string `json:"name"`
	// Cursor is the cursor of the last event that was delivered, dead-lettered or filtered out.
	Cursor string `json:"cursor,omitempty"`
	// DeliveredUpTo is the time of the newest event that the receiver accepted.
	DeliveredUpTo time.Time `json:"delivered_up_to,omitzero"`
	// Delivered counts the events that the receiver accepted since the process started.
	Delivered uint64 `json:"delivered"`
	// DisabledSince is when the receiver disabled the webhook with the response 410; zero if it did not.
	DisabledSince time.Time `json:"disabled_since,omitzero"`
	// Failures counts the consecutive failed attempts, Reason is the error of the last one, and
	// NextAttempt is the time of the next attempt.
	Failures    int       `json:"failures"`
	Reason      string    `json:"reason,omitempty"`
	NextAttempt time.Time `json:"next_attempt,omitzero"`
	// DeadLettered are the ranges of events that were not delivered.
	DeadLettered []Range `json:"dead_lettered,omitempty"`
}

// Status returns a snapshot of the webhook.
func (w *Webhook) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Status{
		App: w.cfg.App, Name: w.cfg.Name, Cursor: w.checkpoint.After, DeliveredUpTo: w.deliveredUpTo, Delivered: w.delivered, Failures: w.failures, Reason: w.lastError,
		NextAttempt: w.nextAttempt, DeadLettered: slices.Clone(w.checkpoint.DeadLettered),
	}
	if d := w.checkpoint.Disabled; d != nil {
		s.DisabledSince, s.Reason, s.NextAttempt = d.At, disabledReason, time.Time{}
	}
	return s
}

const disabledReason = "HTTP status 410: the receiver is gone; a change of the webhook's configuration enables it"

func (w *Webhook) isDisabled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.checkpoint.Disabled != nil
}

// disable saves that the receiver has disabled the webhook. The checkpoint does not advance:
// once enabled, the webhook continues with the events that were refused.
func (w *Webhook) disable(ctx context.Context) error {
	w.mu.Lock()
	p := w.checkpoint
	w.mu.Unlock()
	p.Disabled = &Disabled{At: time.Now().UTC(), Config: w.digest}
	if err := w.save(ctx, p); err != nil {
		return err
	}
	return errDisabled
}

var errDisabled = errors.New("the webhook is disabled")

// deliver posts a batch until the receiver accepts it. After a failed attempt it dead-letters the
// events that are older than RetryFor. If the last attempt succeeded, it posts even older events,
// which are the backlog of a gateway that was down.
func (w *Webhook) deliver(ctx context.Context, b batch) error {
	if len(b.events) == 0 {
		return w.skip(ctx, b)
	}
	for {
		if reason := w.lastFailure(); reason != "" {
			old, rest := b.splitAt(time.Now().Add(-w.cfg.RetryFor))
			if err := w.deadLetter(ctx, old, reason); err != nil || len(rest.events) == 0 {
				return err
			}
			b = rest
		}
		id, body := b.message(w.name, w.cfg.App)
		err := w.post(ctx, b, id, body)
		if err == nil {
			w.recordSuccess(b)
			return w.advance(ctx, b, nil)
		}
		if response, ok := errors.AsType[*statusError](err); ok && response.status == http.StatusGone {
			return w.disable(ctx)
		}
		if ctx.Err() != nil || !sleep.For(ctx, w.recordFailure(err)) {
			return ctx.Err()
		}
	}
}

// lastFailure returns the error of the last attempt, or "" if it succeeded.
func (w *Webhook) lastFailure() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastError
}

// recordFailure records a failed attempt and returns how long to wait.
func (w *Webhook) recordFailure(err error) time.Duration {
	w.mu.Lock()
	w.failures++
	n := w.failures
	wait := backoff(n, w.cfg.Backoff, w.cfg.MaxBackoff)
	if response, ok := errors.AsType[*statusError](err); ok {
		wait = max(wait, response.retryAfter)
	}
	w.lastError, w.nextAttempt = err.Error(), time.Now().Add(wait)
	w.mu.Unlock()
	if n&(n-1) == 0 { // logs failures 1, 2, 4, 8 …
		w.log.Warn("webhook delivery failed, retrying", "failures", n, "err", err, "wait", wait.String())
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
		w.log.Info("webhook delivery recovered", "failures", failures)
	}
}

// deadLetter records the events as not delivered and advances past them. It does nothing for an
// empty batch.
func (w *Webhook) deadLetter(ctx context.Context, b batch, reason string) error {
	if len(b.events) == 0 {
		return nil
	}
	from, to := b.timeRange()
	r := Range{After: w.cursor(), Until: b.cursor, Events: len(b.events), From: from, To: to, Reason: reason}
	w.log.Error("webhook events dead-lettered", "after", r.After, "until", r.Until,
		"events", r.Events, "reason", reason)
	return w.advance(ctx, b, &r)
}

// minSaveInterval is how long the checkpoint of a webhook without events to deliver is only kept in
// memory.
const minSaveInterval = 10 * time.Second

// skip advances past events that are filtered out.
func (w *Webhook) skip(ctx context.Context, b batch) error {
	w.mu.Lock()
	recent := time.Since(w.saved) < minSaveInterval
	w.mu.Unlock()
	if recent {
		return nil
	}
	return w.advance(ctx, b, nil)
}

// advance moves the checkpoint past a batch and saves it.
func (w *Webhook) advance(ctx context.Context, b batch, rng *Range) error {
	w.mu.Lock()
	p := w.checkpoint
	p.DeadLettered = slices.Clone(p.DeadLettered)
	w.mu.Unlock()
	p.After = b.cursor
	if rng != nil {
		p.addDeadLettered(*rng)
	}
	return w.save(ctx, p)
}

func (w *Webhook) save(ctx context.Context, p Checkpoint) error {
	if err := w.cfg.Checkpoints.Save(ctx, w.name, p); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkpoint, w.saved = p, time.Now()
	return nil
}

// addDeadLettered adds a range. It extends the last range if the new one follows it and has the
// same reason.
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

// skipExpired continues with the oldest stored event, because the events after the checkpoint are
// no longer stored.
func (w *Webhook) skipExpired(ctx context.Context) {
	w.log.Error("webhook events expired before delivery", "after", w.cursor())
	w.mu.Lock()
	p := w.checkpoint
	p.DeadLettered = slices.Clone(p.DeadLettered)
	w.mu.Unlock()
	p.addDeadLettered(Range{After: p.After, Reason: "expired: older than the history", To: time.Now().UTC()})
	p.After = ""
	if err := w.save(ctx, p); err != nil {
		w.log.Warn("webhook checkpoint not saved", "err", err)
		sleep.For(ctx, w.cfg.Backoff)
	}
}
