// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// TestImpossibleCommandsChangeNothing executes each command in each state.
func TestImpossibleCommandsChangeNothing(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	check := func(id string, want broadcast.State, done ...broadcast.Command) {
		t.Helper()
		v := n.waitState(id, want)
		for _, c := range broadcast.Commands {
			if slices.Contains(v.Commands, c) {
				continue
			}
			got, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: c, Caller: "starter"})
			if slices.Contains(done, c) {
				if err != nil || got.State != want {
					t.Errorf("%s while %s: %v", c, want, err)
				}
			} else if conflict, ok := errors.AsType[*broadcast.ConflictError](err); !ok || conflict.State != want || !slices.Equal(conflict.Allowed, v.Commands) {
				t.Errorf("%s while %s: %v", c, want, err)
			}
		}
		if after := n.get(id); after.Revision != v.Revision {
			t.Errorf("the broadcast has changed while %s", want)
		}
	}
	id := n.create(strings.Replace(simple, "{", `{"rate": {"per_minute": 600}, `, 1), lines(500))
	check(id, broadcast.Draft)
	n.do(id, broadcast.Validate)
	check(id, broadcast.Ready, broadcast.Validate)
	n.do(id, broadcast.Start)
	check(id, broadcast.Running, broadcast.Start, broadcast.Resume)
	n.do(id, broadcast.Pause)
	check(id, broadcast.Paused, broadcast.Pause)
	n.do(id, broadcast.Cancel)
	check(id, broadcast.Cancelled, broadcast.Cancel)
	n.do(id, broadcast.Recall)
	check(id, broadcast.Recalled, broadcast.Recall)

	if _, err := n.Replace(t.Context(), app, "creator", id, 0, definition(t, simple)); err == nil {
		t.Error("the definition of a broadcast that has ended can be replaced")
	}
	if _, _, err := n.Upload(t.Context(), app, id, broadcast.UploadRequest{Format: audience.NDJSON, Replace: true}, strings.NewReader(lines(1))); err == nil {
		t.Error("the audience of a broadcast that has ended can be replaced")
	}
	for _, other := range []string{"other", ""} {
		if _, err := n.Get(t.Context(), other, id); !errors.Is(err, broadcast.ErrNotFound) {
			t.Errorf("another app: %v", err)
		}
	}
	if err := n.Delete(t.Context(), app, id, 1); !errors.Is(err, broadcast.ErrChanged) {
		t.Error(err)
	}
	if err := n.Delete(t.Context(), app, id, n.get(id).Revision); err != nil {
		t.Error(err)
	}
	if _, err := n.Get(t.Context(), app, id); !errors.Is(err, broadcast.ErrNotFound) {
		t.Error(err)
	}
}

// TestUploadContinues interrupts an upload at each kind of place.
func TestUploadContinues(t *testing.T) {
	n := newTestNode(t, nodeConfig{change: func(c *broadcast.Config) { c.MaxBytes = 2 << 20 }})
	text := lines(40_000) // several messages
	id := n.create(simple, "")
	upload := func(u broadcast.UploadRequest, in io.Reader) (int64, error) {
		_, offset, err := n.Upload(t.Context(), app, id, u, in)
		return offset, err
	}
	for _, wrong := range []int64{1, 5} {
		if _, err := upload(broadcast.UploadRequest{Offset: wrong}, strings.NewReader("")); err == nil {
			t.Error("an upload that has not started can be continued")
		}
	}
	lost := io.MultiReader(strings.NewReader(text[:300_005]), iotest.ErrReader(io.ErrUnexpectedEOF))
	offset, err := upload(broadcast.UploadRequest{Format: audience.NDJSON, Replace: true}, lost)
	if want := int64(strings.LastIndex(text[:300_005], "\n") + 1); !errors.Is(err, io.ErrUnexpectedEOF) || offset != want {
		t.Fatalf("offset %d, want %d: %v", offset, want, err)
	}
	if stored, complete, err := n.Uploaded(t.Context(), app, id); stored != offset || complete || err != nil {
		t.Errorf("%d, %v, %v", stored, complete, err)
	}
	if _, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Validate}); err == nil {
		t.Error("a part of an audience can be validated")
	}
	_, err = upload(broadcast.UploadRequest{Offset: offset + 1}, strings.NewReader(text))
	if wrong, ok := errors.AsType[*broadcast.OffsetError](err); !ok || wrong.Offset != offset {
		t.Errorf("%v, want the offset %d", err, offset)
	}
	if _, err = upload(broadcast.UploadRequest{Offset: offset, Format: audience.CSV}, strings.NewReader("")); err == nil {
		t.Error("the format can change")
	}
	offset, err = upload(broadcast.UploadRequest{Offset: offset, Partial: true}, strings.NewReader(text[offset:500_000]))
	if want := int64(strings.LastIndex(text[:500_000], "\n") + 1); err != nil || offset != want {
		t.Fatalf("offset %d, want %d: %v", offset, want, err)
	}
	if offset, err = upload(broadcast.UploadRequest{Offset: offset}, strings.NewReader(text[offset:])); err != nil || offset != int64(len(text)) {
		t.Fatal(offset, err)
	}
	n.do(id, broadcast.Validate)
	if v := n.waitState(id, broadcast.Ready); v.Validation.Valid != 40_000 || v.Validation.Lines != 40_000 {
		t.Errorf("%+v", v.Validation)
	}
	if _, err = upload(broadcast.UploadRequest{Format: audience.NDJSON, Replace: true}, strings.NewReader(strings.Repeat(text, 4))); !errors.Is(err, broadcast.ErrUploadTooLarge) {
		t.Error(err)
	}
	if _, err = upload(broadcast.UploadRequest{Format: audience.NDJSON, Replace: true}, strings.NewReader(strings.Repeat("x", 1<<20))); !errors.Is(err, broadcast.ErrLineTooLong) {
		t.Error(err)
	}
	if v := n.get(id); v.State != broadcast.Draft || v.Validation != nil {
		t.Errorf("%s after a new upload", v.State)
	}
	for _, bad := range []string{"", "\n\n", "nonsense\n"} {
		n.upload(id, bad)
		n.do(id, broadcast.Validate)
		testwait.Until(t, func() bool { return n.get(id).Problem != "" }, "the validation has failed")
		if v := n.get(id); v.State != broadcast.Draft {
			t.Errorf("%s", v.State)
		}
	}
}

