// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Our own words for an end without a provider's.
const (
	reasonInDoubt    = "IN_DOUBT"    // an attempt had left when its gateway died, and it must not be repeated
	reasonTTLExpired = "TTL_EXPIRED" // it cannot be tried again before its ttl is over
)

// Why an attempt was kept here. Neither is a failure: somebody else has come first in the journal.
var (
	errCancelled     = errors.New("queue: cancelled")
	errSentElsewhere = errors.New("queue: another copy of it is being sent")
)

// processMessage has every task of h sent, and acks h when all of them have ended or wait elsewhere, both on disk.
func (f *consumer) processMessage(ctx, sending context.Context, h *inFlightMessage) {
	tasks := f.decodeTasks(h)
	slices.SortStableFunc(tasks, func(a, b *task) int { return a.Due.Compare(b.Due) })
	states := f.loadStates(ctx, h.redelivered, tasks)
	if states == nil {
		f.nak(ctx, h)
		return
	}
	var unsettled atomic.Bool
	var sends sync.WaitGroup
	for _, t := range tasks {
		if !f.waitUntilDue(ctx, t) || !acquire(ctx, f.slots, true) || f.isDraining() {
			unsettled.Store(true)
			break
		}
		sends.Go(func() {
			defer func() { <-f.slots }()
			if !f.process(sending, t, states[t.ID]) {
				unsettled.Store(true)
			}
		})
	}
	sends.Wait()
	if unsettled.Load() {
		f.nak(ctx, h)
		return
	}
	if err := f.inFlight.latest(h).Ack(); err != nil { // it comes again, and all of it has ended
		f.cfg.Logger.Debug("queue: ack", "err", err)
	}
}

// nak has h come again: to another gateway at once if this one drains. If that is lost it comes by itself.
func (f *consumer) nak(ctx context.Context, h *inFlightMessage) {
	if ctx.Err() != nil {
		_ = f.inFlight.latest(h).Nak()
		return
	}
	_ = f.inFlight.latest(h).NakWithDelay(ackWait)
}

// decodeTasks returns the tasks of a chunk. What cannot be read is told, loudly, and passed over: the rest must not wait for it.
func (f *consumer) decodeTasks(h *inFlightMessage) []*task {
	var tasks []*task
	for i, text := range jetstream.Items(h.msg.Data()) {
		t, err := decodeTask(text)
		if err != nil {
			f.cfg.Logger.Error("queue: a task is damaged and lost", "stream", h.key.stream, "seq", h.key.seq, "index", i, "err", err)
			continue
		}
		tasks = append(tasks, t)
	}
	return tasks
}

// loadStates asks the journal how the tasks stand, until it answers. It returns nil when ctx ends first. A chunk that
// somebody has been at needs all that this one wrote.
func (f *consumer) loadStates(ctx context.Context, again bool, tasks []*task) map[string]State {
	ids := make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	var states map[string]State
	f.retryUntilDone(ctx, "cannot ask the journal", func() (err error) {
		if again || !f.caughtUp.Load() {
			if err = f.cfg.Journal.WaitCaughtUp(ctx); err != nil {
				return err
			}
			f.caughtUp.Store(true)
		}
		states, err = f.cfg.Journal.States(ctx, ids)
		if err == nil && states == nil {
			states = map[string]State{}
		}
		return err
	})
	return states
}

// retryUntilDone does what must be done until it is, or ctx ends.
func (f *consumer) retryUntilDone(ctx context.Context, trouble string, do func() error) (done bool) {
	for warned := false; ; warned = true {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if !warned {
			f.cfg.Logger.Warn("queue: "+trouble, "app", f.partition.app, "err", err)
		}
		if !sleep(ctx, retryInterval) {
			return false
		}
	}
}

// waitUntilDue waits for the part of a second that its time is behind the chunk's.
func (f *consumer) waitUntilDue(ctx context.Context, t *task) bool {
	return sleep(ctx, time.Until(t.Due))
}

// process carries t to its end, or to where it waits for another time, and returns true when that is on disk. Otherwise t
// has to come again: ctx has ended, or somebody else seems to be at it.
func (f *consumer) process(ctx context.Context, t *task, s State) bool {
	for {
		switch {
		case isEnded(s.Status), s.Attempt > t.AttemptsStarted && isWaiting(s.Status): // this is an old copy of what was put back since
			return true
		case s.Status == push.StatusSending && s.Attempt > t.AttemptsStarted && !(t.Notification.MayRetryUnknown() && t.Notification.MayRetry(s.Attempt)):
			return f.recordEnd(ctx, t, f.inDoubtReceipt(t))
		}
		receipt, begun, err := f.attempt(ctx, t, s.Attempt)
		switch {
		case err == nil:
			return f.finish(ctx, t, receipt, begun)
		case errors.Is(err, errCancelled):
			return true
		case errors.Is(err, errSentElsewhere):
			return false
		}
		// Nothing has left, and the journal may have heard that it did.
		if !sleep(ctx, retryInterval) || !f.reloadState(ctx, t, &s) {
			return false
		}
	}
}

