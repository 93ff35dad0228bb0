// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/history"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/queue"
)

// deaf is a journal that hears of nothing.
type deaf struct{ *memory }

func (deaf) Note(context.Context, ...push.Event) error { return nil }

// open opens a queue with the history, or with a deaf journal.
func open(b *testing.B, s queue.Sender, withHistory bool) *queue.Queue {
	b.Helper()
	e, err := engine.Open(b.Context(), engine.Config{Dir: b.TempDir(), Reserve: -1})
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	keeping, forget := context.WithCancel(context.Background())
	var j queue.Journal = deaf{newMemory()}
	if withHistory {
		hist, err := history.Open(b.Context(), history.Config{Engine: e, Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		running.Go(func() { _, _ = hist.Run(keeping), hist.Close() })
		j = record{hist}
	}
	q, err := queue.Open(b.Context(), queue.Config{Engine: e, Journal: j, Sender: s, MaxBytes: 1 << 40})
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
	return q
}

// counter opens a queue that only accepts: it has been drained, so that nothing is taken from disk meanwhile.
func counter(b *testing.B, withHistory bool) *queue.Queue {
	b.Helper()
	q := open(b, newSender(), withHistory)
	q.Drain()
	return q
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

// callers has 64 callers do something b.N times in all.
func callers(b *testing.B, each int, do func()) {
	b.Helper()
	var left sync.WaitGroup
	turns := make(chan struct{}, 1024)
	for range 64 {
		left.Go(func() {
			for range turns {
				do()
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := worked()
	for range b.N {
		turns <- struct{}{}
	}
	close(turns)
	left.Wait()
	b.ReportMetric(float64(b.N*each)/b.Elapsed().Seconds(), "notifications/s")
	b.ReportMetric(1e5*(worked()-before).Seconds()/float64(b.N*each), "cpu-s/100k")
}

// BenchmarkAccept is what is accepted and on disk a second, one at a time by 64 callers and in batches of 100, beside what
// the engine alone writes of the same texts; with the history that hears of each, too.
func BenchmarkAccept(b *testing.B) {
	text := textOf(b)
	var hundred [][]byte
	for range 100 {
		hundred = append(hundred, text)
	}
	b.Run("one/engine", func(b *testing.B) {
		w := bare(b)
		callers(b, 1, func() {
			if _, err := w.Append(b.Context(), "bare.x", text); err != nil {
				b.Error(err)
			}
		})
	})
	b.Run("one/queue", func(b *testing.B) {
		q := counter(b, false)
		callers(b, 1, func() { safe(b, q, notes("shop", 1)) })
	})
	b.Run("one/history", func(b *testing.B) {
		q := counter(b, true)
		callers(b, 1, func() { safe(b, q, notes("shop", 1)) })
	})
	b.Run("hundred/engine", func(b *testing.B) {
		w := bare(b)
		callers(b, 100, func() {
			if _, err := w.AppendAll(b.Context(), "bare.x", hundred); err != nil {
				b.Error(err)
			}
		})
	})
	b.Run("hundred/queue", func(b *testing.B) {
		q := counter(b, false)
		callers(b, 100, func() { safe(b, q, notes("shop", 100)) })
	})
	b.Run("hundred/history", func(b *testing.B) {
		q := counter(b, true)
		callers(b, 100, func() { safe(b, q, notes("shop", 100)) })
	})
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
	if n.Leaving(1) != nil {
		r.Outcome = push.Outcome{Verdict: push.Abandoned}
	}
	return r
}

// BenchmarkWork is what goes all the way a second: accepted in batches of 100, noted, sent to a provider that accepts at
// once, and ended, with the history.
func BenchmarkWork(b *testing.B) {
	s := &atOnce{}
	q := open(b, s, true)
	s.ended.Add(b.N * 100)
	callers(b, 100, func() { safe(b, q, notes("shop", 100)) })
	s.ended.Wait()
	b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "notifications/s")
}
