// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// dump returns the content of an index as text.
func dump(t *testing.T, dir string) string {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var out strings.Builder
	for _, query := range []string{
		"SELECT stream, last_seq FROM checkpoint", "SELECT * FROM message ORDER BY seq", "SELECT * FROM notification ORDER BY id", "SELECT * FROM idempotency ORDER BY key",
	} {
		rows, err := db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		names, _ := rows.Columns()
		for rows.Next() {
			values, pointers := make([]any, len(names)), make([]any, len(names))
			for i := range values {
				pointers[i] = &values[i]
			}
			if err := rows.Scan(pointers...); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%q\n", values)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&out, "--", query)
	}
	return out.String()
}

// randomEvents returns random events. Most sequences of them do not occur in practice.
func randomEvents(random *rand.Rand, events int) []push.Event {
	ids := make([]string, 1+events/6)
	for i := range ids {
		ids[i] = newID()
	}
	statuses := []push.Status{
		push.StatusQueued, push.StatusScheduled, push.StatusSending, push.StatusSending, push.StatusAccepted, push.StatusUnregistered,
		push.StatusCancelled, push.StatusExpired,
	}
	all := make([]push.Event, events)
	for i := range all {
		which := random.IntN(len(ids))
		e := newEvent(ids[which], statuses[random.IntN(len(statuses))])
		e.App = []string{"shop", "a.b", "z"}[which%3]
		e.At = eventTime.Add(time.Duration(random.IntN(1000)) * time.Millisecond)
		e.Attempt = random.IntN(4)
		if e.Status == push.StatusScheduled {
			e.SendAt = e.At.Add(time.Hour)
		}
		if random.IntN(3) == 0 {
			e.KeyHash, e.BodyHash = []byte{byte(random.IntN(50))}, []byte{byte(which)}
		}
		all[i] = e
	}
	return all
}

func TestIndexIsDeterministic(t *testing.T) {
	for seed := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, 1))
		f := newStreamFixture(t)
		live := f.open()
		for events := randomEvents(random, 250); len(events) > 0; {
			n := min(len(events), 1+random.IntN(12))
			live.appendEvents(events[:n]...)
			events = events[n:]
		}
		live.waitIndexed()
		live.stop()
		want := dump(t, f.dir)
		for _, name := range []string{"in batches", "rebuilt"} {
			if name == "rebuilt" {
				if err := os.Remove(filepath.Join(f.dir, "index.db")); err != nil {
					t.Fatal(err)
				}
			} else {
				f.dir = t.TempDir()
			}
			again := f.open()
			again.waitIndexed()
			again.stop()
			if diff := cmp.Diff(want, dump(t, f.dir)); diff != "" {
				t.Fatalf("seed %d, %s: %s", seed, name, diff)
			}
		}
	}
}

func TestDamagedIndexIsRebuilt(t *testing.T) {
	f := newStreamFixture(t)
	h := f.open()
	var ids []string
	for range 40 {
		ids = append(ids, newID())
		h.appendEvents(lifecycle(ids[len(ids)-1])...)
	}
	h.stop()
	path := filepath.Join(f.dir, "index.db")
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range damagedFiles(intact) {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		h := f.open()
		for _, id := range ids {
			var receipt push.Receipt
			var events []push.Event
			var err error
			testwait.Until(t, func() bool {
				receipt, events, err = h.Find(t.Context(), "shop", id)
				return err == nil || errors.Is(err, push.ErrNotFound)
			}, "the index is rebuilt")
			if err != nil || receipt.Status() != push.StatusAccepted || len(events) != 3 {
				t.Fatalf("%s: %+v %+v %v", name, receipt, events, err)
			}
		}
		h.stop()
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error("no damaged file was moved aside:", err)
	}
}

// damagedFiles returns damaged versions of an index.
func damagedFiles(intact []byte) map[string][]byte {
	const page = 8192
	all := map[string][]byte{
		"not a database":     []byte(strings.Repeat("no database\n", 1000)),
		"torn between pages": intact[:len(intact)/2/page*page],
		"torn within a page": intact[:len(intact)/2+100],
		"header":             append([]byte("SQLite format 4"), intact[15:]...),
		"empty":              nil,
	}
	for at := page; at < len(intact); at += page {
		file := append([]byte(nil), intact...)
		copy(file[at:at+page], strings.Repeat("\xff", page))
		all[fmt.Sprintf("page %d", at/page+1)] = file
	}
	return all
}

func TestIndexOfOtherStreamIsRebuilt(t *testing.T) {
	one, two := newFixture(t), newFixture(t)
	h := one.open()
	old := newID()
	h.appendEvents(lifecycle(old)...)
	h.stop()
	two.dir = one.dir
	h = two.open()
	if _, _, err := h.Find(t.Context(), "shop", old); !errors.Is(err, push.ErrNotFound) {
		t.Errorf("found a notification of another stream: %v", err)
	}
	recent := newID()
	h.appendEvents(lifecycle(recent)...)
	if got, _ := h.find("shop", recent); got.Status() != push.StatusAccepted {
		t.Error(got.Status())
	}
}

func TestIndexOfOtherVersionIsRebuilt(t *testing.T) {
	f := newStreamFixture(t)
	h := f.open()
	known := newID()
	h.appendEvents(lifecycle(known)...)
	h.stop()
	db, err := sql.Open("sqlite", filepath.Join(f.dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("DROP TABLE notification; PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _ := f.open().find("shop", known); got.Status() != push.StatusAccepted {
		t.Error(got.Status())
	}
}

// TestIndexIsForItsOwnerOnly opens an index in a directory that everyone can read, and one that an
// earlier version has created for everyone.
func TestIndexIsForItsOwnerOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no modes")
	}
	f := newStreamFixture(t)
	if err := os.Chmod(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, before := range []os.FileMode{0, 0o666} {
		if before != 0 {
			if err := os.Chmod(filepath.Join(f.dir, "index.db"), before); err != nil {
				t.Fatal(err)
			}
		}
		h := f.open()
		entries, err := os.ReadDir(f.dir)
		if err != nil || len(entries) < 2 {
			t.Fatal(entries, err)
		}
		for _, entry := range entries {
			if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", entry.Name(), info.Mode(), err)
			}
		}
		h.stop()
	}
}
