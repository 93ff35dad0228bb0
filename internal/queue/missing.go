// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-push/sluice/push"
)

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

// recoveryGroup is how many ends are written together: each write waits for the disk and the index.
const recoveryGroup = 100

// endMissing ends the notifications without a task, and counts them in ended by reason. It skips those
// that have ended meanwhile.
func (c *Config) endMissing(ctx context.Context, ids []string, ended map[string]int) error {
	if err := c.Log.CatchUp(ctx); err != nil {
		return err
	}
	states, err := c.Journal.States(ctx, ids)
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
