// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/push"
)

// recoverEvery is how often a gateway of a cluster calls recover, in units of SettleTime: another one can
// die at any time.
const recoverEvery = 30

// settleSteps is how often settledSeq advances within SettleTime.
const settleSteps = 8

// runRecovery calls recover for the events of earlier processes: with an embedded engine after the
// start, in a cluster after SettleTime and then at an interval. It also calls recover when the engine
// has found damage.
func (q *clusterQueue) runRecovery(ctx context.Context) error {
	embedded, noted := q.cfg.Engine.Embedded(), []uint64{q.openedSeq} // the last sequence at each of the last steps
	for due, ticks := embedded, 1; ; ticks++ {
		damage := q.cfg.Engine.Damage()
		if due {
			q.recoverSettled(ctx)
		}
		if !sleep.For(ctx, q.cfg.SettleTime/settleSteps) {
			return nil
		}
		damaged := q.cfg.Engine.Damage() > damage
		if len(noted) == settleSteps && (!embedded || damaged) {
			q.settledSeq.Store(noted[0])
		}
		seq, err := q.cfg.Journal.LastSeq(ctx)
		if err != nil {
			seq = noted[len(noted)-1]
		}
		noted = append(noted[max(0, len(noted)-settleSteps+1):], seq)
		due = damaged || ticks%settleSteps == 0 && (q.recoveredSeq.Load() == 0 || !embedded && ticks%(recoverEvery*settleSteps) == 0)
	}
}

// recoverSettled calls recover until it succeeds or ctx ends.
func (q *clusterQueue) recoverSettled(ctx context.Context) {
	for warned := false; ; warned = true {
		err := q.recoverSince(ctx, math.MaxUint64)
		if err == nil || ctx.Err() != nil {
			return
		}
		if !warned {
			q.cfg.Logger.Warn("cannot compare the history with the queue; retrying", "err", err)
		}
		sleep.For(ctx, retryInterval)
	}
}

// Confirm waits until it is known whether a waiting notification will be sent, and returns false if
// it no longer waits: its task was missing, so it has ended, or it was sent or cancelled meanwhile.
// Without Confirm, a waiting notification may be one whose gateway died before it stored the task.
func (q *clusterQueue) Confirm(ctx context.Context, id string) (waits bool, err error) {
	q.mu.Lock()
	a := q.unresolved[id]
	q.mu.Unlock()
	if a != nil {
		a.wait(ctx)
	}
	states, err := q.cfg.Journal.States(ctx, []string{id})
	if seq := states[id].Offset.Seq; err == nil && seq <= q.settledSeq.Load() && seq > q.recoveredSeq.Load() {
		if err = q.recoverSince(ctx, seq); err == nil {
			states, err = q.cfg.Journal.States(ctx, []string{id})
		}
	}
	if err == nil {
		err = ctx.Err() // a may not be resolved
	}
	if err != nil {
		return false, fmt.Errorf("queue: %w", err)
	}
	return isWaiting(states[id].Status), nil
}

// recoverSince calls recover, unless an earlier call has checked the event at seq.
func (q *clusterQueue) recoverSince(ctx context.Context, seq uint64) error {
	if err := q.recovering.Acquire(ctx, 1); err != nil {
		return err
	}
	defer q.recovering.Release(1)
	if seq <= q.recoveredSeq.Load() {
		return nil
	}
	return q.recover(ctx, q.settledSeq.Load())
}

// recover ends the notifications that have not ended according to the events up to seq, and that have
// no task: their gateway died between the event and the task or while it sent them synchronously, or
// the task was lost on the disk. The caller holds q.recovering.
func (q *clusterQueue) recover(ctx context.Context, seq uint64) error {
	missing, err := q.cfg.Journal.Unfinished(ctx, seq)
	if err != nil {
		return err
	}
	found := make([]bool, len(missing))
	// In this order, because a task may move from the first stream to the second, and to the end of
	// it. A task leaves the streams only when its notification has ended.
	for _, handle := range []*streamHandle{q.tasks, q.scheduled} {
		if len(missing) == 0 {
			break
		}
		err := handle.forEachTask(ctx, 0, func(id string, data []byte) error {
			q.see(1, len(data))
			if key, err := uuid.Parse(id); err == nil {
				if i, ok := slices.BinarySearchFunc(missing, key, compareUUIDs); ok {
					found[i] = true
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	var ids []string
	for i, id := range missing {
		if !found[i] {
			ids = append(ids, id.String())
		}
	}
	if err := q.cfg.endAllMissing(ctx, ids); err != nil {
		return err
	}
	q.recoveredSeq.Store(max(seq, q.recoveredSeq.Load()))
	return nil
}

// endAllMissing ends notifications that have no task: it is damaged or was never stored, or they were
// sent synchronously by a process that died.
func (c *Config) endAllMissing(ctx context.Context, ids []string) error {
	ended := map[string]int{}
	for group := range slices.Chunk(ids, recoveryGroup) {
		if err := c.endMissing(ctx, group, ended); err != nil {
			return err
		}
	}
	for reason, count := range ended {
		c.Logger.Warn("notifications without a task in the queue ended as unknown", "reason", reason, "notifications", count)
	}
	return nil
}

func compareUUIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

// recoveryGroup is how many ends are written together: each write waits for the disk and the index.
const recoveryGroup = 100

// endMissing ends the notifications without a task, and counts them in ended by reason. It skips those
// that have ended meanwhile.
func (c *Config) endMissing(ctx context.Context, ids []string, ended map[string]int) error {
	states, err := c.latestStates(ctx, ids)
	if err != nil {
		return err
	}
	var ends []push.Event
	for _, id := range ids {
		if isEnded(states[id].Status) {
			continue
		}
		events, err := c.Journal.Events(ctx, id)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			ends = append(ends, c.missingEnd(id, events))
		}
	}
	if len(ends) == 0 {
		return nil
	}
	if _, err := c.Journal.Append(ctx, ends...); err != nil {
		return err
	}
	for _, end := range ends {
		ended[end.Receipt.Reason]++
	}
	return nil
}

// missingEnd returns the end of a notification without a task, whose events are given. One that was never
// queued was sent synchronously, and its gateway has died. The end does not carry the Idempotency-Key,
// which another notification may have by now.
func (c *Config) missingEnd(id string, events []push.Event) push.Event {
	receipt := push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unknown, Reason: push.ReasonTaskLost}}
	for _, e := range events {
		if e.Status == push.StatusSending {
			receipt.Attempts = append(receipt.Attempts, push.Attempt{Started: e.At, Outcome: push.Outcome{Verdict: push.Unknown}})
		}
	}
	switch {
	case !slices.ContainsFunc(events, func(e push.Event) bool { return isWaiting(e.Status) }):
		receipt.Reason = reasonInDoubt
	case len(receipt.Attempts) == 0 && !c.Engine.Embedded():
		receipt.Reason = push.ReasonTaskMissing
	case len(receipt.Attempts) == 0 && c.Engine.Damage() == 0:
		receipt.Reason = push.ReasonNotStored // by a call that was interrupted, so no caller knows that it is stored
	}
	return push.Event{
		ID: id, App: events[0].App, At: time.Now().UTC(), Status: receipt.Status(), Platform: events[0].Platform, Lane: events[0].Lane, Tags: tagsOf(events), Receipt: &receipt,
	}
}

// tagsOf returns the tags of the notification with these events.
func tagsOf(events []push.Event) []string {
	for _, e := range events {
		if len(e.Tags) > 0 {
			return e.Tags
		}
	}
	return nil
}
