// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/push"
)

// Reasons of ends that do not come from a provider.
const (
	reasonInDoubt    = "IN_DOUBT"    // the gateway died during an attempt that must not be repeated
	reasonTTLExpired = "TTL_EXPIRED" // no retry is possible before the TTL expires
	reasonPanic      = "QUEUE_PANIC" // a bug, perhaps during an attempt
)

// Reasons why an attempt must not start: another event came first in the journal.
var (
	errCancelled     = errors.New("queue: notification is cancelled")
	errSentElsewhere = errors.New("queue: another copy of the notification is being sent")
)

// processMessage sends every task of m, and returns true when all of them have ended or are
// rescheduled on disk.
func (c *consumer) processMessage(ctx, sendCtx context.Context, m *inFlightMessage) bool {
	tasks := c.decodeTasks(m)
	slices.SortStableFunc(tasks, func(a, b *task) int { return a.Due.Compare(b.Due) })
	states := c.loadStates(ctx, m.deliveries > 1, tasks)
	if states == nil {
		return false
	}
	var unfinished atomic.Bool
	var sends sync.WaitGroup
	for _, t := range tasks {
		if !c.waitUntilDue(ctx, t) || !acquire(ctx, c.slots, true) || c.isDraining() {
			unfinished.Store(true)
			break
		}
		sends.Go(func() {
			defer func() { <-c.slots }()
			if !c.guard(func() bool { return c.process(sendCtx, t, states[t.ID]) }) {
				unfinished.Store(true)
			}
		})
	}
	sends.Wait()
	return !unfinished.Load()
}

// settle acknowledges a message whose tasks are finished. Otherwise it asks the server to redeliver
// it: immediately if this gateway drains, and with a growing delay if it does not, because the cause
// can be a panic that occurs each time, or an attempt of another gateway. If a request is lost, the
// message is redelivered after ackWait, and the journal shows which of its tasks have ended.
func (c *consumer) settle(ctx context.Context, m *inFlightMessage, finished bool) {
	var err error
	switch msg := c.inFlight.latest(m); {
	case finished:
		err = msg.Ack()
	case ctx.Err() != nil:
		err = msg.Nak()
	default:
		err = msg.NakWithDelay(min(max(ackWait, backoff(m.deliveries)), maxNakDelay))
	}
	if err != nil {
		c.cfg.Logger.Debug("cannot acknowledge a message", "err", err)
	}
}

// decodeTasks returns the tasks of a message. It logs and skips those that it cannot decode.
func (c *consumer) decodeTasks(m *inFlightMessage) []*task {
	var tasks []*task
	for i, data := range jetstream.Items(m.msg.Data()) {
		t, err := decodeTask(data)
		if err != nil {
			c.cfg.Logger.Error("damaged task dropped", "stream", m.key.stream, "seq", m.key.seq, "index", i, "err", err)
			continue
		}
		tasks = append(tasks, t)
	}
	return tasks
}

// loadStates reads the states of the tasks from the journal. It retries until ctx ends, and then
// returns nil. With latest, for instance for a redelivered message, it first waits until the journal
// includes everything that other gateways wrote.
func (c *consumer) loadStates(ctx context.Context, latest bool, tasks []*task) map[string]State {
	ids := make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	var states map[string]State
	c.retryUntilDone(ctx, "cannot read task states; retrying", func() (err error) {
		if latest || !c.caughtUp.Load() {
			if err = c.cfg.Journal.WaitCaughtUp(ctx); err != nil {
				return err
			}
			c.caughtUp.Store(true)
		}
		states, err = c.cfg.Journal.States(ctx, ids)
		if err == nil && states == nil {
			states = map[string]State{}
		}
		return err
	})
	return states
}

// retryUntilDone calls do until it succeeds or ctx ends, and reports whether it succeeded. It logs
// the first failure.
func (c *consumer) retryUntilDone(ctx context.Context, problem string, do func() error) (done bool) {
	return retryUntilDone(ctx, c.cfg.Logger.With("app", c.partition.app), problem, do)
}

func retryUntilDone(ctx context.Context, log *slog.Logger, problem string, do func() error) (done bool) {
	for warned := false; ; warned = true {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if !warned {
			log.Warn(problem, "err", err)
		}
		if !sleep.For(ctx, retryInterval) {
			return false
		}
	}
}

// waitUntilDue waits until the task's due time, which is up to a second after that of its message.
func (c *consumer) waitUntilDue(ctx context.Context, t *task) bool {
	return sleep.For(ctx, time.Until(t.Due))
}

// process sends t until it has ended or is rescheduled, and returns true when that is on disk. It
// returns false if the message must be redelivered: ctx has ended, or another copy of t is being
// sent.
func (c *consumer) process(ctx context.Context, t *task, s State) (finished bool) {
	if !c.begin(ctx, t, &s) {
		return false
	}
	defer c.processing.end(t.ID)
	err := panics.Recover(c.cfg.Logger, c.taskName(), func() error {
		finished = c.sendTask(ctx, t, s)
		return nil
	})
	if err != nil {
		return c.finishPanicked(ctx, t, s)
	}
	return finished
}

