// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

func TestAuditOfCompleteHistoryIsClean(t *testing.T) {
	f := newFixture(t)
	for range 50 {
		f.appendEvents(lifecycle(newID())...)
	}
	waits, cancelled, sync, late, again := newID(), newID(), newID(), newID(), newID()
	f.appendEvents(newEvent(waits, push.StatusQueued), newEvent(waits, push.StatusSending))
	f.appendEvents(newEvent(cancelled, push.StatusScheduled), newEvent(cancelled, push.StatusCancelled), newEvent(cancelled, push.StatusCancelled))
	f.appendEvents(newEvent(sync, push.StatusAccepted))
	f.appendEvents(newEvent(late, push.StatusQueued), newEvent(late, push.StatusSending), newEvent(late, push.StatusCancelled), newEvent(late, push.StatusAccepted))
	twice := newEvent(again, push.StatusAccepted)
	twice.At = eventTime.Add(time.Second) // the same end again, as after a write with unknown result
	f.appendEvents(append(lifecycle(again), twice)...)
	f.addQueued("TASKS", waits, newID())
	want := &audit.Report{Events: 50*3 + 2 + 3 + 1 + 4 + 4, Notifications: 56, Accepted: 54, Waiting: 2}
	if diff := gocmp.Diff(want, f.audit("TASKS", "NONE")); diff != "" {
		t.Error(diff)
	}
}

// TestAuditOfLongHistoryIsClean audits a hundred thousand notifications, of which some have an
// Idempotency-Key and some wait in the queue.
func TestAuditOfLongHistoryIsClean(t *testing.T) {
	notifications := uint64(100_000)
	if raceEnabled { // the detector makes it ten times slower, and the number adds nothing for it
		notifications /= 10
	}
	const perAppend, waiting = 1000, 100
	t.Setenv("TMPDIR", t.TempDir())
	f := newFixture(t)
	var events []push.Event
	var queued []string
	for i := range notifications {
		added := lifecycle(newID())
		if i < waiting {
			queued, added = append(queued, added[0].ID), added[:1]
		}
		if i%5 == 0 {
			for e := range added {
				added[e].KeyHash = fmt.Appendf(nil, "%032d", i)
			}
		}
		if events = append(events, added...); (i+1)%perAppend == 0 {
			f.appendEvents(events...)
			events = events[:0]
		}
	}
	f.addQueued("TASKS", queued...)
	want := &audit.Report{Events: 3*notifications - 2*waiting, Notifications: notifications, Accepted: notifications, Waiting: waiting}
	if diff := gocmp.Diff(want, f.audit("TASKS")); diff != "" {
		t.Error(diff)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Error("the audit left files", left, err)
	}
}

