// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/history"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/queue"
)

// deaf is a journal that hears of nothing.
type deaf struct{ *memory }

func (deaf) Note(context.Context, ...push.Event) error { return nil }

// open opens a queue with the history, or with a deaf journal. indexed waits until the history's index holds so many
// events.
func open(b *testing.B, s queue.Sender, withHistory bool) (q *queue.Queue, indexed func(events int)) {
	b.Helper()
	e, err := engine.Open(b.Context(), engine.Config{Dir: b.TempDir(), Reserve: -1})
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	keeping, forget := context.WithCancel(context.Background())
	var j queue.Journal = deaf{newMemory()}
	indexed = func(int) {}
	if withHistory {
		hist, err := history.Open(b.Context(), history.Config{Engine: e, Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		running.Go(func() { _, _ = hist.Run(keeping), hist.Close() })
		j = record{hist}
		indexed = func(events int) { catchUp(hist, events) }
	}
	q, err = queue.Open(b.Context(), queue.Config{Engine: e, Journal: j, Sender: s, MaxBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	worked := make(chan struct{})
	go func() { _ = q.Run(ctx); close(worked) }()
	b.Cleanup(func() {
		stop()
		<-worked
		forget()
		running.Wait()
		_ = e.Close()
	})
	return q, indexed
}

// catchUp waits until the history has heard of so many events since it began, and its index holds them.
func catchUp(h *history.History, events int) {
	for s := h.Status(); s.Events < uint64(events) || s.Behind > 0; s = h.Status() {
		time.Sleep(time.Millisecond)
	}
}

// bare opens an engine with nothing but a writer.
func bare(b *testing.B) *engine.Writer {
	b.Helper()
	e, err := engine.Open(b.Context(), engine.Config{Dir: b.TempDir(), Reserve: -1})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := e.Stream(b.Context(), bareStream); err != nil {
		b.Fatal(err)
	}
	w := e.Writer(bareStream.Name, false)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	b.Cleanup(func() {
		stop()
		running.Wait()
		_ = e.Close()
	})
	return w
}

// callers has 64 callers do something so many times in all.
func callers(turns int, do func(turn int)) {
	var left sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		left.Go(func() {
			for turn := int(next.Add(1)); turn <= turns; turn = int(next.Add(1)) {
				do(turn - 1)
			}
		})
	}
	left.Wait()
}

// BenchmarkAccept is what is accepted and on disk a second, one at a time by 64 callers and in batches of 100, without the
// history and with it, until its index holds it too. The last figure is the part of what the engine alone writes of the same
// texts: both take turns, for what a machine can do that others use is not the same for long.
func BenchmarkAccept(b *testing.B) {
	for _, batch := range []struct {
		name        string
		size, turns int
	}{{"one", 1, 6400}, {"hundred", 100, 640}} {
		for _, journal := range []string{"queue", "history"} {
			b.Run(batch.name+"/"+journal, func(b *testing.B) {
				r := race{engine: bare(b), size: batch.size}
				r.queue, r.indexed = open(b, newSender(), journal == "history")
				r.queue.Drain() // so that nothing is taken from disk meanwhile
				b.ReportAllocs()
				for left := b.N; left > 0; left -= batch.turns {
					r.round(b, min(left, batch.turns))
				}
				r.report(b)
			})
		}
	}
}

// race is a queue and an engine that do the same in turn.
type race struct {
	queue   *queue.Queue
	indexed func(events int)
	engine  *engine.Writer
	size    int // of a batch
	safe    int // notifications

	alone, whole, busy time.Duration
}

// round has each of them take so many batches.
func (r *race) round(b *testing.B, turns int) {
	b.StopTimer()
	batches, texts := make([][]*push.Notification, turns), slices.Repeat([][]byte{textOf(b)}, r.size)
	for i := range batches {
		batches[i] = notes("shop", r.size)
	}
	began := time.Now()
	callers(turns, func(int) {
		if _, err := r.engine.AppendAll(b.Context(), "bare.x", texts); err != nil {
			b.Error(err)
		}
	})
	r.alone += time.Since(began)
	busy := worked()
	began = time.Now()
	b.StartTimer()
	callers(turns, func(turn int) { safe(b, r.queue, batches[turn]) })
	r.safe += turns * r.size
	r.indexed(r.safe)
	r.whole += time.Since(began)
	r.busy += worked() - busy
}

func (r *race) report(b *testing.B) {
	count := float64(b.N * r.size)
	b.ReportMetric(count/r.whole.Seconds(), "notifications/s")
	b.ReportMetric(1e5*r.busy.Seconds()/count, "cpu-s/100k")
	b.ReportMetric(r.alone.Seconds()/r.whole.Seconds(), "of-engine")
}

func safe(b *testing.B, q *queue.Queue, ns []*push.Notification) {
	for _, err := range q.Accept(b.Context(), ns) {
		if err != nil {
			b.Error(err)
		}
	}
}

var bareStream = jetstream.StreamConfig{
	Name: "BARE", Subjects: []string{"bare.>"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: 1 << 40,
}

// textOf is a task as the queue writes it.
func textOf(b *testing.B) []byte {
	b.Helper()
	n := note("shop")
	text, err := json.Marshal(map[string]any{"id": n.ID, "app": n.App, "accepted_at": n.AcceptedAt, "n": n})
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// atOnce is a sender whose provider accepts at once.
type atOnce struct{ ended sync.WaitGroup }

func (*atOnce) Check(*push.Notification) error { return nil }

func (s *atOnce) Send(_ context.Context, n *push.Notification) push.Receipt {
	defer s.ended.Done()
	r := push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if n.BeforeAttempt(1) != nil {
		r.Outcome = push.Outcome{Verdict: push.Abandoned}
	}
	return r
}

// BenchmarkWork is what goes all the way a second: accepted in batches of 100, noted, sent to a provider that accepts at
// once, and ended, with the history.
func BenchmarkWork(b *testing.B) {
	s := &atOnce{}
	q, indexed := open(b, s, true)
	s.ended.Add(b.N * 100)
	b.ReportAllocs()
	b.ResetTimer()
	busy := worked()
	callers(b.N, func(int) { safe(b, q, notes("shop", 100)) })
	s.ended.Wait()
	indexed(3 * 100 * b.N)
	b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "notifications/s")
	b.ReportMetric(1e5*(worked()-busy).Seconds()/float64(b.N*100), "cpu-s/100k")
}
