// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
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
