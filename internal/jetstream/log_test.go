// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/internal/testwait"
)

// logFixture is a running log on an embedded engine.
type logFixture struct {
	*jetstream.Log
	engine *jetstream.Engine
	stop   func()

	mu       sync.Mutex
	observed []jetstream.Message
}

func openLog(t *testing.T, dir string) *logFixture {
	t.Helper()
	return openLogAt(t, jetstream.Config{Dir: dir, Reserve: -1})
}

// logStream returns the stream of openLogAt.
func logStream() natsjs.StreamConfig {
	return natsjs.StreamConfig{Name: "LOG", Subjects: []string{"log", "log.>"}}
}

func openLogAt(t *testing.T, cfg jetstream.Config) *logFixture {
	t.Helper()
	e, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &logFixture{engine: e}
	if f.Log, err = e.Log(t.Context(), logStream(), "log", ""); err != nil {
		t.Fatal(err)
	}
	f.Observe(func(m *jetstream.Message) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.observed = append(f.observed, *m)
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	running.Go(func() {
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	f.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

func textRecord(text string) jetstream.Record { return jetstream.Record{Data: []byte(text), Tag: text} }

// stored returns all records of the log by offset.
func (f *logFixture) stored(t *testing.T) map[jetstream.Offset]string {
	t.Helper()
	all := map[jetstream.Offset]string{}
	last := uint64(0)
	err := f.ReadFrom(t.Context(), 0, func(m *jetstream.Message) error {
		if m.Seq <= last {
			t.Errorf("message %d after %d", m.Seq, last)
		}
		last = m.Seq
		for i, r := range m.Records {
			all[jetstream.Offset{Seq: m.Seq, Index: i}] = string(r.Data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLogReturnsOffsetOfEachRecord appends from several goroutines, and compares the offsets with what
// is stored, what the observer got, and what a new process reads.
func TestLogReturnsOffsetOfEachRecord(t *testing.T) {
	dir := t.TempDir()
	f := openLog(t, dir)
	var mu sync.Mutex
	want := map[jetstream.Offset]string{}
	var callers sync.WaitGroup
	for caller := range 8 {
		callers.Go(func() {
			var last jetstream.Offset
			for i := range 50 {
				var records []jetstream.Record
				for k := range 1 + (caller+i)%7 {
					records = append(records, textRecord(fmt.Sprintf("%d.%d.%d", caller, i, k)))
				}
				offsets, err := f.Append(t.Context(), records...)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for k, at := range offsets {
					if !last.Before(at) {
						t.Errorf("%v after %v", at, last)
					}
					last = at
					want[at] = string(records[k].Data)
				}
				mu.Unlock()
			}
		})
	}
	testwait.Call(t, callers.Wait, "the end of all callers")
	check := func(f *logFixture) {
		got := f.stored(t)
		if len(got) != len(want) {
			t.Errorf("%d records, want %d", len(got), len(want))
		}
		for at, text := range want {
			if got[at] != text {
				t.Fatalf("%q at %v, want %q", got[at], at, text)
			}
		}
	}
	check(f)
	for _, m := range f.observed {
		for i, r := range m.Records {
			if want[jetstream.Offset{Seq: m.Seq, Index: i}] != r.Tag {
				t.Fatalf("observed %v at %d.%d", r.Tag, m.Seq, i)
			}
		}
	}
	if int(f.LastSeq()) != len(f.observed) || len(f.observed) == 8*50 {
		t.Errorf("%d messages observed, the last is %d", len(f.observed), f.LastSeq())
	}
	f.stop()
	check(openLog(t, dir))
}

// TestLogStoresAsyncRecords checks that records that nothing waits for are stored soon, keep their order
// with others, and are stored when the log stops.
func TestLogStoresAsyncRecords(t *testing.T) {
	dir := t.TempDir()
	f := openLog(t, dir)
	if err := f.AppendAsync(t.Context(), textRecord("a")); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, func() bool { return f.LastSeq() == 1 }, "the record is stored")
	if err := f.AppendAsync(t.Context(), textRecord("b")); err != nil {
		t.Fatal(err)
	}
	offsets, err := f.Append(t.Context(), textRecord("c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.AppendAsync(t.Context(), textRecord("d")); err != nil {
		t.Fatal(err)
	}
	f.stop()
	if err := f.AppendAsync(t.Context(), textRecord("e")); !errors.Is(err, jetstream.ErrClosed) {
		t.Error(err)
	}
	f = openLog(t, dir)
	if got := f.stored(t); got[offsets[0]] != "c" || len(got) != 4 {
		t.Errorf("%v %v", offsets, got)
	}
}

// TestLogSplitsLargeGroups appends more than fits into a message, and one record that is larger.
func TestLogSplitsLargeGroups(t *testing.T) {
	f := openLog(t, t.TempDir())
	records := []jetstream.Record{{Data: make([]byte, 700<<10)}}
	for range 20 {
		records = append(records, jetstream.Record{Data: make([]byte, 100<<10)})
	}
	offsets, err := f.Append(t.Context(), records...)
	if err != nil {
		t.Fatal(err)
	}
	if last := offsets[20].Seq; last < 5 || last > 6 || f.LastSeq() != last {
		t.Errorf("%v", offsets)
	}
	if _, err := f.Append(t.Context(), jetstream.Record{Data: make([]byte, 5<<20)}); !errors.Is(err, jetstream.ErrTooLarge) {
		t.Error(err)
	}
}

// keeper needs the messages from a sequence on.
type keeper uint64

func (k keeper) OldestSeq() uint64 { return uint64(k) }

func (keeper) Rewrite(context.Context, uint64, int64) error { return nil }

// TestLogDeletesOnlyWhatIsNotKept deletes messages while a keeper needs some of them.
func TestLogDeletesOnlyWhatIsNotKept(t *testing.T) {
	f := openLog(t, t.TempDir())
	for range 6 {
		if _, err := f.Append(t.Context(), textRecord("x")); err != nil {
			t.Fatal(err)
		}
	}
	f.Keep(keeper(3))
	if err := f.Delete(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(t.Context(), 2); !errors.Is(err, jetstream.ErrDeleted) {
		t.Error(err)
	}
	if m, err := f.Read(t.Context(), 3); err != nil || len(m.Records) != 1 {
		t.Error(m, err)
	}
}

// TestLogContinuesAfterLostResponse restarts the embedded server during writes. Every Append returns an
// offset at which exactly its record is stored.
func TestLogContinuesAfterLostResponse(t *testing.T) {
	dir := t.TempDir()
	f := openLog(t, dir)
	var mu sync.Mutex
	want := map[jetstream.Offset]string{}
	var callers sync.WaitGroup
	var stop atomic.Bool
	for caller := range 4 {
		callers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				text := fmt.Sprintf("%d.%d", caller, i)
				offsets, err := f.Append(t.Context(), textRecord(text))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[offsets[0]] = text
				mu.Unlock()
			}
		})
	}
	appended := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(want)
	}
	for range 3 {
		at := appended() + 1 + rand.N(50) // a random moment
		testwait.Until(t, func() bool { return appended() >= at }, "writes before the failure")
		jetstream.FailWrites(f.engine)
	}
	last := appended()
	testwait.Until(t, func() bool { return appended() > last }, "a write after the last failure")
	stop.Store(true)
	testwait.Call(t, callers.Wait, "the end of all callers")
	got := f.stored(t)
	if len(got) != len(want) {
		t.Errorf("%d records stored, %d appended", len(got), len(want))
	}
	for at, text := range want {
		if got[at] != text {
			t.Fatalf("%q at %v, want %q", got[at], at, text)
		}
	}
}

// TestDamagedRecordOfLogIsSkipped flips bits in the records of two messages. Only these records are lost,
// and the others keep their offsets.
func TestDamagedRecordOfLogIsSkipped(t *testing.T) {
	checkDamagedRecords(t, nil, func(block []byte) []int {
		return []int{bytes.Index(block, []byte("second record")) + 3, bytes.Index(block, []byte("the only record")) + 3}
	})
}

// checkDamagedRecords stores five records in three messages and flips bits of the second and the fourth, whose
// positions in the block find returns.
func checkDamagedRecords(t *testing.T, keys *keyring.Ring, find func(block []byte) []int) {
	t.Helper()
	cfg := jetstream.Config{Dir: t.TempDir(), Reserve: -1, Keys: keys}
	f := openLogAt(t, cfg)
	if _, err := f.Append(t.Context(), textRecord("first message"), textRecord("second record"), textRecord("third record")); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"the only record", "last message"} {
		if _, err := f.Append(t.Context(), textRecord(text)); err != nil {
			t.Fatal(err)
		}
	}
	f.stop()
	blocks, err := filepath.Glob(filepath.Join(cfg.Dir, "jetstream", "*", "streams", "LOG", "msgs", "*.blk"))
	if err != nil || len(blocks) != 1 {
		t.Fatal(blocks, err)
	}
	data, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range find(data) {
		data[at] ^= 4
	}
	if err := os.WriteFile(blocks[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	f = openLogAt(t, cfg)
	want := map[jetstream.Offset]string{{Seq: 1}: "first message", {Seq: 1, Index: 1}: "", {Seq: 1, Index: 2}: "third record", {Seq: 3}: "last message"}
	if got := f.stored(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if f.engine.Damage() != 2 {
		t.Errorf("%d damaged records found", f.engine.Damage())
	}
	f.stop()
	if f = openLogAt(t, cfg); f.engine.Damage() != 1 { // as after a crash
		t.Errorf("damage %d after another start, want 1", f.engine.Damage())
	}
	if err := f.engine.ForgetDamage(); err != nil {
		t.Error(err)
	}
	f.stop()
	if f = openLogAt(t, cfg); f.engine.Damage() != 0 {
		t.Errorf("damage %d after it was forgotten", f.engine.Damage())
	}
}

// TestLogReportsOtherWriter stores a message that the log has not written. The next call of Append, and
// Run, fail instead of retrying.
func TestLogReportsOtherWriter(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.Log(t.Context(), natsjs.StreamConfig{Name: "LOG", Subjects: []string{"log"}}, "log", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.JetStream().Publish(t.Context(), "log", []byte("x")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Run(t.Context()) }()
	if _, err := l.Append(t.Context(), textRecord("y")); !errors.Is(err, jetstream.ErrUnwritable) {
		t.Error(err)
	}
	if err := testwait.For(t, ended, "the end of the log"); !errors.Is(err, jetstream.ErrUnwritable) {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestPendingHasRecordsUntilAllObserversHaveThem looks at the pending records after each step.
func TestPendingHasRecordsUntilAllObserversHaveThem(t *testing.T) {
	f := openLog(t, t.TempDir())
	pending := func() (all []string) {
		f.Pending(func(data []byte) { all = append(all, string(data)) })
		return all
	}
	f.Observe(func(m *jetstream.Message) {
		got := pending()
		for i, r := range m.Records {
			if i >= len(got) || got[i] != string(r.Data) {
				t.Errorf("pending: %q, in the message: %q", got, r.Data)
			}
		}
	})
	for i := range 50 {
		if err := f.AppendAsync(t.Context(), textRecord(fmt.Sprint("a", i)), textRecord(fmt.Sprint("b", i))); err != nil {
			t.Fatal(err)
		}
		if i%5 > 0 {
			continue
		}
		if _, err := f.Append(t.Context(), textRecord(fmt.Sprint("c", i))); err != nil {
			t.Fatal(err)
		}
		if got := pending(); len(got) != 0 {
			t.Errorf("pending although stored: %q", got)
		}
	}
}

// TestExclusiveRecordsFollowTheirState appends records of one log exclusively while others are appended. Each
// states the last message, so that nothing can have come between.
func TestExclusiveRecordsFollowTheirState(t *testing.T) {
	url := jetstreamtest.StartServer(t)
	for name, logs := range map[string][]*logFixture{
		"embedded": {openLog(t, t.TempDir())}, "cluster": {openLogAt(t, jetstream.Config{URL: url}), openLogAt(t, jetstream.Config{URL: url})},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			var callers sync.WaitGroup
			for _, f := range logs {
				callers.Go(func() {
					for ctx.Err() == nil {
						if _, err := f.Append(ctx, textRecord("other")); err != nil && ctx.Err() == nil {
							t.Error(err)
						}
						sleep.For(ctx, 5*time.Millisecond)
					}
				})
			}
			for range 20 {
				err := logs[0].Exclusive(t.Context(), func() []jetstream.Record {
					return []jetstream.Record{textRecord(fmt.Sprint("after ", logs[0].LastSeq()))}
				})
				if err != nil {
					t.Error(err)
				}
			}
			if err := logs[0].Exclusive(t.Context(), func() []jetstream.Record { return nil }); err != nil {
				t.Error(err)
			}
			stop()
			testwait.Call(t, callers.Wait, "the end of all callers")
			exclusive := 0
			for at, text := range logs[0].stored(t) {
				if text == "other" {
					continue
				}
				if exclusive++; text != fmt.Sprint("after ", at.Seq-1) {
					t.Errorf("%q in message %d", text, at.Seq)
				}
			}
			if exclusive != 20 {
				t.Errorf("%d exclusive records, want 20", exclusive)
			}
		})
	}
}

// TestAfterWritesWaitsForEarlierRecords calls AfterWrites after an asynchronous append, and without one.
func TestAfterWritesWaitsForEarlierRecords(t *testing.T) {
	f, called := openLog(t, t.TempDir()), make(chan uint64, 1)
	if err := f.AppendAsync(t.Context(), textRecord("a")); err != nil {
		t.Fatal(err)
	}
	f.AfterWrites(func() { called <- f.LastSeq() })
	if got := testwait.For(t, called, "the write"); got != 1 {
		t.Errorf("called after message %d", got)
	}
	f.AfterWrites(func() { called <- f.LastSeq() })
	testwait.For(t, called, "a call without a write")
}
