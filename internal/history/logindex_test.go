// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// indexedLog is a log with records of some notifications and keys, and what the index must find.
type indexedLog struct {
	*jetstream.Log
	byID  map[uuid.UUID][]jetstream.Offset
	byKey map[string][]jetstream.Offset
}

func newIndexedLog(t *testing.T, notifications int) *indexedLog {
	t.Helper()
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	l := &indexedLog{byID: map[uuid.UUID][]jetstream.Offset{}, byKey: map[string][]jetstream.Offset{}}
	if l.Log, err = OpenLog(t.Context(), e, ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(testwait.For(t, ended, "the end of the log"), e.Close()); err != nil {
			t.Error(err)
		}
	})
	l.appendLives(t, notifications)
	return l
}

// appendLives appends the records of notifications, some of them with keys, in random groups.
func (l *indexedLog) appendLives(t *testing.T, notifications int) {
	t.Helper()
	random := rand.New(rand.NewPCG(uint64(notifications), 1))
	var batch []*record.Record
	for range notifications {
		h := record.Header{ID: uuid.Must(uuid.NewV7()), App: fmt.Sprintf("app%d", random.IntN(3)), At: time.Now(), Status: push.StatusQueued}
		if random.IntN(3) == 0 {
			h.KeyHash, h.BodyHash = fmt.Appendf(nil, "key %d", random.IntN(notifications)), []byte("body")
		}
		for _, kind := range []record.Kind{record.Task, record.Sending, record.End}[:1+random.IntN(3)] {
			r := &record.Record{Header: h}
			if r.Kind = kind; kind == record.Task {
				r.Notification = &push.Notification{}
			}
			batch = append(batch, r)
		}
		if random.IntN(20) == 0 {
			l.appendAll(t, batch)
			batch = nil
		}
	}
	l.appendAll(t, batch)
}

