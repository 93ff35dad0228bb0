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

// addQueued adds tasks to a stream as a queue does.
func (f *fixture) addQueued(stream string, ids ...string) {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() error {
		_, err := f.engine.Stream(f.Context(), natsjs.StreamConfig{
			Name: stream, Subjects: []string{stream + ".>"}, Retention: natsjs.WorkQueuePolicy, AllowDirect: true,
		})
		return err
	})
	for _, id := range ids {
		text, _ := json.Marshal(map[string]any{"id": id, "app": "shop", "n": map[string]any{}})
		jetstreamtest.Retry(f, f.engineConfig, func() error {
			_, err := f.engine.JetStream().Publish(f.Context(), stream+".x", text, natsjs.WithMsgID(id))
			return err
		})
	}
}

func (f *fixture) audit(queues ...string) (report *history.Report) {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		report, err = history.Audit(f.Context(), f.engine, 0, queues...)
		return err
	})
	slices.SortFunc(report.Findings, func(a, b history.Finding) int { return cmp.Compare(a.Cursor, b.Cursor) })
	return report
}

func TestAuditOfCompleteHistoryIsClean(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	for range 50 {
		h.appendEvents(lifecycle(newID())...)
	}
	waits, cancelled, sync, late, again := newID(), newID(), newID(), newID(), newID()
	h.appendEvents(newEvent(waits, push.StatusQueued), newEvent(waits, push.StatusSending))
	h.appendEvents(newEvent(cancelled, push.StatusScheduled), newEvent(cancelled, push.StatusCancelled), newEvent(cancelled, push.StatusCancelled))
	h.appendEvents(newEvent(sync, push.StatusAccepted))
	h.appendEvents(newEvent(late, push.StatusQueued), newEvent(late, push.StatusSending), newEvent(late, push.StatusCancelled), newEvent(late, push.StatusAccepted))
	twice := newEvent(again, push.StatusAccepted)
	twice.At = eventTime.Add(time.Second) // the same end again, as after a write with unknown result
	h.appendEvents(append(lifecycle(again), twice)...)
	f.addQueued("TASKS", waits, newID())
	want := &history.Report{Events: 50*3 + 2 + 3 + 1 + 4 + 4, Notifications: 56, Accepted: 54, Waiting: 2}
	if diff := gocmp.Diff(want, f.audit("TASKS", "NONE")); diff != "" {
		t.Error(diff)
	}
}

func TestAuditFindsEachKind(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	for range 20 {
		h.appendEvents(lifecycle(newID())...)
	}
	lost, unfinished, twice, sentAfterCancel, unannounced, interrupted := newID(), newID(), newID(), newID(), newID(), newID()
	h.appendEvents(newEvent(lost, push.StatusQueued))
	h.appendEvents(newEvent(unfinished, push.StatusScheduled), newEvent(unfinished, push.StatusSending))
	h.appendEvents(append(lifecycle(twice), newEvent(twice, push.StatusUnregistered))...)
	h.appendEvents(newEvent(sentAfterCancel, push.StatusQueued), newEvent(sentAfterCancel, push.StatusCancelled), newEvent(sentAfterCancel, push.StatusAccepted))
	h.appendEvents(newEvent(unannounced, push.StatusSending), newEvent(unannounced, push.StatusAccepted))
	keyed := newEvent(interrupted, push.StatusSending)
	keyed.KeyHash, keyed.BodyHash = []byte("key"), []byte("body")
	h.appendEvents(keyed)
	f.addQueued("TASKS")
	got := f.audit("TASKS")
	want := &history.Report{
		Events: 60 + 1 + 2 + 4 + 3 + 2 + 1, Notifications: 26, Accepted: 24, Lost: 2, Twice: 2, Unannounced: 1, Interrupted: 1,
		Findings: []history.Finding{
			{Kind: "lost", ID: lost}, {Kind: "lost", ID: unfinished}, {Kind: "twice", ID: twice}, {Kind: "twice", ID: sentAfterCancel},
			{Kind: "unannounced", ID: unannounced}, {Kind: "interrupted", ID: interrupted},
		},
	}
	if diff := gocmp.Diff(want, got, cmpopts.IgnoreFields(history.Finding{}, "App", "Cursor")); diff != "" {
		t.Error(diff)
	}
	if got.Clean() {
		t.Error("the report is clean")
	}
	if finding := got.Findings[0]; finding.App != "shop" || finding.Cursor == "" {
		t.Errorf("%+v", finding)
	}
}

// TestAuditFindsRepeatedKeys reports a notification that was delivered although an earlier one with its
// key was. A key may be used again after an end without a delivery, and after its retention.
func TestAuditFindsRepeatedKeys(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	keyed := func(key string, age time.Duration, statuses ...push.Status) (id string) {
		n := newKeyed(key, "body")
		for _, status := range statuses {
			e := keyedEvent(n, status)
			e.At = eventTime.Add(-age)
			if status == push.StatusUnknown {
				e.Receipt = &push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Unknown, Reason: push.ReasonNotStored}}
			}
			h.appendEvents(e)
		}
		return n.ID
	}
	queued, sending, accepted := push.StatusQueued, push.StatusSending, push.StatusAccepted
	keyed("again", time.Minute, queued, sending, accepted)
	again := keyed("again", 0, queued, sending, accepted)
	keyed("waiting", time.Minute, queued, sending, accepted)
	waiting := keyed("waiting", 0, queued)
	keyed("not stored", time.Minute, queued, push.StatusUnknown)
	keyed("not stored", 0, queued, sending, accepted)
	keyed("expired", 25*time.Hour, sending, accepted)
	keyed("expired", 0, sending, accepted)
	keyed("once", 0, queued, sending, accepted)
	f.addQueued("TASKS", waiting)
	got := f.audit("TASKS")
	slices.SortFunc(got.Findings, func(a, b history.Finding) int { return cmp.Compare(a.ID, b.ID) })
	want := []history.Finding{{Kind: "same_key", ID: again, App: "shop"}, {Kind: "same_key", ID: waiting, App: "shop"}}
	got.Findings = slices.DeleteFunc(got.Findings, func(f history.Finding) bool { return f.Kind != "same_key" })
	if diff := gocmp.Diff(want, got.Findings, cmpopts.IgnoreFields(history.Finding{}, "Cursor")); diff != "" || got.SameKey != 2 || got.Clean() {
		t.Errorf("%d of %d: %s", got.SameKey, got.Notifications, diff)
	}
}

// TestAuditReportsNotificationsLostOnDisk reports those that ended because their task was lost, and
// separately those of interrupted calls.
func TestAuditReportsNotificationsLostOnDisk(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	end := func(reason string) (id string) {
		id = newID()
		e := newEvent(id, push.StatusUnknown)
		e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unknown, Reason: reason}}
		h.appendEvents(newEvent(id, push.StatusScheduled), e)
		return id
	}
	lost, notStored := end(push.ReasonTaskLost), end(push.ReasonNotStored)
	end("IN_DOUBT")
	got := f.audit()
	want := &history.Report{Events: 6, Notifications: 3, Accepted: 3, Lost: 1, NotStored: 1, Findings: []history.Finding{
		{Kind: "lost", ID: lost, App: "shop"}, {Kind: "not_stored", ID: notStored, App: "shop"},
	}}
	if diff := gocmp.Diff(want, got, cmpopts.IgnoreFields(history.Finding{}, "Cursor")); diff != "" {
		t.Error(diff)
	}
}
