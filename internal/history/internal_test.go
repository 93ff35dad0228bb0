// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// TestQueriesFailWhileIndexCannotBeRebuilt reports the index as damaged while its directory cannot
// be used. Queries fail instead of waiting without end, and work again when the directory is back.
func TestQueriesFailWhileIndexCannotBeRebuilt(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "index")
	h, err := Open(t.Context(), Config{Engine: e, Dir: dir, MaxWait: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	defer func() {
		stop()
		if err := errors.Join(testwait.For(t, ended, "the end of Run"), h.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	}()
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	h.damageFound <- struct{}{}
	testwait.Until(t, func() bool { return h.Status().IndexRebuilds == 1 }, "the rebuild starts")
	id := uuid.Must(uuid.NewV7()).String()
	at, err := h.Append(t.Context(), push.Event{ID: id, App: "shop", At: time.Now(), Status: push.StatusQueued})
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"WaitForSeq":   func() error { return h.WaitForSeq(t.Context(), at.Seq) },
		"WaitCaughtUp": func() error { return h.WaitCaughtUp(t.Context()) },
		"Find":         func() error { _, _, err := h.Find(t.Context(), "shop", id); return err },
	} {
		failed := make(chan error, 1)
		go func() { failed <- call() }()
		if testwait.For(t, failed, name) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, func() bool { _, events, err := h.Find(t.Context(), "shop", id); return err == nil && len(events) == 1 }, "the index is rebuilt")
}

// TestUnfinishedReadsAllPages finds the notifications that have not ended among those on several pages of
// the index and in the overlay.
func TestUnfinishedReadsAllPages(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), Config{Engine: e, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	returned := make(chan error, 1)
	go func() { returned <- h.Run(ctx) }()
	defer func() {
		stop()
		if err := errors.Join(testwait.For(t, returned, "the end of Run"), h.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	}()
	var events []push.Event
	var want []uuid.UUID
	add := func(id uuid.UUID, status push.Status) {
		events = append(events, push.Event{ID: id.String(), App: "queued", At: time.Now(), Status: status})
	}
	for i := range 2*unfinishedPage + 10 {
		id := uuid.Must(uuid.NewV7())
		switch status := push.StatusAccepted; {
		case i%7000 == 0:
			want = append(want, id)
			status = []push.Status{push.StatusQueued, push.StatusScheduled, push.StatusSending}[len(want)%3]
			fallthrough
		default:
			add(id, status)
		}
	}
	seq, err := h.Append(t.Context(), events...)
	if err != nil {
		t.Fatal(err)
	}
	events = events[:0]
	ended := want[0] // its end may not be in the index yet
	add(ended, push.StatusAccepted)
	for range 3 {
		want = append(want, uuid.Must(uuid.NewV7()))
		add(want[len(want)-1], push.StatusQueued)
	}
	last, err := h.Append(t.Context(), events...)
	if err == nil {
		err = h.WaitForSeq(t.Context(), last.Seq)
	}
	if err != nil {
		t.Fatal(err)
	}
	for seq, want := range map[uint64][]uuid.UUID{last.Seq: want[1:], seq.Seq: want[1 : len(want)-3]} {
		got, err := h.Unfinished(t.Context(), seq)
		got = slices.DeleteFunc(got, func(id uuid.UUID) bool { return id == ended })
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("up to %d: %v %s", seq, err, diff)
		}
	}
}

// keeper needs the messages from a sequence on, until it is asked to rewrite them.
type keeper struct {
	oldest, seq uint64
	limit       int64
}

func (k *keeper) OldestSeq() uint64 { return k.oldest }

func (k *keeper) Rewrite(_ context.Context, seq uint64, limit int64) error {
	k.oldest, k.seq, k.limit = math.MaxUint64, seq, limit
	return nil
}

// TestOldEventsAreDeleted deletes messages of a log by age and by size, and keeps those that the queue
// needs, unless that is much history for few tasks.
func TestOldEventsAreDeleted(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	log, err := OpenLog(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), Config{Engine: e, Log: log, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- h.Run(ctx) }()
	go func() { ended <- log.Run(ctx) }()
	defer func() {
		stop()
		if err := errors.Join(testwait.For(t, ended, "an end"), testwait.For(t, ended, "an end"), h.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	}()
	for range 40 {
		id := uuid.Must(uuid.NewV7()).String()
		if _, err := h.Append(t.Context(), push.Event{ID: id, App: "shop", At: time.Now(), Status: push.StatusSending, Attempt: 1}); err != nil {
			t.Fatal(err)
		}
	}
	first := func() uint64 {
		t.Helper()
		if err := h.deleteOld(t.Context()); err != nil {
			t.Fatal(err)
		}
		info, err := h.stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.State.FirstSeq
	}
	if got := first(); got != 1 {
		t.Errorf("the first message is %d", got)
	}
	info, err := h.stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.MaxBytes = int64(info.State.Bytes) * 3 / 4
	if got := first(); got < 10 || got > 12 {
		t.Errorf("by size, the first message is %d", got)
	}
	k := &keeper{oldest: 20}
	log.Keep(k)
	h.cfg.MaxAge, h.cfg.MaxBytes = time.Nanosecond, 1<<30
	if got := first(); got != 20 {
		t.Errorf("by age, the first message is %d, want 20, which is needed", got)
	}
	if k.seq != 0 {
		t.Error("asked to rewrite although little is kept")
	}
	h.cfg.MaxBytes = int64(info.State.Bytes)
	if got := first(); got != 41 {
		t.Errorf("by age, the first message is %d", got)
	}
	if half := int64(info.State.Bytes) / 2; k.seq != 41 || k.limit < half/5 || k.limit > half/3 {
		t.Errorf("asked to rewrite before %d with %d bytes, want 41 and a quarter of %d", k.seq, k.limit, half)
	}
}

// TestOpenSegmentFindsWhatIsAddedBetweenLookups adds entries, some with the same hash, and compares
// lookups with a scan.
func TestOpenSegmentFindsWhatIsAddedBetweenLookups(t *testing.T) {
	s, random := newOpenSegment(1), rand.New(rand.NewPCG(1, 2))
	if got := s.find(1, nil); len(got) != 0 {
		t.Error(got)
	}
	for i := range 5000 {
		s.add(random.Uint64N(2000)<<random.IntN(40), newPosition(jetstream.Offset{Seq: uint64(i)}, record.End))
		if i%7 != 0 && i < 4000 {
			continue
		}
		hash, want := s.list[random.IntN(len(s.list))].hash, []position(nil)
		for _, e := range s.list {
			if e.hash == hash {
				want = append(want, e.position)
			}
		}
		if got := s.find(hash, nil); !slices.Equal(got, want) {
			t.Fatalf("%d: %v, want %v", i, got, want)
		}
	}
}
