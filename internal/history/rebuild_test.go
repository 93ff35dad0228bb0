// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/push"
)

// dump is all that an index holds, as text.
func dump(t *testing.T, dir string) string {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var out strings.Builder
	for _, query := range []string{
		"SELECT stream, last FROM mark", "SELECT * FROM chunk ORDER BY seq", "SELECT * FROM notification ORDER BY id", "SELECT * FROM idempotency ORDER BY key",
	} {
		rows, err := db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		names, _ := rows.Columns()
		for rows.Next() {
			values, places := make([]any, len(names)), make([]any, len(names))
			for i := range values {
				places[i] = &values[i]
			}
			if err := rows.Scan(places...); err != nil {
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

// randomEvents is a random sequence of events, most of which make no sense.
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
		e.At = noon.Add(time.Duration(random.IntN(1000)) * time.Millisecond)
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
		house := newFixture(t)
		live := house.open()
		for events := randomEvents(random, 250); len(events) > 0; {
			some := min(len(events), 1+random.IntN(12))
			live.appendEvents(events[:some]...)
			events = events[some:]
		}
		live.waitIndexed()
		live.stop()
		want := dump(t, house.dir)
		for _, name := range []string{"in batches", "rebuilt"} {
			if name == "rebuilt" {
				if err := os.Remove(filepath.Join(house.dir, "index.db")); err != nil {
					t.Fatal(err)
				}
			} else {
				house.dir = t.TempDir()
			}
			again := house.open()
			again.waitIndexed()
			again.stop()
			if diff := cmp.Diff(want, dump(t, house.dir)); diff != "" {
				t.Fatalf("seed %d, %s: %s", seed, name, diff)
			}
		}
	}
}

func TestDamagedIndexIsRebuilt(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	var ids []string
	for range 40 {
		ids = append(ids, newID())
		r.appendEvents(lifecycle(ids[len(ids)-1])...)
	}
	r.stop()
	path := filepath.Join(house.dir, "index.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range damagedFiles(whole) {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		r := house.open()
		for _, id := range ids {
			receipt, events, err := r.Find(t.Context(), "shop", id)
			for err != nil && !errors.Is(err, push.ErrNotFound) { // it may say so until it is made anew
				receipt, events, err = r.Find(t.Context(), "shop", id)
			}
			if err != nil || receipt.Status() != push.StatusAccepted || len(events) != 3 {
				t.Fatalf("%s: %+v %+v %v", name, receipt, events, err)
			}
		}
		r.stop()
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error("no damaged file was kept aside:", err)
	}
}

// damagedFiles are files that have suffered.
func damagedFiles(whole []byte) map[string][]byte {
	const page = 8192
	all := map[string][]byte{
		"no database": []byte(strings.Repeat("no database\n", 1000)),
		"torn":        whole[:len(whole)/2/page*page],
		"torn within": whole[:len(whole)/2+100],
		"header":      append([]byte("SQLite format 4"), whole[15:]...),
		"empty":       nil,
	}
	for at := page; at < len(whole); at += page {
		file := append([]byte(nil), whole...)
		copy(file[at:at+page], strings.Repeat("\xff", page))
		all[fmt.Sprintf("page %d", at/page+1)] = file
	}
	return all
}

func TestIndexOfOtherStreamIsRebuilt(t *testing.T) {
	one, two := newFixture(t), newFixture(t)
	r := one.open()
	old := newID()
	r.appendEvents(lifecycle(old)...)
	r.stop()
	two.dir = one.dir
	r = two.open()
	if _, _, err := r.Find(t.Context(), "shop", old); !errors.Is(err, push.ErrNotFound) {
		t.Errorf("found what is in no stream: %v", err)
	}
	now := newID()
	r.appendEvents(lifecycle(now)...)
	if got, _ := r.find("shop", now); got.Status() != push.StatusAccepted {
		t.Error(got.Status())
	}
}

func TestIndexOfOtherVersionIsRebuilt(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	known := newID()
	r.appendEvents(lifecycle(known)...)
	r.stop()
	db, err := sql.Open("sqlite", filepath.Join(house.dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("DROP TABLE notification; PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _ := house.open().find("shop", known); got.Status() != push.StatusAccepted {
		t.Error(got.Status())
	}
}
