// SPDX-License-Identifier: Apache-2.0

package record_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

var texts = rapid.OneOf(rapid.Just(""), rapid.StringN(1, 12, -1))

func randomTime(t *rapid.T, unit time.Duration) time.Time {
	return time.Unix(0, rapid.Int64Range(0, 4e18).Draw(t, "time")).Truncate(unit).UTC()
}

func randomTarget(t *rapid.T) (target push.Target) {
	switch rapid.IntRange(0, 6).Draw(t, "target") {
	case 0:
		target.Token = rapid.SampledFrom([]string{"00", "a1b2c3", "A1B2", "abc", "dQw4w9WgXcQ:APA91bF"}).Draw(t, "token")
	case 1:
		target.Topic = "news"
	case 2:
		target.Condition = "'a' in topics && 'b' in topics"
	case 3:
		target.Channel = "dGVzdA=="
	case 4:
		target.Installation = "fid"
	case 5:
		target.Subscription = &push.Subscription{Endpoint: "https://push.example/1", Keys: push.SubscriptionKeys{P256dh: "p", Auth: "a"}}
		if rapid.Bool().Draw(t, "expires") {
			at := 1.5e12
			target.Subscription.ExpirationTime = &at
		}
	case 6:
		target.Token, target.Topic = "00", "news" // the provider refuses it, but it must not change
	}
	return target
}