func TestCanaryIsFirst(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(strings.Replace(simple, "{", `{"canary": {"share": "10%", "wait": "1h"}, `, 1), lines(200))
	n.start(id)
	testwait.Until(t, func() bool { v := n.get(id); return !v.CanaryUntil.IsZero() && v.Counts.Accepted == 20 }, "the canary is sent")
	v := n.get(id)
	if c := v.Counts; c.Pending != 180 || time.Until(v.CanaryUntil) < 50*time.Minute {
		t.Errorf("%+v until %s", c, v.CanaryUntil)
	}
	n.do(id, broadcast.Cancel)
	if c := n.waitState(id, broadcast.Cancelled).Counts; c.Accepted != 20 || c.Pending != 180 {
		t.Errorf("%+v", c)
	}
}

func TestCanaryIsFollowed(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(strings.Replace(simple, "{", `{"canary": {"share": "10%", "wait": "1ms"}, `, 1), lines(200))
	n.start(id)
	if c := n.waitState(id, broadcast.Completed).Counts; c.Accepted != 200 {
		t.Errorf("%+v", c)
	}
}

func TestBroadcastPausesItself(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	n.sender.answer = func(*push.Notification) push.Outcome {
		return push.Outcome{Verdict: push.Unregistered, Reason: "UNREGISTERED"}
	}
	id := n.create(strings.Replace(simple, "{", `{"pause_if": {"unregistered": "50%", "after": 20}, "rate": {"per_minute": 30000}, `, 1), lines(2000))
	n.start(id)
	v := n.waitState(id, broadcast.Paused)
	if v.PauseReason != "unregistered" || v.Counts.Pending == 0 {
		t.Errorf("%s, %+v", v.PauseReason, v.Counts)
	}
	testwait.Until(t, func() bool { return n.Status()[0].AutoPaused["unregistered"] == 1 }, "the status of the pause")
}

func TestLargeBroadcastNeedsApproval(t *testing.T) {
	n := newTestNode(t, nodeConfig{change: func(c *broadcast.Config) { c.ApproveAbove = 10 }})
	id := n.create(simple, lines(11))
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	do := func(c broadcast.Command, caller string) error {
		_, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: c, Caller: caller})
		return err
	}
	for _, refused := range []error{do(broadcast.Start, "creator"), do(broadcast.Approve, "creator"), do(broadcast.Start, "other")} {
		if _, ok := errors.AsType[*broadcast.ConflictError](refused); !ok {
			t.Errorf("%v, want a conflict", refused)
		}
	}
	if err := do(broadcast.Approve, "other"); err != nil {
		t.Error(err)
	}
	before := n.get(id)
	if err := do(broadcast.Approve, "third"); err != nil || n.get(id).Revision != before.Revision || slices.Contains(before.Commands, broadcast.Approve) {
		t.Errorf("the repeated approval: %v", err)
	}
	if err := do(broadcast.Start, "creator"); err != nil {
		t.Error(err)
	}
	n.waitState(id, broadcast.Completed)
}

