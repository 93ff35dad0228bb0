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

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/push"
)

// Our own words for an end without a provider's.
const (
	inDoubt    = "IN_DOUBT"    // an attempt had left when its gateway died, and it must not be repeated
	ttlExpired = "TTL_EXPIRED" // it cannot be tried again before its ttl is over
)

// Why an attempt was kept here. Neither is a failure: somebody else has come first in the journal.
var (
	errCancelled = errors.New("queue: cancelled")
	errElsewhere = errors.New("queue: another copy of it is being sent")
)

// chunk has every task of h sent, and acks h when all of them have ended or wait elsewhere, both on disk.
func (f *flow) chunk(ctx, sending context.Context, h *hand) {
	tasks := f.read(h)
	slices.SortStableFunc(tasks, func(a, b *task) int { return a.Due.Compare(b.Due) })
	states := f.standing(ctx, h.again, tasks)
	if states == nil {
		f.giveBack(ctx, h)
		return
	}
	var unsettled atomic.Bool
	var sends sync.WaitGroup
	for _, t := range tasks {
		if !f.awaitDue(ctx, t) || !enter(ctx, f.slots, true) || f.drains() {
			unsettled.Store(true)
			break
		}
		sends.Go(func() {
			defer func() { <-f.slots }()
			if !f.settle(sending, t, states[t.ID]) {
				unsettled.Store(true)
			}
		})
	}
	sends.Wait()
	if unsettled.Load() {
		f.giveBack(ctx, h)
		return
	}
	if err := f.onHand.message(h).Ack(); err != nil { // it comes again, and all of it has ended
		f.cfg.Logger.Debug("queue: ack", "err", err)
	}
}

// giveBack has h come again: to another gateway at once if this one drains. If that is lost it comes by itself.
func (f *flow) giveBack(ctx context.Context, h *hand) {
	if ctx.Err() != nil {
		_ = f.onHand.message(h).Nak()
		return
	}
	_ = f.onHand.message(h).NakWithDelay(ackWait)
}

// read returns the tasks of a chunk. What cannot be read is told, loudly, and passed over: the rest must not wait for it.
func (f *flow) read(h *hand) []*task {
	var tasks []*task
	for i, text := range engine.Items(h.msg.Data()) {
		t, err := readTask(text)
		if err != nil {
			f.cfg.Logger.Error("queue: a task is damaged and lost", "stream", h.key.stream, "seq", h.key.seq, "index", i, "err", err)
			continue
		}
		tasks = append(tasks, t)
	}
	return tasks
}

// standing asks the journal how the tasks stand, until it answers. It returns nil when ctx ends first. A chunk that
// somebody has been at needs all that this one wrote.
func (f *flow) standing(ctx context.Context, again bool, tasks []*task) map[string]State {
	ids := make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	var states map[string]State
	f.insist(ctx, "cannot ask the journal", func() (err error) {
		if again || !f.caught.Load() {
			if err = f.cfg.Journal.Caught(ctx); err != nil {
				return err
			}
			f.caught.Store(true)
		}
		states, err = f.cfg.Journal.States(ctx, ids)
		if err == nil && states == nil {
			states = map[string]State{}
		}
		return err
	})
	return states
}

// insist does what must be done until it is, or ctx ends.
func (f *flow) insist(ctx context.Context, trouble string, do func() error) (done bool) {
	for warned := false; ; warned = true {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if !warned {
			f.cfg.Logger.Warn("queue: "+trouble, "app", f.source.app, "err", err)
		}
		if !rest(ctx, restWait) {
			return false
		}
	}
}

// awaitDue waits for the part of a second that its time is behind the chunk's.
func (f *flow) awaitDue(ctx context.Context, t *task) bool { return rest(ctx, time.Until(t.Due)) }

// settle carries t to its end, or to where it waits for another time, and returns true when that is on disk. Otherwise t
// has to come again: ctx has ended, or somebody else seems to be at it.
func (f *flow) settle(ctx context.Context, t *task, s State) bool {
	for {
		switch {
		case ended(s.Status), s.Attempt > t.Begun && waits(s.Status): // this is an old copy of what was put back since
			return true
		case s.Status == push.StatusSending && s.Attempt > t.Begun && !(t.N.MayRetryUnknown() && t.N.MayRetry(s.Attempt)):
			return f.end(ctx, t, f.inDoubt(t))
		}
		receipt, begun, err := f.send(ctx, t, s.Attempt)
		switch {
		case err == nil:
			return f.settled(ctx, t, receipt, begun)
		case errors.Is(err, errCancelled):
			return true
		case errors.Is(err, errElsewhere):
			return false
		}
		// Nothing has left, and the journal may have heard that it did.
		if !rest(ctx, restWait) || !f.refresh(ctx, t, &s) {
			return false
		}
	}
}

