// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// TestWaitingTasksAreReadBack accepts more notifications than stay in memory, some of them scheduled.
// Each is sent once, also those that are read from the log again, and after a restart.
func TestWaitingTasksAreReadBack(t *testing.T) {
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	release, started := s.block(), time.Now().Truncate(time.Millisecond)
	f := openQueue(t, dir, j, s, queue.Config{InFlight: 4})
	var all []*push.Notification
	for range 24 {
		ns := newNotifications("shop", 500)
		for _, n := range ns[:50] {
			n.SendAt = n.AcceptedAt.Add(time.Second)
		}
		f.accept(t, ns...)
		all = append(all, ns...)
	}
	f.Drain()
	release()
	f.stop()
	if sent := s.sentCount(); sent > 8 {
		t.Errorf("%d sent before the restart", sent)
	}
	f = openQueue(t, dir, j, s, queue.Config{})
	status, err := f.Status(t.Context())
	if err != nil || len(status.Waiting) != 1 || status.Waiting[0].Tasks < 10_000 || status.Oldest.Before(started) || status.Oldest.After(time.Now()) {
		t.Errorf("%+v %v", status, err)
	}
	j.waitEnded(t, all...)
	for _, n := range all {
		if r := f.receipt(t, n); s.count(n.ID) != 1 || r.Status() != push.StatusAccepted {
			t.Fatalf("sent %d times: %+v", s.count(n.ID), r)
		}
	}
	if status, err := f.Status(t.Context()); err != nil || status.Bytes != 0 || status.LaterBytes != 0 || len(status.Waiting) != 0 {
		t.Errorf("%+v %v", status, err)
	}
}