// finishPanicked ends or reschedules t after a panic; s is the state before it. The panic counts as
// an attempt with an unknown outcome, also if it occurred before the attempt was recorded. So a panic
// that occurs each time ends t.
func (c *consumer) finishPanicked(ctx context.Context, t *task, s State) bool {
	started := max(s.Attempt, t.AttemptsStarted) + 1
	if s = c.latestState(ctx, t); ctx.Err() != nil {
		return false
	}
	if isEnded(s.Status) || isWaiting(s.Status) && s.Attempt >= started { // recorded before the panic
		return true
	}
	if s.Attempt < started {
		if err := c.beforeAttempt(ctx, t, started); err != nil {
			return errors.Is(err, errCancelled)
		}
	}
	panicked := push.Outcome{Verdict: push.Unknown, Reason: reasonPanic}
	receipt := push.Receipt{ID: t.ID, Outcome: panicked}
	receipt.Attempts = mergeAttempts(t.priorAttempts(), []push.Attempt{{Started: time.Now().UTC(), Outcome: panicked}})
	return c.finish(ctx, t, receipt, max(started, s.Attempt))
}

// sendTask is process for a task that no other goroutine handles.
func (c *consumer) sendTask(ctx context.Context, t *task, s State) bool {
	var latest jetstream.Offset // of the last state that was read in this function
	for {
		othersAttempt := s.Status == push.StatusSending && s.Attempt > t.AttemptsStarted
		switch {
		case isEnded(s.Status), s.Attempt > t.AttemptsStarted && isWaiting(s.Status): // t is an old copy of a rescheduled task
			return true
		case othersAttempt && !c.isSettled(s): // another gateway may be alive and about to record the end
			return false
		case othersAttempt && s.Offset != latest: // it may have recorded the end since s was read
			if s = c.latestState(ctx, t); s.Status == "" {
				return false
			}
			latest = s.Offset
			continue
		case othersAttempt && !(t.Notification.MayRetryUnknown() && t.Notification.MayRetry(s.Attempt)):
			return c.recordEnd(ctx, t, inDoubtReceipt(t))
		}
		receipt, begun, err := c.attempt(ctx, t, s.Attempt)
		switch {
		case err == nil:
			return c.finish(ctx, t, receipt, begun)
		case errors.Is(err, errCancelled):
			return true
		case errors.Is(err, errSentElsewhere):
			return false
		}
		// Nothing was sent, but the journal may have the event that the attempt started.
		if !sleep.For(ctx, retryInterval) || !c.reloadState(ctx, t, &s) {
			return false
		}
	}
}

// isSettled reports whether an attempt with this state has an end in the journal, unless its gateway
// has died. With an embedded engine, no other gateway is alive.
func (c *consumer) isSettled(s State) bool {
	return c.cfg.Engine.Embedded() || s.Offset.Seq > 0 && s.Offset.Seq <= c.settledSeq.Load()
}

// latestState reads the state of t after all events that are in the journal now. It retries until ctx
// ends, and then returns no state.
func (c *consumer) latestState(ctx context.Context, t *task) State {
	return c.loadStates(ctx, true, []*task{t})[t.ID]
}

// reloadState reads the state of t after its attempt could not be recorded. A sending state that is
// found now comes from this attempt, so it does not put t in doubt.
func (c *consumer) reloadState(ctx context.Context, t *task, s *State) bool {
	if *s = c.latestState(ctx, t); ctx.Err() != nil {
		return false
	}
	t.AttemptsStarted = max(t.AttemptsStarted, s.Attempt)
	return true
}

func inDoubtReceipt(t *task) push.Receipt {
	return push.Receipt{ID: t.ID, Attempts: t.priorAttempts(), Outcome: push.Outcome{Verdict: push.Unknown, Reason: reasonInDoubt}}
}

// attempt sends t once; recorded is the number of attempts in the journal. It returns the receipt
// and the number of attempts started so far. The error says why an attempt did not start:
// errCancelled, errSentElsewhere, or a failed append.
func (c *consumer) attempt(ctx context.Context, t *task, recorded int) (receipt push.Receipt, started int, err error) {
	n := *t.Notification
	before := max(recorded, t.AttemptsStarted)
	started = before
	n.Retry, n.Warnings = remainingAttempts(t.Notification.Retry, before), nil
	call := push.Call{Notification: &n, CanQueue: true, QueuedSince: t.waitingSince(), BeforeAttempt: func(attempt int) error {
		err = c.beforeAttempt(ctx, t, before+attempt)
		if err == nil {
			started = before + attempt
		}
		return err
	}}
	sendCtx, stop := context.WithTimeout(ctx, c.cfg.SendTimeout)
	defer stop()
	receipt = *c.cfg.Sender.Send(sendCtx, &call)
	receipt.Attempts = mergeAttempts(t.priorAttempts(), receipt.Attempts)
	return receipt, started, err
}