func randomTrace(t *rapid.T) push.TraceContext {
	return rapid.SampledFrom([]push.TraceContext{
		{}, {TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", TraceState: "vendor=1"},
	}).Draw(t, "trace")
}

func randomNotification(t *rapid.T, h *record.Header) *push.Notification {
	flip := func(name string) bool { return rapid.Bool().Draw(t, name) }
	n := &push.Notification{
		ID: h.ID.String(), App: h.App, AcceptedAt: h.At.Add(-time.Duration(rapid.IntRange(0, 5000).Draw(t, "waited")) * time.Millisecond), Platform: h.Platform,
		Target: randomTarget(t), Title: texts.Draw(t, "title"), Subtitle: texts.Draw(t, "subtitle"), Body: texts.Draw(t, "body"), Image: texts.Draw(t, "image"),
		Sound: texts.Draw(t, "sound"), CollapseKey: texts.Draw(t, "collapse"), Strict: flip("strict"), KeyHash: h.KeyHash, BodyHash: h.BodyHash, Tags: h.Tags,
		Priority:  rapid.SampledFrom([]push.Priority{"", push.PriorityHigh, push.PriorityLow}).Draw(t, "priority"),
		OnUnknown: rapid.SampledFrom([]push.OnUnknown{"", push.RepeatNever, push.RepeatAlways}).Draw(t, "on unknown"),
	}
	if flip("lane") {
		n.Lane = h.Lane
	}
	if flip("badge") {
		badge := rapid.Int().Draw(t, "badge")
		n.Badge = &badge
	}
	if flip("data") {
		n.Data = rapid.MapOfN(rapid.String(), rapid.String(), 1, 4).Draw(t, "data")
	}
	if flip("ttl") {
		ttl := push.Duration(rapid.Int64Range(0, 1e15).Draw(t, "ttl"))
		n.TTL = &ttl
	}
	if flip("send at") {
		n.SendAt = randomTime(t, 1)
	}
	if flip("retry") {
		n.Retry = &push.Retry{Attempts: rapid.IntRange(0, 10).Draw(t, "attempts")}
	}
	if flip("apns") {
		n.APNs = &push.APNsBlock{Headers: map[string]string{"apns-id": "1"}, Payload: json.RawMessage(`{"aps":{"alert":"<&>"}}`), Environment: push.Sandbox}
	}
	if flip("fcm") {
		n.FCM = &push.FCMBlock{Message: json.RawMessage(`{"a":1}`), ValidateOnly: flip("validate")}
	}
	n.Trace = randomTrace(t)
	if flip("webpush") {
		declarative := flip("declarative")
		n.WebPush = &push.WebPushBlock{
			Headers: map[string]string{"TTL": "1"}, Payload: texts.Draw(t, "payload"), Notification: json.RawMessage(`{"navigate":"https://example.com/?a=1&b"}`),
			Declarative: &declarative, Mutable: flip("mutable"),
		}
	}
	return n
}

func randomOutcome(t *rapid.T, ids ...string) push.Outcome {
	return push.Outcome{
		Verdict: push.Verdict(rapid.IntRange(int(push.Accepted), int(push.Expired)).Draw(t, "verdict")), Reason: texts.Draw(t, "reason"),
		HTTP: rapid.SampledFrom([]int{0, 200, 410}).Draw(t, "http"), ProviderID: rapid.SampledFrom(append(ids, "")).Draw(t, "provider id"),
	}
}

func randomReceipt(t *rapid.T, h *record.Header) *push.Receipt {
	r := &push.Receipt{ID: h.ID.String(), Outcome: randomOutcome(t, h.ID.String(), "projects/p/messages/1")}
	r.HTTP = 0 // not part of the JSON form
	if rapid.Bool().Draw(t, "state") {
		r.State = push.StatusCancelled
	}
	if rapid.Bool().Draw(t, "more") {
		r.Field, r.Detail, r.ForgetToken = texts.Draw(t, "field"), texts.Draw(t, "detail"), true
		r.RetryAfter, r.DeadSince = time.Duration(rapid.IntRange(0, 1e6).Draw(t, "retry after"))*time.Millisecond, randomTime(t, time.Millisecond)
		index := rapid.IntRange(0, 999).Draw(t, "index")
		r.TargetIndex = &index
		r.Warnings = []push.Warning{{Field: "apns.payload", Detail: "d"}}
		r.Replaced = &push.Target{Installation: texts.Draw(t, "replaced")}
	}
	for range rapid.IntRange(0, 3).Draw(t, "attempts") {
		a := push.Attempt{
			Endpoint: texts.Draw(t, "endpoint"), Started: h.At.Add(-time.Duration(rapid.IntRange(-5, 5000).Draw(t, "before")) * time.Millisecond),
			Took: time.Duration(rapid.IntRange(0, 1e9).Draw(t, "took")) * time.Microsecond, Outcome: randomOutcome(t),
		}
		a.ProviderID = ""
		if rapid.Bool().Draw(t, "environment") {
			a.Environment = push.Sandbox
		}
		r.Attempts = append(r.Attempts, a)
	}
	return r
}

func randomRecord(t *rapid.T) *record.Record {
	r := &record.Record{Header: record.Header{
		Kind: rapid.SampledFrom([]record.Kind{record.Task, record.Sending, record.End, record.Reschedule, record.Cancel, record.Key}).Draw(t, "kind"),
		ID:   uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")), App: rapid.StringN(1, 10, -1).Draw(t, "app"), At: randomTime(t, time.Millisecond),
		Status:   rapid.SampledFrom([]push.Status{push.StatusQueued, push.StatusAccepted, push.StatusCancelled, "other"}).Draw(t, "status"),
		Platform: rapid.SampledFrom([]push.Platform{push.APNs, push.WebPush, "", "other"}).Draw(t, "platform"),
		Lane:     rapid.SampledFrom([]push.Lane{push.LaneNormal, push.LaneBulk, "other"}).Draw(t, "lane"),
		Attempt:  rapid.IntRange(0, 300).Draw(t, "attempt"), Reschedules: rapid.IntRange(0, 300).Draw(t, "reschedules"),
		Of: record.Position{Seq: rapid.Uint64().Draw(t, "seq"), Index: rapid.IntRange(0, 1<<20).Draw(t, "index")},
	}}
	if rapid.Bool().Draw(t, "keyed") {
		r.KeyHash, r.BodyHash = rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"), rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, "body")
	}
	if rapid.Bool().Draw(t, "scheduled") {
		r.SendAt = randomTime(t, time.Millisecond)
	}
	if rapid.Bool().Draw(t, "tagged") {
		r.Tags = rapid.SliceOfN(rapid.StringMatching(`[a-z:]{1,64}`), 1, 8).Draw(t, "tags")
	}
	switch r.Kind {
	case record.Task:
		r.Notification = randomNotification(t, &r.Header)
		if rapid.Bool().Draw(t, "rescheduled") {
			r.Receipt = randomReceipt(t, &r.Header)
		}
	case record.End, record.Reschedule, record.Cancel:
		r.Receipt = randomReceipt(t, &r.Header)
		target := randomTarget(t)
		r.Target = &target
	}
	if r.Kind != record.Task {
		r.Trace = randomTrace(t)
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := randomRecord(t)
		data, err := want.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.TrimPrefix(data, []byte("before"))
		got, err := record.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		var parser record.HeaderParser
		h, err := parser.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if want.Receipt != nil && parser.Reason() != want.Receipt.Reason || want.Receipt == nil && parser.Reason() != "" {
			t.Fatal(parser.Reason())
		}
		if diff := cmp.Diff(want.Header, h); diff != "" {
			t.Fatal(diff)
		}
		event, err := record.Parse(record.WithoutBody(data))
		if err != nil {
			t.Fatal(err)
		}
		wantEvent := want.Event()
		if want.Kind == record.Task { // its receipt is for the next attempt
			wantEvent.Receipt = nil
		}
		if diff := cmp.Diff(wantEvent, event.Event()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestEventAsRecord compares the JSON form of an event with that of its record.
func TestEventAsRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := randomRecord(t)
		if r.Kind == record.Task || r.Kind == record.Reschedule || r.Status == push.StatusQueued { // of a task
			return
		}
		event := r.Event()
		again, err := record.FromEvent(&event)
		if err != nil {
			t.Fatal(err)
		}
		data, err := again.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := record.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		read := parsed.Event()
		want, err := event.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read.AppendJSON(nil); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v\n%s\n%s", err, got, want)
		}
	})
}