func TestAuditFindsEachKind(t *testing.T) {
	f := newFixture(t)
	for range 20 {
		f.appendEvents(lifecycle(newID())...)
	}
	lost, unfinished, twice, sentAfterCancel, unannounced, interrupted := newID(), newID(), newID(), newID(), newID(), newID()
	f.appendEvents(newEvent(lost, push.StatusQueued))
	f.appendEvents(newEvent(unfinished, push.StatusScheduled), newEvent(unfinished, push.StatusSending))
	f.appendEvents(append(lifecycle(twice), newEvent(twice, push.StatusUnregistered))...)
	f.appendEvents(newEvent(sentAfterCancel, push.StatusQueued), newEvent(sentAfterCancel, push.StatusCancelled), newEvent(sentAfterCancel, push.StatusAccepted))
	f.appendEvents(newEvent(unannounced, push.StatusSending), newEvent(unannounced, push.StatusAccepted))
	keyed := newEvent(interrupted, push.StatusSending)
	keyed.KeyHash, keyed.BodyHash = []byte("key"), []byte("body")
	f.appendEvents(keyed)
	f.addQueued("TASKS")
	got := f.audit("TASKS")
	want := &audit.Report{
		Events: 60 + 1 + 2 + 4 + 3 + 2 + 1, Notifications: 26, Accepted: 24, Lost: 2, Twice: 2, Unannounced: 1, Interrupted: 1,
		Findings: []audit.Finding{
			{Kind: "lost", ID: lost, App: "shop", Cursor: "21.0"}, {Kind: "lost", ID: unfinished, App: "shop", Cursor: "22.0"},
			{Kind: "twice", ID: twice, App: "shop", Cursor: "23.0"}, {Kind: "twice", ID: sentAfterCancel, App: "shop", Cursor: "24.0"},
			{Kind: "unannounced", ID: unannounced, App: "shop", Cursor: "25.0"}, {Kind: "interrupted", ID: interrupted, App: "shop", Cursor: "26.0"},
		},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Clean() {
		t.Error("the report is clean")
	}
}

// TestAuditFindsRepeatedKeys uses each key twice. The second notification is reported unless the first
// one cannot arrive, its result may be replaced, or the key has expired.
func TestAuditFindsRepeatedKeys(t *testing.T) {
	f := newFixture(t)
	const queued, sending, accepted, unknown = push.StatusQueued, push.StatusSending, push.StatusAccepted, push.StatusUnknown
	var inQueue []string
	use := func(key, reason string, age time.Duration, statuses ...push.Status) (id string) {
		id = newID()
		for _, status := range statuses {
			e := newEvent(id, status)
			if status == unknown {
				e = newUnknown(id, reason)
			}
			e.KeyHash, e.At = []byte(key), eventTime.Add(-age)
			f.appendEvents(e)
		}
		if statuses[len(statuses)-1] == queued {
			inQueue = append(inQueue, id)
		}
		return id
	}
	var want []audit.Finding
	for i, c := range []struct {
		first  []push.Status
		reason string // of unknown
		age    time.Duration
		second []push.Status
		found  bool
	}{
		{first: []push.Status{queued, sending, accepted}, second: []push.Status{queued, sending, accepted}, found: true},
		{first: []push.Status{sending, accepted}, second: []push.Status{sending, accepted}, found: true},
		{first: []push.Status{queued, sending, accepted}, second: []push.Status{queued}, found: true},
		{first: []push.Status{queued}, second: []push.Status{sending, accepted}, found: true},
		{first: []push.Status{queued, sending, unknown}, reason: "IN_DOUBT", second: []push.Status{queued, sending, accepted}, found: true},
		{first: []push.Status{queued, sending, unknown}, reason: push.ReasonTaskLost, second: []push.Status{queued, sending, accepted}, found: true},
		{first: []push.Status{sending, unknown}, reason: "TIMEOUT", second: []push.Status{sending, accepted}, found: true},
		{first: []push.Status{sending, accepted}, reason: "IN_DOUBT", second: []push.Status{sending, unknown}, found: true},
		{first: []push.Status{sending, accepted}, second: []push.Status{sending}, found: true},

		{first: []push.Status{queued, unknown}, reason: push.ReasonNotStored, second: []push.Status{queued, sending, accepted}},
		{first: []push.Status{queued, unknown}, reason: push.ReasonTaskLost, second: []push.Status{queued, sending, accepted}},
		{first: []push.Status{queued, push.StatusCancelled}, second: []push.Status{queued, sending, accepted}},
		{first: []push.Status{queued, sending, push.StatusThrottled}, second: []push.Status{queued, sending, accepted}},
		{first: []push.Status{sending, unknown}, reason: "IN_DOUBT", second: []push.Status{sending, accepted}},
		{first: []push.Status{sending, accepted}, second: []push.Status{push.StatusThrottled}},
		{first: []push.Status{sending, accepted}, age: 25 * time.Hour, second: []push.Status{sending, accepted}},
		{first: []push.Status{sending, accepted}, second: []push.Status{push.StatusUnregistered}},
	} {
		key := fmt.Sprint("key ", i)
		use(key, c.reason, cmp.Or(c.age, time.Minute), c.first...)
		use(key, push.ReasonNotStored, time.Second, queued, unknown)
		if second := use(key, c.reason, 0, c.second...); c.found {
			want = append(want, audit.Finding{Kind: "same_key", ID: second, App: "shop"})
		}
		use(key+" once", "", 0, queued, sending, accepted)
	}
	f.addQueued("TASKS", inQueue...)
	got := f.audit("TASKS")
	found := slices.DeleteFunc(got.Findings, func(f audit.Finding) bool { return f.Kind != "same_key" })
	slices.SortFunc(found, func(a, b audit.Finding) int { return cmp.Compare(a.ID, b.ID) })
	if diff := gocmp.Diff(want, found, cmpopts.IgnoreFields(audit.Finding{}, "Cursor")); diff != "" || got.SameKey != uint64(len(want)) || got.Clean() {
		t.Errorf("%d of %d: %s", got.SameKey, got.Notifications, diff)
	}
}

// TestAuditReportsNotificationsLostOnDisk reports those that ended because their task was lost, and
// separately those of interrupted calls.
func TestAuditReportsNotificationsLostOnDisk(t *testing.T) {
	f := newFixture(t)
	end := func(reason string) (id string) {
		id = newID()
		f.appendEvents(newEvent(id, push.StatusScheduled), newUnknown(id, reason))
		return id
	}
	lost, notStored, missing := end(push.ReasonTaskLost), end(push.ReasonNotStored), end(push.ReasonTaskMissing)
	end("IN_DOUBT")
	got := f.audit()
	want := &audit.Report{Events: 8, Notifications: 4, Accepted: 4, Lost: 1, NotStored: 1, PossiblyLost: 1, Findings: []audit.Finding{
		{Kind: "lost", ID: lost, App: "shop", Cursor: "1.0"}, {Kind: "not_stored", ID: notStored, App: "shop", Cursor: "2.0"},
		{Kind: "possibly_lost", ID: missing, App: "shop", Cursor: "3.0"},
	}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestAuditFailsOnInvalidEvents returns an error with the position instead of a report without them.
func TestAuditFailsOnInvalidEvents(t *testing.T) {
	f := newFixture(t)
	f.store([]byte(`{"id":"` + newID() + "\"}\n{\n"))
	if _, err := audit.Run(t.Context(), f.engine, audit.Config{Events: "EVENTS"}); err == nil || !strings.Contains(err.Error(), "event 1.1") {
		t.Error(err)
	}
}

// TestAuditFollowsOrderOfSeveralGateways reads notifications that two gateways handled at the same time.
// Only the first of the records that exclude each other counts.
func TestAuditFollowsOrderOfSeveralGateways(t *testing.T) {
	f := newFixture(t)
	second := func(id string, status push.Status) push.Event {
		e := newEvent(id, status)
		e.At = e.At.Add(time.Second)
		return e
	}
	both, rescheduled, cancelled := newID(), newID(), newID()
	waiting := newEvent(rescheduled, push.StatusQueued)
	waiting.Attempt = 1
	f.appendRecords(newEvent(both, push.StatusQueued), newEvent(both, push.StatusSending), second(both, push.StatusSending), newEvent(both, push.StatusAccepted))
	f.appendRecords(newEvent(rescheduled, push.StatusQueued), newEvent(rescheduled, push.StatusSending), waiting, second(rescheduled, push.StatusSending), newEvent(rescheduled, push.StatusCancelled))
	f.appendRecords(newEvent(cancelled, push.StatusQueued), newEvent(cancelled, push.StatusCancelled), newEvent(cancelled, push.StatusSending))
	late := newID()
	f.appendRecords(newEvent(late, push.StatusQueued), newEvent(late, push.StatusSending))
	f.appendKind(record.Cancel, newEvent(late, push.StatusExpired)) // by another gateway, which had not seen the attempt
	f.appendRecords(newEvent(late, push.StatusAccepted))
	if got := f.audit(); !got.Clean() || got.Notifications != 4 || got.Accepted != 4 || got.Waiting != 0 || len(got.Findings) != 0 {
		t.Errorf("%+v", got)
	}
}