// remainingAttempts returns r with the number of attempts that are left after so many, at least
// one.
func remainingAttempts(r *push.Retry, attempts int) *push.Retry {
	if r == nil || r.Attempts == 0 {
		return nil
	}
	return &push.Retry{Attempts: max(1, r.Attempts-attempts)}
}

// maxReceiptAttempts bounds the attempts in a receipt, so that retries do not grow a task from
// kilobytes to megabytes.
const maxReceiptAttempts = 64

// mergeAttempts returns the earlier and the later attempts, without those in the middle if there
// are too many.
func mergeAttempts(earlier, later []push.Attempt) []push.Attempt {
	if len(earlier) == 0 && len(later) <= maxReceiptAttempts {
		return later
	}
	all := slices.Concat(earlier, later)
	if len(all) > maxReceiptAttempts {
		all = slices.Delete(all, maxReceiptAttempts/2, len(all)-maxReceiptAttempts/2)
	}
	return all
}

// beforeAttempt records the start of an attempt, and returns an error if the attempt must not
// start. The order of the journal decides between an attempt and a cancellation, and between two
// copies of a task.
func (c *consumer) beforeAttempt(ctx context.Context, t *task, attempt int) error {
	e := t.newEvent(push.StatusSending, time.Now().UTC())
	e.Attempt = attempt
	offset, err := c.cfg.Journal.Append(ctx, e)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := c.cfg.Journal.WaitForSeq(ctx, offset.Seq); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	s, err := c.loader.load(ctx, t.ID)
	if err != nil {
		return err
	}
	switch {
	case s.Offset == offset:
		return nil
	case s.Status == push.StatusCancelled:
		return errCancelled
	default:
		return errSentElsewhere
	}
}

// finish ends or reschedules t according to its receipt.
func (c *consumer) finish(ctx context.Context, t *task, receipt push.Receipt, started int) bool {
	if receipt.Verdict == push.Abandoned { // ctx has ended; an attempt that had started is in doubt
		return false
	}
	at, retry := c.cfg.retryAt(t, &receipt, started)
	if !retry {
		return c.recordEnd(ctx, t, receipt)
	}
	next := *t
	next.Due, next.Reschedules, next.AttemptsStarted, next.Receipt = at, t.Reschedules+1, started, &receipt
	return c.reschedule(ctx, t, &next)
}

// recordEnd appends the end of t to the journal. It retries, because without this event t would be
// sent again, unless a failed write was stored after all or another gateway has ended t meanwhile.
func (c *consumer) recordEnd(ctx context.Context, t *task, receipt push.Receipt) bool {
	failed := false
	return c.retryUntilDone(ctx, "cannot record the end of a task; retrying", func() error {
		if failed {
			states, err := c.cfg.latestStates(ctx, []string{t.ID})
			if err != nil || isEnded(states[t.ID].Status) {
				return err
			}
		}
		_, err := c.cfg.Journal.Append(ctx, t.endEvent(receipt))
		failed = err != nil
		return err
	})
}

// reschedule writes next to the scheduled stream, then to the journal. Its caller acknowledges t
// last: after a crash in between t is redelivered, and the journal shows that it is an old copy.
func (c *consumer) reschedule(ctx context.Context, t, next *task) bool {
	data, err := next.encode()
	if err != nil { // unexpected, because the task was encoded before
		c.cfg.Logger.Error("cannot reschedule a task", "app", t.App, "err", err)
		return c.recordEnd(ctx, t, *next.Receipt)
	}
	waiting := c.retryUntilDone(ctx, "cannot reschedule a task; retrying", func() error {
		_, err := c.scheduled.writer.Append(ctx, next.destination().subject(), data)
		return err
	})
	c.notifyPartition(next.partition())
	if !waiting || next.AttemptsStarted == t.AttemptsStarted { // without a new attempt the journal is up to date
		return waiting
	}
	return c.retryUntilDone(ctx, "cannot record that a task was rescheduled; retrying", func() error {
		_, err := c.cfg.Journal.Append(ctx, next.waitingEvent(time.Now().UTC()))
		return err
	})
}

// begin waits until no other copy of t is processed, and reads the state again if it had to wait. It
// returns false if ctx ends.
func (c *consumer) begin(ctx context.Context, t *task, s *State) bool {
	for waited := false; ; waited = true {
		busy := c.processing.begin(t.ID)
		if busy == nil {
			if !waited {
				return true
			}
			states := c.loadStates(ctx, false, []*task{t})
			if states == nil {
				c.processing.end(t.ID)
				return false
			}
			*s = states[t.ID]
			return true
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return false
		}
	}
}

func isWaiting(s push.Status) bool { return s == push.StatusQueued || s == push.StatusScheduled }

func isEnded(s push.Status) bool { return s != "" && s != push.StatusSending && !isWaiting(s) }