// TestCallerDoesNotApproveItsOwnChange lets callers change a broadcast that another one has created.
func TestCallerDoesNotApproveItsOwnChange(t *testing.T) {
	n := newTestNode(t, nodeConfig{change: func(c *broadcast.Config) { c.ApproveAbove = 1 }})
	id := n.create(simple, "")
	upload := func(u broadcast.UploadRequest, in io.Reader) int64 {
		t.Helper()
		_, offset, err := n.Upload(t.Context(), app, id, u, in)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		return offset
	}
	offset := upload(broadcast.UploadRequest{Caller: "uploader", Format: audience.NDJSON, Replace: true, Partial: true}, strings.NewReader(lines(1)))
	lost := io.MultiReader(strings.NewReader(lines(2)[offset:]), iotest.ErrReader(io.ErrUnexpectedEOF))
	offset = upload(broadcast.UploadRequest{Caller: "disconnected", Offset: offset}, lost)
	upload(broadcast.UploadRequest{Caller: "creator", Offset: offset}, strings.NewReader(lines(3)[offset:]))
	if _, err := n.Replace(t.Context(), app, "editor", id, 0, definition(t, simple)); err != nil {
		t.Fatal(err)
	}
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	for _, author := range []string{"creator", "uploader", "disconnected", "editor"} {
		_, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Approve, Caller: author})
		if _, ok := errors.AsType[*broadcast.ConflictError](err); !ok {
			t.Errorf("%s approves its own change: %v", author, err)
		}
	}
	if _, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Approve, Caller: "other"}); err != nil {
		t.Error(err)
	}
}

func TestBroadcastExpires(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	n.sender.answer = func(*push.Notification) push.Outcome { return push.Outcome{Verdict: push.Unavailable} }
	id := n.create(strings.Replace(simple, "{", `{"schedule": {"expires_at": "+2s"}, "rate": {"per_minute": 600}, `, 1), lines(1000))
	n.start(id)
	v := n.waitState(id, broadcast.Expired)
	if c := v.Counts; c.Pending == 0 || c.Queued != 0 || c.Expired == 0 || c.Pending+c.Expired+c.Unavailable != 1000 {
		t.Errorf("%+v", c)
	}
}

// TestBroadcastExpiresWithLinesThatAreNeverDue has devices whose local time is after the end of the broadcast.
func TestBroadcastExpiresWithLinesThatAreNeverDue(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	local := time.Now().UTC().Add(3 * time.Hour).Format("15:04")
	id := n.create(strings.Replace(simple, "{", `{"schedule": {"local_time": "`+local+`", "expires_at": "+1h"}, `, 1), lines(2))
	n.start(id)
	if c := n.waitState(id, broadcast.Expired).Counts; c.Pending != 2 {
		t.Errorf("%+v", c)
	}
}

// TestPausedBroadcastExpires lets a broadcast expire while it is paused, and pauses its recall after that.
func TestPausedBroadcastExpires(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(strings.Replace(simple, "{", `{"schedule": {"expires_at": "+2s"}, "rate": {"per_minute": 600}, `, 1), lines(1000))
	n.start(id)
	testwait.Until(t, func() bool { return n.sender.attempts() > 0 }, "an attempt")
	n.do(id, broadcast.Pause)
	if v := n.waitState(id, broadcast.Expired); v.PauseReason != "" || v.Counts.Pending == 0 || v.Counts.Queued != 0 {
		t.Errorf("%q, %+v", v.PauseReason, v.Counts)
	}
	hold := make(chan struct{})
	n.sender.mu.Lock()
	n.sender.hold = hold
	n.sender.mu.Unlock()
	n.do(id, broadcast.Recall)
	n.do(id, broadcast.Pause)
	close(hold)
	n.do(id, broadcast.Resume)
	n.waitState(id, broadcast.Recalled)
}

func TestBroadcastToTopicAndItsRecall(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(`{"message": {"title": "Hello"}, "audience": {"topic": "news"}}`, "")
	n.start(id)
	n.waitState(id, broadcast.Completed)
	if _, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Recall}); err == nil {
		t.Error("a recall without a message is possible")
	}
	recall := definition(t, simple).Recall
	if _, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Recall, Recall: recall}); err != nil {
		t.Fatal(err)
	}
	n.waitState(id, broadcast.Recalled)
	if diff := cmp.Diff(map[string]int{"Hello news": 1, "Sorry news": 1}, n.sender.counted()); diff != "" {
		t.Error(diff)
	}
}

