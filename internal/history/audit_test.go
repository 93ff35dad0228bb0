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
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/push"
)

// addQueued puts notifications into a stream as a queue does.
func (h *fixture) addQueued(stream string, ids ...string) {
	h.Helper()
	jetstreamtest.Retry(h, h.engineConfig, func() error {
		_, err := h.engine.Stream(h.Context(), natsjs.StreamConfig{
			Name: stream, Subjects: []string{stream + ".>"}, Retention: natsjs.WorkQueuePolicy, AllowDirect: true,
		})
		return err
	})
	for _, id := range ids {
		text, _ := json.Marshal(map[string]any{"id": id, "app": "shop", "n": map[string]any{}})
		jetstreamtest.Retry(h, h.engineConfig, func() error {
			_, err := h.engine.JetStream().Publish(h.Context(), stream+".x", text, natsjs.WithMsgID(id))
			return err
		})
	}
}

func (h *fixture) audit(queues ...string) (report *history.Report) {
	h.Helper()
	jetstreamtest.Retry(h, h.engineConfig, func() (err error) {
		report, err = history.Audit(h.Context(), h.engine, queues...)
		return err
	})
	slices.SortFunc(report.Findings, func(a, b history.Finding) int { return cmp.Compare(a.Cursor, b.Cursor) })
	return report
}

func TestAuditOfCompleteHistoryIsClean(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	for range 50 {
		r.appendEvents(lifecycle(newID())...)
	}
	waits, cancelled, sync, late, again := newID(), newID(), newID(), newID(), newID()
	r.appendEvents(newEvent(waits, push.StatusQueued), newEvent(waits, push.StatusSending))
	r.appendEvents(newEvent(cancelled, push.StatusScheduled), newEvent(cancelled, push.StatusCancelled), newEvent(cancelled, push.StatusCancelled))
	r.appendEvents(newEvent(sync, push.StatusAccepted))
	r.appendEvents(newEvent(late, push.StatusQueued), newEvent(late, push.StatusSending), newEvent(late, push.StatusCancelled), newEvent(late, push.StatusAccepted))
	twice := newEvent(again, push.StatusAccepted)
	twice.At = noon.Add(time.Second) // the same end, written again after an error that was none
	r.appendEvents(append(lifecycle(again), twice)...)
	house.addQueued("TASKS", waits, newID())
	want := &history.Report{Events: 50*3 + 2 + 3 + 1 + 4 + 4, Notifications: 56, Accepted: 54, Waiting: 2}
	if diff := gocmp.Diff(want, house.audit("TASKS", "NONE")); diff != "" {
		t.Error(diff)
	}
}

func TestAuditFindsEachKind(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	for range 20 {
		r.appendEvents(lifecycle(newID())...)
	}
	lost, leftBehind, twice, sentAfterCancel, unannounced, interrupted := newID(), newID(), newID(), newID(), newID(), newID()
	r.appendEvents(newEvent(lost, push.StatusQueued))
	r.appendEvents(newEvent(leftBehind, push.StatusScheduled), newEvent(leftBehind, push.StatusSending))
	r.appendEvents(append(lifecycle(twice), newEvent(twice, push.StatusUnregistered))...)
	r.appendEvents(newEvent(sentAfterCancel, push.StatusQueued), newEvent(sentAfterCancel, push.StatusCancelled), newEvent(sentAfterCancel, push.StatusAccepted))
	r.appendEvents(newEvent(unannounced, push.StatusSending), newEvent(unannounced, push.StatusAccepted))
	keyed := newEvent(interrupted, push.StatusSending)
	keyed.KeyHash, keyed.BodyHash = []byte("key"), []byte("body")
	r.appendEvents(keyed)
	house.addQueued("TASKS")
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