// refresh asks how t stands, where the journal did not take note that it was leaving. That it is being sent is our own
// note then, and nothing in doubt.
func (f *flow) refresh(ctx context.Context, t *task, s *State) bool {
	f.caught.Store(false)
	fresh := f.standing(ctx, false, []*task{t})
	if fresh == nil {
		return false
	}
	*s = fresh[t.ID]
	t.Begun = max(t.Begun, s.Attempt)
	return true
}

func (f *flow) inDoubt(t *task) push.Receipt {
	return push.Receipt{ID: t.ID, Attempts: t.attempts(), Outcome: push.Outcome{Verdict: push.Unknown, Reason: inDoubt}}
}

// send makes one try at t, whose attempts the journal has counted so far, and tells how many have begun with it. An error
// says why it did not leave: errCancelled, errElsewhere, or that the journal could not take note of it.
func (f *flow) send(ctx context.Context, t *task, counted int) (receipt push.Receipt, begun int, err error) {
	n := *t.N
	n.CanQueue = true
	before := max(counted, t.Begun)
	begun = before
	n.Retry = remaining(t.N.Retry, before)
	n.BeforeAttempt = func(attempt int) error {
		err = f.leaving(ctx, t, before+attempt)
		if err == nil {
			begun = before + attempt
		}
		return err
	}
	timed, stop := context.WithTimeout(ctx, f.cfg.SendTime)
	defer stop()
	receipt = f.cfg.Sender.Send(timed, &n)
	receipt.Attempts = join(t.attempts(), receipt.Attempts)
	return receipt, begun, err
}

// remaining is what r leaves of its attempts after so many. A try makes at least one.
func remaining(r *push.Retry, attempts int) *push.Retry {
	if r == nil || r.Attempts == 0 {
		return nil
	}
	return &push.Retry{Attempts: max(1, r.Attempts-attempts)}
}

// mostAttempts is how many a receipt tells: a day of trouble must not make a task of kilobytes one of megabytes.
const mostAttempts = 64

// join returns earlier attempts and the later ones behind them; of too many the first and the last.
func join(earlier, later []push.Attempt) []push.Attempt {
	all := slices.Concat(earlier, later)
	if len(all) > mostAttempts {
		all = slices.Delete(all, mostAttempts/2, len(all)-mostAttempts/2)
	}
	return all
}

// leaving notes that an attempt leaves, and says whether it may: the order of the journal decides between it and whoever
// cancels, and between two copies of one task.
func (f *flow) leaving(ctx context.Context, t *task, attempt int) error {
	e := t.event(push.StatusSending, time.Now().UTC())
	e.Attempt = attempt
	place, err := f.cfg.Journal.Append(ctx, e)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := f.cfg.Journal.Reach(ctx, place.Seq); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	s, err := f.asker.state(ctx, t.ID)
	if err != nil {
		return err
	}
	switch {
	case s.Place == place:
		return nil
	case s.Status == push.StatusCancelled:
		return errCancelled
	default:
		return errElsewhere
	}
}

// settled ends t as its receipt says, or puts it back.
func (f *flow) settled(ctx context.Context, t *task, receipt push.Receipt, begun int) bool {
	if receipt.Verdict == push.Abandoned { // ctx has ended; what had left stays in doubt
		return false
	}
	at, again := f.again(t, &receipt, begun)
	if !again {
		return f.end(ctx, t, receipt)
	}
	next := *t
	next.Due, next.Tries, next.Begun, next.Receipt = at, t.Tries+1, begun, &receipt
	return f.putBack(ctx, t, &next)
}

// end writes the end of t, which is worth any wait: without it, it would be sent again.
func (f *flow) end(ctx context.Context, t *task, receipt push.Receipt) bool {
	return f.insist(ctx, "cannot write an end", func() error {
		_, err := f.cfg.Journal.Append(ctx, t.ends(receipt))
		return err
	})
}

// putBack has t wait as next. That is on disk before the journal hears of it, and the journal before t goes: should we die
// in between, t comes again, and the journal tells it from the copy that counts.
func (f *flow) putBack(ctx context.Context, t, next *task) bool {
	text, err := next.write()
	if err != nil { // it was written before
		f.cfg.Logger.Error("queue: cannot put a task back", "app", t.App, "err", err)
		return f.end(ctx, t, *next.Receipt)
	}
	waits := f.insist(ctx, "cannot put a task back", func() error {
		_, err := f.back.Append(ctx, next.shelf().subject(), text)
		return err
	})
	f.find(next.source())
	if !waits || next.Begun == t.Begun { // and so the journal knows all of it
		return waits
	}
	return f.insist(ctx, "cannot write that a task was put back", func() error {
		_, err := f.cfg.Journal.Append(ctx, next.waits(time.Now().UTC()))
		return err
	})
}

func waits(s push.Status) bool { return s == push.StatusQueued || s == push.StatusScheduled }

func ended(s push.Status) bool { return s != "" && s != push.StatusSending && !waits(s) }