// TestFinishedBroadcastSurvivesRestart reads the counts and results of a broadcast after a restart, and after
// its retention.
func TestFinishedBroadcastSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	n := newTestNode(t, nodeConfig{dir: dir})
	id := n.create(simple, lines(50))
	n.start(id)
	want := n.waitState(id, broadcast.Completed)
	results := n.results(id)
	n.stop()
	n = newTestNode(t, nodeConfig{dir: dir})
	if diff := cmp.Diff(want.Counts, n.get(id).Counts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(results, n.results(id)); diff != "" {
		t.Error(diff)
	}
	n.stop()
	n = newTestNode(t, nodeConfig{dir: dir, change: func(c *broadcast.Config) { c.Retention = time.Nanosecond }})
	testwait.Until(t, func() bool { _, err := n.Get(t.Context(), app, id); return errors.Is(err, broadcast.ErrNotFound) }, "it is deleted")
}

func TestBroadcastThatHasNotStartedIsNotRecalled(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(simple, lines(3))
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	v := n.do(id, broadcast.Cancel)
	if len(v.Commands) > 0 {
		t.Errorf("%v is possible", v.Commands)
	}
	_, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Recall})
	if _, ok := errors.AsType[*broadcast.ConflictError](err); !ok {
		t.Errorf("%v, want a conflict", err)
	}
}

// hookedQueue calls a hook once, before it reads a tally.
type hookedQueue struct {
	broadcast.Queue
	hook atomic.Pointer[func()]
}

func (q *hookedQueue) ReadTally(id uuid.UUID, f func(*tally.Tally)) {
	if hook := q.hook.Swap(nil); hook != nil {
		(*hook)()
	}
	q.Queue.ReadTally(id, f)
}

// TestCommandDuringDeletion recalls a broadcast while it is being deleted.
func TestCommandDuringDeletion(t *testing.T) {
	q := new(hookedQueue)
	n := newTestNode(t, nodeConfig{change: func(c *broadcast.Config) { q.Queue, c.Queue = c.Queue, q }})
	id := n.create(simple, lines(3))
	n.start(id)
	n.waitState(id, broadcast.Completed)
	recalled := errors.New("not tried")
	hook := func() {
		_, recalled = n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Recall})
	}
	q.hook.Store(&hook)
	if err := n.Delete(t.Context(), app, id, 0); err != nil || !errors.Is(recalled, broadcast.ErrNotFound) {
		t.Errorf("deleted: %v, recalled: %v", err, recalled)
	}
	testwait.Until(t, func() bool { return n.queue.Tally(uuid.MustParse(id)) == nil }, "the queue has forgotten the broadcast")
}

// TestDamagedBroadcastDoesNotAffectOthers stores a document that cannot be read.
func TestDamagedBroadcastDoesNotAffectOthers(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	bucket := n.engine.Bucket(natsjs.KeyValueConfig{Bucket: broadcast.Stream, Storage: natsjs.FileStorage})
	if err := bucket.Put(t.Context(), "00000000-0000-8000-8000-000000000000", []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	id := n.create(simple, lines(3))
	n.start(id)
	n.waitState(id, broadcast.Completed)
	if all, err := n.List(t.Context(), app); err != nil || len(all) != 1 {
		t.Errorf("%d broadcasts, %v", len(all), err)
	}
}

func TestCanaryShareIsExact(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(strings.Replace(simple, "{", `{"canary": {"share": "7%", "wait": "1h"}, `, 1), lines(100))
	n.start(id)
	testwait.Until(t, func() bool { return !n.get(id).CanaryUntil.IsZero() }, "the canary is enqueued")
	if c := n.get(id).Counts; c.Pending != 93 {
		t.Errorf("%d lines are in the canary, want 7", 100-c.Pending)
	}
}

func TestTargetOfBroadcastIsBounded(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	_, err := n.Create(t.Context(), app, "creator", definition(t, `{"message": {"title": "Hello"}, "audience": {"condition": "`+strings.Repeat("a", 5000)+`"}}`))
	if e, _ := errors.AsType[*strictjson.Error](err); e == nil || e.Field != "audience" {
		t.Errorf("%v", err)
	}
}

func TestPauseIfAfterIsBounded(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	for text, want := range map[string]string{"1000000000": "", "1000000001": "pause_if.after", "18446744073709551615": "pause_if.after"} {
		_, err := n.Create(t.Context(), app, "creator", definition(t, strings.Replace(simple, "{", `{"pause_if": {"refused": "1%", "after": `+text+`}, `, 1)))
		if e, _ := errors.AsType[*strictjson.Error](err); want == "" && err != nil || want != "" && (e == nil || e.Field != want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