// TestDamagedRecordIsAnError changes and truncates records. Parsing must not panic, and must not succeed
// with fewer bytes.
func TestDamagedRecordIsAnError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data, err := randomRecord(t).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := record.Parse(data[:rapid.IntRange(0, len(data)-1).Draw(t, "length")]); err == nil {
			t.Fatal("a truncated record is valid")
		}
		data[rapid.IntRange(0, len(data)-1).Draw(t, "index")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		_, _ = record.Parse(data) // the log has a checksum
	})
}

// TestRecordsOfEarlierVersions reads and writes records as versions before the trace context did. Those
// ignore what follows the parts that they know, so they can also read records with a trace context.
func TestRecordsOfEarlierVersions(t *testing.T) {
	trace := push.TraceContext{TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	for kind, text := range map[record.Kind]string{
		record.Task: "54009f3c1a2b4d5e6f708192a3b4c5d6e7f880d095ffbc310473686f70090102818008000200a1024869",
		record.End:  "45289f3c1a2b4d5e6f708192a3b4c5d6e7f880d095ffbc310473686f700101020701000100",
	} {
		earlier, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		r, err := record.Parse(earlier)
		if err != nil || r.Kind != kind || r.App != "shop" || r.Event().TraceParent != "" {
			t.Fatalf("%+v, %v", r, err)
		}
		if kind == record.Task && (r.Notification.Title != "Hi" || r.Notification.Token != "00a1") {
			t.Errorf("%+v", r.Notification)
		}
		if written, err := r.Append(nil); err != nil || !bytes.Equal(written, earlier) {
			t.Errorf("%x, %v", written, err)
		}
		if r.Trace = trace; kind == record.Task {
			r.Notification.Trace, r.Trace = trace, push.TraceContext{}
		}
		traced, err := r.Append(nil)
		if err != nil || !bytes.Equal(traced[2:len(earlier)], earlier[2:]) || len(traced) != len(earlier)+29 {
			t.Errorf("%x, %v", traced, err)
		}
		if again, err := record.Parse(traced); err != nil || again.Event().TraceContext != trace {
			t.Errorf("%+v, %v", again, err)
		}
	}
}

func TestInvalidBlockIsAnError(t *testing.T) {
	r := record.Record{Notification: &push.Notification{APNs: &push.APNsBlock{Payload: json.RawMessage(`{"aps":`)}}, Header: record.Header{Kind: record.Task, App: "shop"}}
	if data, err := r.Append(nil); err == nil {
		t.Fatalf("%q", data)
	}
}
