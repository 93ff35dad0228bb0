// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

const (
	retryInterval = 500 * time.Millisecond
	// outstandingInterval is how often the work looks whether enqueued notifications have ended.
	outstandingInterval = 10 * time.Millisecond
)

// run is the work on one broadcast, which reads the document again after each step.
type run struct {
	*Manager
	b      *document
	worker *worker
	loaded time.Time

	preparedOf uint64 // the revision of Plan
	prepared   *prepared
	paces      [2]*pacer // by phase; nil after a pause
	// until is when lines stop to be due, because quiet hours begin or the broadcast expires. Zero means never.
	until time.Time
}

// work works on a broadcast until nothing is left to do without a command. Each step is durable, and can be
// repeated by another gateway.
func (m *Manager) work(ctx context.Context, id string, w *worker) error {
	r := &run{Manager: m, worker: w}
	defer func() {
		w.due.Store(0)
		w.delayed.Store(false)
	}()
	for warned := false; ctx.Err() == nil; {
		err := r.step(ctx, id)
		switch {
		case errors.Is(err, errDone), errors.Is(err, ErrNotFound):
			return nil
		case err == nil, errors.Is(err, ErrChanged):
			warned = false
			w.delayed.Store(false)
			continue
		}
		if !warned && ctx.Err() == nil {
			m.cfg.Logger.Warn("a broadcast is delayed; retrying", "broadcast", id, "err", err)
		}
		warned = true
		w.delayed.Store(true)
		sleep.For(ctx, retryInterval)
	}
	return nil
}

// errDone means that nothing is left to do.
var errDone = errors.New("broadcast: done")

func (r *run) step(ctx context.Context, id string) (err error) {
	if r.b, err = r.store.load(ctx, id); err != nil {
		return err
	}
	r.loaded = time.Now()
	if !r.b.needsWork(r.loaded, r.cfg.Retention) {
		return errDone
	}
	if r.b.isObsolete(r.loaded, r.cfg.Retention) {
		return r.remove(ctx, r.b) // the next step does not find it
	}
	if r.b.controlStatus() != "" {
		if err := r.control(ctx, r.b); err != nil {
			return err
		}
	}
	if r.b.State != Running && r.b.State != Recalling {
		r.worker.due.Store(0)
	}
	switch r.b.State {
	case Validating:
		return r.validate(ctx, r.b)
	case Running:
		return r.send(ctx)
	case Recalling:
		return r.recall(ctx)
	case Paused:
		r.paces = [2]*pacer{}
		if end := time.Time(r.b.Schedule.ExpiresAt); !r.b.InRecall && !end.IsZero() && !r.loaded.Before(end) {
			r.b.PauseReason = ""
			return r.enter(ctx, Expired)
		}
		r.wait(ctx, pollInterval)
		return nil
	default:
		return r.finish(ctx)
	}
}

// wait waits for a change, at most for d.
func (r *run) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-r.worker.changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// isCurrent reports whether the document is the current one, as far as is known: it is read again after
// pollInterval, and a record in the log stops the work at once.
func (r *run) isCurrent(phase tally.Phase) bool {
	select {
	case <-r.worker.changed:
		return false
	default:
	}
	allowed, now := false, time.Now()
	r.cfg.Queue.ReadTally(r.b.uuid(), func(t *tally.Tally) { allowed = t != nil && t.Allows(phase) })
	isOver := phase == tally.Send && !r.until.IsZero() && !now.Before(r.until)
	return allowed && !isOver && now.Sub(r.loaded) < pollInterval
}

// finish ends what is left of a broadcast that has ended.
func (r *run) finish(ctx context.Context) error {
	var outcome *push.Outcome
	if r.b.State == Expired {
		outcome = &push.Outcome{Verdict: push.Expired, Reason: reasonExpired}
	}
	open := 0
	for _, phase := range [...]tally.Phase{tally.Send, tally.Recall} {
		left, err := r.cfg.Queue.EndOpen(ctx, r.b.uuid(), phase, outcome)
		if err != nil {
			return err
		}
		open += left
	}
	if open > 0 { // they are being sent
		r.wait(ctx, outstandingInterval)
		return nil
	}
	if t := r.cfg.Queue.Tally(r.b.uuid()); t != nil {
		text, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("broadcast: %w", err)
		}
		if r.b.Results, err = r.store.put(ctx, r.b.ID, resultsData, text); err != nil {
			return err
		}
	}
	r.b.FinishedAt = time.Now().UTC()
	if err := r.save(ctx, r.b); err != nil || len(r.b.Results) == 0 {
		return err
	}
	r.store.purgeBefore(ctx, r.b.ID, resultsData, r.b.Results[0])
	return nil
}

