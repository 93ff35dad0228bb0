// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"cmp"
	"encoding/json"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/engine/enginetest"
	"github.com/sluice-push/sluice/history"
	"github.com/sluice-push/sluice/push"
)

// waiting puts notifications into a stream as a queue does.
func (h *house) waiting(stream string, ids ...string) {
	h.Helper()
	enginetest.Insist(h, h.where, func() error {
		_, err := h.engine.Stream(h.Context(), jetstream.StreamConfig{
			Name: stream, Subjects: []string{stream + ".>"}, Retention: jetstream.WorkQueuePolicy, AllowDirect: true,
		})
		return err
	})
	for _, id := range ids {
		text, _ := json.Marshal(map[string]any{"id": id, "app": "shop", "n": map[string]any{}})
		enginetest.Insist(h, h.where, func() error {
			_, err := h.engine.JetStream().Publish(h.Context(), stream+".x", text, jetstream.WithMsgID(id))
			return err
		})
	}
}

func (h *house) audit(queues ...string) (report *history.Report) {
	h.Helper()
	enginetest.Insist(h, h.where, func() (err error) {
		report, err = history.Audit(h.Context(), h.engine, queues...)
		return err
	})
	slices.SortFunc(report.Findings, func(a, b history.Finding) int { return cmp.Compare(a.Cursor, b.Cursor) })
	return report
}

func TestAnAuditOfWhatEndedOrWaitsIsClean(t *testing.T) {
	house := newHouse(t)
	r := house.open()
	for range 50 {
		r.append(life(id())...)
	}
	waits, cancelled, sync, late, again := id(), id(), id(), id(), id()
	r.append(event(waits, push.StatusQueued), event(waits, push.StatusSending))
	r.append(event(cancelled, push.StatusScheduled), event(cancelled, push.StatusCancelled), event(cancelled, push.StatusCancelled))
	r.append(event(sync, push.StatusAccepted))
	r.append(event(late, push.StatusQueued), event(late, push.StatusSending), event(late, push.StatusCancelled), event(late, push.StatusAccepted))
	twice := event(again, push.StatusAccepted)
	twice.At = noon.Add(time.Second) // the same end, written again after an error that was none
	r.append(append(life(again), twice)...)
	house.waiting("TASKS", waits, id())
	want := &history.Report{Events: 50*3 + 2 + 3 + 1 + 4 + 4, Notifications: 56, Accepted: 54, Waiting: 2}
	if diff := gocmp.Diff(want, house.audit("TASKS", "NONE")); diff != "" {
		t.Error(diff)
	}
}

func TestAnAuditFindsWhatWasPlanted(t *testing.T) {
	house := newHouse(t)
	r := house.open()
	for range 20 {
		r.append(life(id())...)
	}
	lost, leftBehind, twice, sentAfterCancel, unannounced, interrupted := id(), id(), id(), id(), id(), id()
	r.append(event(lost, push.StatusQueued))
	r.append(event(leftBehind, push.StatusScheduled), event(leftBehind, push.StatusSending))
	r.append(append(life(twice), event(twice, push.StatusUnregistered))...)
	r.append(event(sentAfterCancel, push.StatusQueued), event(sentAfterCancel, push.StatusCancelled), event(sentAfterCancel, push.StatusAccepted))
	r.append(event(unannounced, push.StatusSending), event(unannounced, push.StatusAccepted))
	keyed := event(interrupted, push.StatusSending)
	keyed.KeyHash, keyed.BodyHash = []byte("key"), []byte("body")
	r.append(keyed)
	house.waiting("TASKS")
	got := house.audit("TASKS")
	want := &history.Report{
		Events: 60 + 1 + 2 + 4 + 3 + 2 + 1, Notifications: 26, Accepted: 24, Lost: 2, Twice: 2, Unannounced: 1, Interrupted: 1,
		Findings: []history.Finding{
			{Kind: "lost", ID: lost}, {Kind: "lost", ID: leftBehind}, {Kind: "twice", ID: twice}, {Kind: "twice", ID: sentAfterCancel},
			{Kind: "unannounced", ID: unannounced}, {Kind: "interrupted", ID: interrupted},
		},
	}
	if diff := gocmp.Diff(want, got, cmpopts.IgnoreFields(history.Finding{}, "App", "Cursor")); diff != "" {
		t.Error(diff)
	}
	if got.Clean() {
		t.Error("clean")
	}
	if f := got.Findings[0]; f.App != "shop" || f.Cursor == "" {
		t.Errorf("%+v", f)
	}
}