func (l *indexedLog) appendAll(t *testing.T, batch []*record.Record) {
	t.Helper()
	stored := make([]jetstream.Record, len(batch))
	for i, r := range batch {
		data, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		stored[i].Data = data
	}
	offsets, err := l.Append(t.Context(), stored...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range batch {
		l.byID[r.ID] = append(l.byID[r.ID], offsets[i])
		if r.KeyHash != nil {
			l.byKey[string(r.KeyHash)] = append(l.byKey[string(r.KeyHash)], offsets[i])
		}
	}
}

// check compares the index with the log.
func (l *indexedLog) check(t *testing.T, name string, x *logIndex) {
	t.Helper()
	offsets := func(positions []position, err error) (found []jetstream.Offset) {
		if err != nil {
			t.Fatal(name, err)
		}
		for _, p := range positions {
			found = append(found, p.offset())
		}
		return found
	}
	for id, want := range l.byID {
		if diff := cmp.Diff(want, offsets(x.findID(id))); diff != "" {
			t.Fatal(name, diff)
		}
	}
	for key, want := range l.byKey {
		if diff := cmp.Diff(want, offsets(x.findKey([]byte(key), time.Now().Add(-time.Hour)))); diff != "" {
			t.Fatal(name, diff)
		}
	}
	if found := offsets(x.findID(uuid.Must(uuid.NewV7()))); len(found) > 0 {
		t.Errorf("%s: an unknown ID is found at %v", name, found)
	}
}

// TestLogIndexFindsEveryRecord builds an index from the log, from its files after each of several kinds of
// damage, and with sealed segments. It always has the same entries.
func TestLogIndexFindsEveryRecord(t *testing.T) {
	l, dir := newIndexedLog(t, 2000), t.TempDir()
	open := func(name string) *logIndex {
		t.Helper()
		x, err := openLogIndex(t.Context(), dir, l.Log, time.Hour, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(name, err)
		}
		l.check(t, name, x)
		return x
	}
	shut := func(x *logIndex) {
		t.Helper()
		if err := x.close(); err != nil {
			t.Fatal(err)
		}
	}
	x := open("from the log")
	shut(x)
	x = open("from the tail")
	seal := func() {
		t.Helper()
		s := x.open
		if err := x.startSegment(s.last + 1); err != nil {
			t.Fatal(err)
		}
		x.full = append(x.full, s)
		l.check(t, "a full segment", x)
		if err := x.seal(s); err != nil {
			t.Fatal(err)
		}
		l.check(t, "a sealed segment", x)
	}
	seal()
	l.Observe(func(m *jetstream.Message) { x.add(m) })
	l.appendLives(t, 500)
	l.check(t, "sealed and new", x)
	seal()
	l.appendLives(t, 300)
	l.check(t, "two sealed and new", x)
	shut(x)
	x = open("all files")
	if len(x.sealed) != 2 {
		t.Errorf("%d segments", len(x.sealed))
	}
	shut(x)
	base := dir
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 4 {
		t.Fatal(entries, err)
	}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(base, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for what, damaged := range map[string][]byte{
			"missing": nil, "empty": {}, "truncated": data[:len(data)*2/3], "changed": append(slices.Clone(data[:len(data)/50]), data[len(data)/50+1:]...),
		} {
			dir = t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(dir, entry.Name())
			if damaged == nil {
				err = os.Remove(name)
			} else {
				err = os.WriteFile(name, damaged, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			shut(open(entry.Name() + " " + what))
			shut(open(entry.Name() + " again"))
		}
	}
}

// TestLogIndexNamesTasksAtPositions finds the tasks whose records are lost.
func TestLogIndexNamesTasksAtPositions(t *testing.T) {
	l, dir := newIndexedLog(t, 300), t.TempDir()
	x, err := openLogIndex(t.Context(), dir, l.Log, time.Hour, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.close() }()
	for id, offsets := range l.byID {
		ids, _, err := x.at(func(p position) bool { return p.offset() == offsets[0] })
		if err != nil || len(ids) != 1 || ids[0] != id {
			t.Fatal(ids, err)
		}
		if got, app, ok := x.task(hashID(id)); !ok || got != id || app == "" {
			t.Fatal(got, app, ok)
		}
	}
}

// TestUnfinishedHasTasksAfterDamagedLength damages the length of the last record of a message, so that it
// is missing from the message.
func TestUnfinishedHasTasksAfterDamagedLength(t *testing.T) {
	dir, index := t.TempDir(), t.TempDir()
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	l := &indexedLog{byID: map[uuid.UUID][]jetstream.Offset{}, byKey: map[string][]jetstream.Offset{}}
	if l.Log, err = OpenLog(t.Context(), e, ""); err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), Config{Engine: e, Log: l.Log, Dir: index})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var batch []*record.Record
	for i := range 3 {
		batch = append(batch, &record.Record{Notification: &push.Notification{Title: fmt.Sprint("title ", i)}, Header: record.Header{
			Kind: record.Task, ID: uuid.Must(uuid.NewV7()), App: "shop", At: time.Now(), Status: push.StatusQueued,
		}})
	}
	l.appendAll(t, batch)
	l.appendAll(t, batch[:1])
	cancel()
	if err := errors.Join(testwait.For(t, ended, "the end of the log"), h.Close(), e.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", Stream, "msgs", "*.blk"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	last, err := batch[2].Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, last)-5] ^= 0x10
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err = jetstream.Open(t.Context(), jetstream.Config{Dir: dir, Reserve: -1}); err != nil {
		t.Fatal(err)
	}
	if l.Log, err = OpenLog(t.Context(), e, ""); err != nil {
		t.Fatal(err)
	}
	if h, err = Open(t.Context(), Config{Engine: e, Log: l.Log, Dir: index}); err != nil {
		t.Fatal(err)
	}
	ids, err := h.Unfinished(t.Context(), l.LastSeq())
	if err != nil || len(ids) != 1 || ids[0] != batch[2].ID {
		t.Errorf("%v %v, want %v", ids, err, batch[2].ID)
	}
	if r, err := h.Receipt(t.Context(), "shop", batch[2].ID.String()); err != nil || r.Status() != push.StatusQueued {
		t.Errorf("%+v %v", r, err)
	}
	if err := errors.Join(h.Close(), e.Close()); err != nil {
		t.Error(err)
	}
}