// reasonExpired is the reason of notifications that were enqueued when the broadcast expired.
const reasonExpired = "BROADCAST_EXPIRED"

// enter changes the state.
func (r *run) enter(ctx context.Context, s State) error {
	r.b.State = s
	if err := r.save(ctx, r.b); err != nil {
		return err
	}
	return r.control(ctx, r.b)
}

// load reads what the validation has found.
func (r *run) load(ctx context.Context) error {
	if r.prepared != nil && len(r.b.Plan) > 0 && r.preparedOf == r.b.Plan[0] {
		return nil
	}
	text, err := r.store.get(ctx, r.b.ID, planData, r.b.Plan)
	if err != nil {
		return err
	}
	p := new(prepared)
	if err := json.Unmarshal(text, p); err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	r.prepared, r.preparedOf = p, r.b.Plan[0]
	return nil
}

// send enqueues the lines that are due, until the broadcast changes.
func (r *run) send(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	content, err := r.b.content(false)
	if err != nil {
		return err
	}
	schedule, err := audience.NewPlan(&r.b.Schedule, r.b.StartedAt)
	if err != nil {
		return err
	}
	e := r.enqueuer(content, tally.Send, r.b.Rate)
	r.until = time.Time{}
	for r.isCurrent(tally.Send) && ctx.Err() == nil {
		now := time.Now()
		if end := schedule.Expiry(); !end.IsZero() && !now.Before(end) {
			return r.enter(ctx, Expired)
		}
		if reason := r.pauseReason(); reason != "" {
			r.b.PauseReason = reason
			return r.enter(ctx, Paused)
		}
		if e.postponed, err = r.postpone(ctx, schedule, now); err != nil {
			return err
		}
		due, next := r.due(schedule, now)
		if limit, held := r.canaryLimit(now); held > 0 {
			next = earlier(next, now.Add(held))
			due = firstOf(due, limit-min(limit, e.done()))
		} else if limit > 0 {
			if due = firstOf(due, limit-min(limit, e.done())); e.done() >= limit {
				until := now.Add(time.Duration(r.b.Canary.Wait)).UTC()
				r.b.CanaryUntil = until
				return r.save(ctx, r.b)
			}
		}
		r.worker.due.Store(due.GetCardinality())
		if !due.IsEmpty() {
			if err := e.enqueueLines(ctx, due, false); err != nil {
				return err
			}
			continue
		}
		if next.IsZero() && r.open(tally.Send) == 0 {
			if e.done() < r.b.Validation.Valid { // the others are not due before the broadcast expires
				return r.enter(ctx, Expired)
			}
			return r.enter(ctx, Completed)
		}
		wait := pollInterval
		if r.open(tally.Send) > 0 && next.IsZero() {
			wait = outstandingInterval
		} else if !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
		if !r.until.IsZero() {
			wait = min(wait, r.until.Sub(now))
		}
		r.wait(ctx, wait)
	}
	return nil
}

// due returns the lines that are due and not enqueued, and when others will be. next is zero if no others
// will be. It sets until.
func (r *run) due(schedule *audience.Plan, now time.Time) (due *roaring.Bitmap, next time.Time) {
	due = roaring.New()
	later := roaring.New()
	r.until = time.Time{}
	var times []time.Time
	var waiting []*roaring.Bitmap
	for name, lines := range r.prepared.Zones {
		w, ok := schedule.Window(location(name), now)
		switch {
		case !ok:
		case w.From.After(now):
			times, waiting = append(times, w.From), append(waiting, lines.Bitmap)
			later.Or(lines.Bitmap)
		default:
			due.Or(lines.Bitmap)
			if !w.Until.IsZero() {
				r.until = earlier(r.until, w.Until)
			}
		}
	}
	r.cfg.Queue.ReadTally(r.b.uuid(), func(t *tally.Tally) {
		if t == nil {
			return
		}
		t.RemoveEnqueued(tally.Send, due)
		t.RemoveEnqueued(tally.Send, later)
	})
	for i, lines := range waiting {
		if later.Intersects(lines) {
			next = earlier(next, times[i])
		}
	}
	return due, next
}

// postpone makes the notifications in the queue wait whose devices have quiet hours now: they were held by a
// pause, or the provider did not accept them before. It returns how many there are.
func (r *run) postpone(ctx context.Context, schedule *audience.Plan, now time.Time) (postponed int, err error) {
	if r.b.Schedule.QuietHours == nil {
		return 0, nil
	}
	open := roaring.New()
	r.cfg.Queue.ReadTally(r.b.uuid(), func(t *tally.Tally) {
		if t != nil {
			open = t.OpenLines(tally.Send)
		}
	})
	for name, lines := range r.prepared.Zones {
		if !open.Intersects(lines.Bitmap) {
			continue
		}
		w, _ := schedule.Window(location(name), now)
		if !w.From.After(now) {
			continue
		}
		quiet := roaring.And(open, lines.Bitmap)
		postponed += int(quiet.GetCardinality())
		if err := r.cfg.Queue.Postpone(ctx, r.b.uuid(), quiet, w.From); err != nil {
			return 0, err
		}
	}
	return postponed, nil
}