// TestWaitingTasksAreWrittenAgain writes waiting tasks to the end of the log, so that the messages before
// can be deleted: one that is due, a scheduled and a rescheduled one. Each is sent or cancelled as if it
// had stayed, also after a restart.
func TestWaitingTasksAreWrittenAgain(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
		ns := newNotifications("shop", 5)
		retried, sending, waiting, scheduled, cancelled := ns[0], ns[1], ns[2], ns[3], ns[4]
		due := time.Now().Add(3 * time.Second)
		scheduled.SendAt, cancelled.SendAt = due, due.Add(time.Hour)
		s.answer = func(n *push.Notification, attempt int) push.Outcome {
			if n.ID == retried.ID && attempt == 1 {
				return push.Outcome{Verdict: push.Throttled, RetryAfter: time.Until(due)}
			}
			return push.Outcome{Verdict: push.Accepted}
		}
		release := s.blockMatching(func(n *push.Notification) bool { return n.ID == sending.ID })
		f := openQueue(t, dir, j, s, queue.Config{InFlight: 1})
		f.accept(t, retried)
		j.waitUntil(t, "it is rescheduled", func() bool { return len(j.events[retried.ID]) == 3 })
		f.accept(t, sending)
		s.waitSent(t, sending)
		f.accept(t, waiting, scheduled, cancelled)
		if err := f.log.Rewrite(t.Context(), math.MaxUint64, 10); err != nil {
			t.Fatal(err)
		}
		if got := f.log.Deletable(math.MaxUint64); got != 1 {
			t.Errorf("message %d can be deleted although its tasks are too large", got-1)
		}
		if err := f.log.Rewrite(t.Context(), math.MaxUint64, 1<<20); err != nil {
			t.Fatal(err)
		}
		if got, want := f.log.Deletable(math.MaxUint64), strings.Split(j.eventsOf(sending.ID)[0].Cursor, ".")[0]; fmt.Sprint(got) != want {
			t.Errorf("the messages before %d can be deleted, want those before %s, which is being sent", got, want)
		}
		if r, err := f.Cancel(t.Context(), "shop", cancelled.ID); err != nil || r.Status() != push.StatusCancelled {
			t.Errorf("%+v %v", r, err)
		}
		if err := f.log.Delete(t.Context(), f.log.LastSeq()+1); err != nil {
			t.Fatal(err)
		}
		release()
		if restarted {
			f.stop()
			f = openQueue(t, dir, j, s, queue.Config{})
		}
		j.waitEnded(t, ns...)
		for _, n := range ns {
			attempts := 1
			switch n.ID {
			case retried.ID:
				attempts = 2
			case cancelled.ID:
				attempts = 0
			}
			if r := f.receipt(t, n); s.count(n.ID) != attempts || len(r.Attempts) != attempts {
				t.Errorf("sent %d times, want %d: %+v", s.count(n.ID), attempts, r)
			}
			if times := s.times[n.ID]; (n == scheduled || n == retried) && times[len(times)-1].Before(due) {
				t.Errorf("sent at %v, before %v", times, due)
			}
		}
		f.stop()
		e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir, Reserve: -1, Keys: jetstreamtest.Keys()})
		if err != nil {
			t.Fatal(err)
		}
		if report, err := audit.Run(t.Context(), e, audit.Config{Events: history.Stream}); err != nil || !report.Clean() || report.Waiting > 0 {
			t.Errorf("%+v %v", report, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckpointBeforeDeletedMessagesIsNotUsed ends a task after a checkpoint, and deletes the record of
// that. The task is not sent again.
func TestCheckpointBeforeDeletedMessagesIsNotUsed(t *testing.T) {
	for name, later := range map[string]int{"the end": 0, "a message in between": 1} {
		j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
		file := filepath.Join(t.TempDir(), "checkpoint")
		f := openQueue(t, dir, j, s, queue.Config{Checkpoint: file})
		n := newNotification("shop")
		n.SendAt = time.Now().Add(time.Second)
		f.accept(t, n)
		f.Drain()
		if waits, err := f.Confirm(t.Context(), n.ID); err != nil || !waits { // it is prepared by then
			t.Fatal(waits, err)
		}
		f.stop()
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f = openQueue(t, dir, j, s, queue.Config{Checkpoint: file})
		j.waitEnded(t, n)
		if err := f.log.Delete(t.Context(), f.log.LastSeq()+1); err != nil {
			t.Fatal(err)
		}
		for _, n := range newNotifications("shop", later) {
			f.accept(t, n)
			j.waitEnded(t, n)
		}
		f.stop()
		if err := os.WriteFile(file, before, 0o600); err != nil {
			t.Fatal(err)
		}
		f = openQueue(t, dir, j, s, queue.Config{Checkpoint: file})
		if status, err := f.Status(t.Context()); err != nil || status.Bytes+status.LaterBytes > 0 {
			t.Errorf("%s: %+v %v", name, status, err)
		}
		f.stop()
		if s.count(n.ID) != 1 {
			t.Errorf("%s: sent %d times", name, s.count(n.ID))
		}
	}
}

// countingLog counts the messages that are read at the start.
type countingLog struct {
	*jetstream.Log
	read atomic.Int64
}

func (l *countingLog) ReadFrom(ctx context.Context, seq uint64, f func(*jetstream.Message) error) error {
	return l.Log.ReadFrom(ctx, seq, func(m *jetstream.Message) error {
		l.read.Add(1)
		return f(m)
	})
}

// TestCheckpointShortensStart restarts a queue with a checkpoint, with a damaged one and without one. It
// has the same tasks each time, and reads only the end of the log with a checkpoint.
func TestCheckpointShortensStart(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "the test needs an embedded server")
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	file := filepath.Join(t.TempDir(), "checkpoint")
	f := openQueue(t, dir, j, s, queue.Config{Checkpoint: file})
	var ns []*push.Notification
	for i := range 80 {
		n := newNotification("shop")
		n.Body = strings.Repeat("x", 512<<10)
		if i%2 == 0 {
			n.SendAt = n.AcceptedAt.Add(time.Hour)
		}
		f.accept(t, n)
		ns = append(ns, n)
	}
	for i, n := range ns {
		if i%2 == 1 {
			j.waitEnded(t, n)
		}
	}
	testwait.Until(t, func() bool {
		_, err := os.Stat(file)
		return err == nil
	}, "there is a checkpoint")
	f.stop()
	intact, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := append([]byte(nil), intact...)
	damaged[len(damaged)/2] ^= 1
	for name, c := range map[string]struct {
		file  []byte
		whole bool
	}{"checkpoint": {intact, false}, "damaged": {damaged, true}, "none": {nil, true}} {
		if err := os.WriteFile(file, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir, Reserve: -1, Keys: jetstreamtest.Keys()})
		if err != nil {
			t.Fatal(err)
		}
		log, err := history.OpenLog(t.Context(), e, "")
		if err != nil {
			t.Fatal(err)
		}
		counting := &countingLog{Log: log}
		q, err := queue.Open(t.Context(), queue.Config{Engine: e, Log: counting, Checkpoint: file, Sender: s, Journal: j})
		if err != nil {
			t.Fatal(err)
		}
		status, err := q.Status(t.Context())
		if err != nil || len(status.Waiting) != 0 || status.LaterBytes < 40*512<<10 || status.LaterBytes > 41*512<<10 {
			t.Errorf("%s: %+v %v", name, status, err)
		}
		if read := counting.read.Load(); !c.whole && read != 0 {
			t.Errorf("%s: %d messages read after the checkpoint at the end", name, read)
		}
		if whole := uint64(counting.read.Load()) == log.LastSeq(); whole != c.whole {
			t.Errorf("%s: %d of %d messages read", name, counting.read.Load(), log.LastSeq())
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKeyStaysInUseUntilNotificationIsStored accepts a notification with an Idempotency-Key while the log
// is not written, until the call gives up. A repeated call has to wait, and gets the first notification
// when that is stored.
func TestKeyStaysInUseUntilNotificationIsStored(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	log, err := history.OpenLog(t.Context(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	hist, err := history.Open(t.Context(), history.Config{Engine: e, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(t.Context(), queue.Config{Engine: e, Log: log, Journal: historyJournal{hist}, Sender: newFakeSender()})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := idempotency.NewLog(t.Context(), idempotency.LogConfig{Engine: e, History: keyHistory{hist}, Queue: q})
	if err != nil {
		t.Fatal(err)
	}
	q.Drain() // so that it waits
	first, repeated := newNotification("shop"), newNotification("shop")
	for _, n := range []*push.Notification{first, repeated} {
		n.KeyHash, n.BodyHash = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	}
	release, _, err := keys.Claim(t.Context(), first)
	if err != nil || release == nil {
		t.Fatal("a new key is not free", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Accept(short, []*push.Notification{first})[0]; err == nil {
		t.Error("accepted although nothing is written")
	}
	release(nil)
	if release, _, err := keys.Claim(short, repeated); !errors.Is(err, push.ErrKeyInUse) {
		t.Errorf("the key is free: %t, %v", release != nil, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = log.Run(ctx) })
	running.Go(func() { _ = q.Run(ctx) })
	if release, earlier, err := keys.Claim(t.Context(), repeated); err != nil || release != nil || earlier.ID != first.ID || earlier.State != push.StatusQueued {
		t.Errorf("%+v %v, want %s", earlier, err, first.ID)
	}
	stop()
	testwait.Call(t, running.Wait, "the end of the queue and the log")
	if err := errors.Join(hist.Close(), e.Close()); err != nil {
		t.Error(err)
	}
}