// reloadState asks how t stands, where the journal did not take note that it was leaving. That it is being sent is our own
// note then, and nothing in doubt.
func (f *consumer) reloadState(ctx context.Context, t *task, s *State) bool {
	f.caughtUp.Store(false)
	fresh := f.loadStates(ctx, false, []*task{t})
	if fresh == nil {
		return false
	}
	*s = fresh[t.ID]
	t.AttemptsStarted = max(t.AttemptsStarted, s.Attempt)
	return true
}

func (f *consumer) inDoubtReceipt(t *task) push.Receipt {
	return push.Receipt{ID: t.ID, Attempts: t.priorAttempts(), Outcome: push.Outcome{Verdict: push.Unknown, Reason: reasonInDoubt}}
}

// attempt makes one try at t, whose attempts the journal has counted so far, and tells how many have begun with it. An error
// says why it did not leave: errCancelled, errElsewhere, or that the journal could not take note of it.
func (f *consumer) attempt(ctx context.Context, t *task, counted int) (receipt push.Receipt, begun int, err error) {
	n := *t.Notification
	n.CanQueue = true
	before := max(counted, t.AttemptsStarted)
	begun = before
	n.Retry = remainingAttempts(t.Notification.Retry, before)
	n.BeforeAttempt = func(attempt int) error {
		err = f.beforeAttempt(ctx, t, before+attempt)
		if err == nil {
			begun = before + attempt
		}
		return err
	}
	timed, stop := context.WithTimeout(ctx, f.cfg.SendTimeout)
	defer stop()
	receipt = f.cfg.Sender.Send(timed, &n)
	receipt.Attempts = mergeAttempts(t.priorAttempts(), receipt.Attempts)
	return receipt, begun, err
}

// remainingAttempts is what r leaves of its attempts after so many. A try makes at least one.
func remainingAttempts(r *push.Retry, attempts int) *push.Retry {
	if r == nil || r.Attempts == 0 {
		return nil
	}
	return &push.Retry{Attempts: max(1, r.Attempts-attempts)}
}

// maxReceiptAttempts is how many a receipt tells: a day of trouble must not make a task of kilobytes one of megabytes.
const maxReceiptAttempts = 64

// mergeAttempts returns earlier attempts and the later ones behind them; of too many the first and the last.
func mergeAttempts(earlier, later []push.Attempt) []push.Attempt {
	all := slices.Concat(earlier, later)
	if len(all) > maxReceiptAttempts {
		all = slices.Delete(all, maxReceiptAttempts/2, len(all)-maxReceiptAttempts/2)
	}
	return all
}

// beforeAttempt notes that an attempt leaves, and says whether it may: the order of the journal decides between it and whoever
// cancels, and between two copies of one task.
func (f *consumer) beforeAttempt(ctx context.Context, t *task, attempt int) error {
	e := t.newEvent(push.StatusSending, time.Now().UTC())
	e.Attempt = attempt
	place, err := f.cfg.Journal.Append(ctx, e)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := f.cfg.Journal.WaitForSeq(ctx, place.Seq); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	s, err := f.loader.load(ctx, t.ID)
	if err != nil {
		return err
	}
	switch {
	case s.Offset == place:
		return nil
	case s.Status == push.StatusCancelled:
		return errCancelled
	default:
		return errSentElsewhere
	}
}

// finish ends t as its receipt says, or puts it back.
func (f *consumer) finish(ctx context.Context, t *task, receipt push.Receipt, begun int) bool {
	if receipt.Verdict == push.Abandoned { // ctx has ended; what had left stays in doubt
		return false
	}
	at, again := f.retryAt(t, &receipt, begun)
	if !again {
		return f.recordEnd(ctx, t, receipt)
	}
	next := *t
	next.Due, next.Reschedules, next.AttemptsStarted, next.Receipt = at, t.Reschedules+1, begun, &receipt
	return f.reschedule(ctx, t, &next)
}

// recordEnd writes the end of t, which is worth any wait: without it, it would be sent again.
func (f *consumer) recordEnd(ctx context.Context, t *task, receipt push.Receipt) bool {
	return f.retryUntilDone(ctx, "cannot write an end", func() error {
		_, err := f.cfg.Journal.Append(ctx, t.endEvent(receipt))
		return err
	})
}

// reschedule has t wait as next. That is on disk before the journal hears of it, and the journal before t goes: should we die
// in between, t comes again, and the journal tells it from the copy that counts.
func (f *consumer) reschedule(ctx context.Context, t, next *task) bool {
	text, err := next.encode()
	if err != nil { // it was written before
		f.cfg.Logger.Error("queue: cannot put a task back", "app", t.App, "err", err)
		return f.recordEnd(ctx, t, *next.Receipt)
	}
	waits := f.retryUntilDone(ctx, "cannot put a task back", func() error {
		_, err := f.requeue.Append(ctx, next.destination().subject(), text)
		return err
	})
	f.notifyPartition(next.partition())
	if !waits || next.AttemptsStarted == t.AttemptsStarted { // and so the journal knows all of it
		return waits
	}
	return f.retryUntilDone(ctx, "cannot write that a task was put back", func() error {
		_, err := f.cfg.Journal.Append(ctx, next.waitingEvent(time.Now().UTC()))
		return err
	})
}

func isWaiting(s push.Status) bool { return s == push.StatusQueued || s == push.StatusScheduled }

func isEnded(s push.Status) bool { return s != "" && s != push.StatusSending && !isWaiting(s) }