// postponeHeld does so before a broadcast is resumed.
func (m *Manager) postponeHeld(ctx context.Context, b *document) error {
	if b.Schedule.QuietHours == nil || b.InRecall {
		return nil
	}
	schedule, err := audience.NewPlan(&b.Schedule, b.StartedAt)
	if err != nil {
		return err
	}
	r := &run{Manager: m, b: b}
	if err := r.load(ctx); err != nil {
		return err
	}
	_, err = r.postpone(ctx, schedule, time.Now())
	return err
}

// location returns a time zone that the validation has loaded.
func location(name string) *time.Location {
	zone, err := audience.LoadZone(name)
	if err != nil {
		return time.UTC
	}
	return zone
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// firstOf returns the first n lines.
func firstOf(lines *roaring.Bitmap, n uint64) *roaring.Bitmap {
	if n >= lines.GetCardinality() {
		return lines
	}
	last, err := lines.Select(uint32(n)) // the first one that is left out
	if err != nil {
		return lines
	}
	first := lines.Clone()
	first.RemoveRange(uint64(last), 1<<32)
	return first
}

// canaryLimit returns how many lines may be enqueued in all, or zero for all of them. held is how long the
// others still wait.
func (r *run) canaryLimit(now time.Time) (limit uint64, held time.Duration) {
	c := r.b.Canary
	if c == nil {
		return 0, 0
	}
	limit = c.Share.of(r.b.Validation.Valid)
	switch until := r.b.CanaryUntil; {
	case until.IsZero():
		return limit, 0
	case now.Before(until):
		return limit, until.Sub(now)
	default:
		return 0, 0
	}
}

// defaultPauseAfter is the default of PauseIf.After.
const defaultPauseAfter = 100

// pauseReason returns why the broadcast is to be paused, or "".
func (r *run) pauseReason() (exceeded string) {
	p := r.b.PauseIf
	if p == nil {
		return ""
	}
	after := p.After
	if after == 0 {
		after = defaultPauseAfter
	}
	r.cfg.Queue.ReadTally(r.b.uuid(), func(t *tally.Tally) {
		if t == nil {
			return
		}
		ended, by := uint64(0), map[push.Status]uint64{}
		for _, c := range t.Counts(tally.Send) {
			if c.Status != push.StatusQueued {
				ended += c.Lines
				by[c.Status] += c.Lines
			}
		}
		exceeds := func(s push.Status, limit Percent) bool {
			return limit > 0 && float64(by[s])*100 > float64(limit)*float64(ended)
		}
		switch {
		case ended < after+r.b.EndedAtResume:
		case exceeds(push.StatusRefused, p.Refused):
			exceeded = pausedRefused
		case exceeds(push.StatusUnregistered, p.Unregistered):
			exceeded = pausedUnregistered
		}
	})
	return exceeded
}

// open returns how many notifications have not ended.
func (r *run) open(phase tally.Phase) (open int) {
	r.cfg.Queue.ReadTally(r.b.uuid(), func(t *tally.Tally) {
		if t != nil {
			open = t.Open(phase)
		}
	})
	return open
}

// recall ends the notifications that wait, then sends the recall message to all devices that have got the
// message or may have, the last line first.
func (r *run) recall(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	content, err := r.b.content(true)
	if err != nil {
		return err
	}
	if left, err := r.cfg.Queue.EndOpen(ctx, r.b.uuid(), tally.Send, nil); err != nil || left > 0 {
		r.wait(ctx, outstandingInterval) // attempts that have started before
		return err
	}
	e := r.enqueuer(content, tally.Recall, r.b.Definition.Recall.Rate)
	for r.isCurrent(tally.Recall) && ctx.Err() == nil {
		reached := roaring.New()
		r.cfg.Queue.ReadTally(r.b.uuid(), func(t *tally.Tally) {
			if t != nil {
				reached = t.Reached()
				t.RemoveEnqueued(tally.Recall, reached)
			}
		})
		r.worker.due.Store(reached.GetCardinality())
		switch {
		case !reached.IsEmpty():
			if err := e.enqueueLines(ctx, reached, true); err != nil {
				return err
			}
		case r.open(tally.Recall) == 0:
			return r.enter(ctx, Recalled)
		default:
			r.wait(ctx, outstandingInterval)
		}
	}
	return nil
}
