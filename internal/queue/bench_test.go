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

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// openBench opens a queue on a log, with the history or with a journal in memory. indexed waits until
// the history has indexed this number of events.
func openBench(b *testing.B, s queue.Sender, withHistory bool) (q *queue.Queue, indexed func(events int)) {
	b.Helper()
	e, err := jetstream.Open(b.Context(), jetstream.Config{Dir: b.TempDir(), Reserve: -1, Keys: jetstreamtest.Keys()})
	if err != nil {
		b.Fatal(err)
	}
	log, err := history.OpenLog(b.Context(), e, "")
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	historyCtx, stopHistory := context.WithCancel(context.Background())
	var j queue.Journal = newMemoryJournal()
	indexed = func(int) {}
	if withHistory {
		hist, err := history.Open(b.Context(), history.Config{Engine: e, Log: log, Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		running.Go(func() { _, _ = hist.Run(historyCtx), hist.Close() })
		j = historyJournal{hist}
		indexed = func(events int) { waitIndexed(hist, events) }
	}
	running.Go(func() { _ = log.Run(historyCtx) })
	q, err = queue.Open(b.Context(), queue.Config{Engine: e, Log: log, Journal: j, Sender: s, MaxBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { _ = q.Run(ctx); close(stopped) }()
	b.Cleanup(func() {
		stop()
		testwait.For(b, stopped, "the end")
		stopHistory()
		running.Wait()
		_ = e.Close()
	})
	return q, indexed
}

// waitIndexed waits until the history has received this number of events since it started and has
// indexed all of them.
func waitIndexed(h *history.History, events int) {
	for s := h.Status(); s.Events < uint64(events) || s.LagBatches > 0; s = h.Status() {
		time.Sleep(time.Millisecond)
	}
}

// openBareLog opens an engine with a log that nothing observes.
func openBareLog(b *testing.B) *jetstream.Log {
	b.Helper()
	e, err := jetstream.Open(b.Context(), jetstream.Config{Dir: b.TempDir(), Reserve: -1, Keys: jetstreamtest.Keys()})
	if err != nil {
		b.Fatal(err)
	}
	l, err := e.Log(b.Context(), natsjs.StreamConfig{Name: "BARE", Subjects: []string{"bare", "bare.>"}}, "bare", "")
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	b.Cleanup(func() {
		stop()
		running.Wait()
		_ = e.Close()
	})
	return l
}

// runConcurrently calls do for every turn, from 64 goroutines.
func runConcurrently(turns int, do func(turn int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		wg.Go(func() {
			for turn := int(next.Add(1)); turn <= turns; turn = int(next.Add(1)) {
				do(turn - 1)
			}
		})
	}
	wg.Wait() // bounded by go test -timeout
}

// BenchmarkAccept measures notifications accepted per second, from 64 goroutines, one at a time and
// in batches of 100, without the history and with it, including the indexing. The metric of-engine
// compares this with the rate at which the engine alone writes the same tasks. Both run in
// alternation, because the speed of a shared machine varies.
func BenchmarkAccept(b *testing.B) {
	for _, batch := range []struct {
		name        string
		size, turns int
	}{{"one", 1, 6400}, {"hundred", 100, 640}} {
		for _, journal := range []string{"queue", "history"} {
			b.Run(batch.name+"/"+journal, func(b *testing.B) {
				r := comparison{engine: openBareLog(b), size: batch.size}
				r.queue, r.indexed = openBench(b, newFakeSender(), journal == "history")
				r.queue.Drain() // so that nothing is sent meanwhile
				b.ReportAllocs()
				for left := b.N; left > 0; left -= batch.turns {
					r.round(b, min(left, batch.turns))
				}
				r.report(b)
			})
		}
	}
}

// comparison runs the same work on a queue and on an engine in alternation.
type comparison struct {
	queue    *queue.Queue
	indexed  func(events int)
	engine   *jetstream.Log
	size     int // notifications in a batch
	accepted int // notifications so far

	engineTime, queueTime, cpu time.Duration
}

// round writes the same number of batches to each.
func (r *comparison) round(b *testing.B, turns int) {
	b.StopTimer()
	batches, items := make([][]*push.Notification, turns), slices.Repeat([]jetstream.Record{{Data: encodedTask(b)}}, r.size)
	for i := range batches {
		batches[i] = newNotifications("shop", r.size)
	}
	began := time.Now()
	runConcurrently(turns, func(int) {
		if _, err := r.engine.Append(b.Context(), items...); err != nil {
			b.Error(err)
		}
	})
	r.engineTime += time.Since(began)
	before := cpuTime()
	began = time.Now()
	b.StartTimer()
	runConcurrently(turns, func(turn int) { acceptAll(b, r.queue, batches[turn]) })
	r.accepted += turns * r.size
	r.indexed(r.accepted)
	r.queueTime += time.Since(began)
	r.cpu += cpuTime() - before
}

func (r *comparison) report(b *testing.B) {
	count := float64(b.N * r.size)
	b.ReportMetric(count/r.queueTime.Seconds(), "notifications/s")
	b.ReportMetric(1e5*r.cpu.Seconds()/count, "cpu-s/100k")
	b.ReportMetric(r.engineTime.Seconds()/r.queueTime.Seconds(), "of-engine")
}

func acceptAll(b *testing.B, q *queue.Queue, ns []*push.Notification) {
	for _, err := range q.Accept(b.Context(), ns) {
		if err != nil {
			b.Error(err)
		}
	}
}

// encodedTask returns a task as the queue encodes it.
func encodedTask(b *testing.B) []byte {
	b.Helper()
	n := newNotification("shop")
	text, err := json.Marshal(map[string]any{"id": n.ID, "app": n.App, "accepted_at": n.AcceptedAt, "n": n})
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// instantSender accepts every notification immediately.
type instantSender struct{ ended sync.WaitGroup }

func (*instantSender) Check(*push.Notification) error { return nil }

func (s *instantSender) Send(_ context.Context, n *push.Call) *push.Receipt {
	defer s.ended.Done()
	r := &n.Receipt
	*r = push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if n.BeforeAttempt(1) != nil {
		r.Outcome = push.Outcome{Verdict: push.Abandoned}
	}
	return r
}

func (s *instantSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	errs := calls[0].BeforeRun(calls)
	for i, c := range calls {
		c.BeforeAttempt = func(int) error {
			if errs == nil {
				return nil
			}
			return errs[i]
		}
		s.Send(ctx, c)
	}
	ended(calls)
}

// BenchmarkDelivery measures the whole path with the history: accept in batches of 100, record the
// attempt, send to a sender that accepts immediately, and record the end.
func BenchmarkDelivery(b *testing.B) {
	s := &instantSender{}
	q, indexed := openBench(b, s, true)
	s.ended.Add(b.N * 100)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	runConcurrently(b.N, func(int) { acceptAll(b, q, newNotifications("shop", 100)) })
	s.ended.Wait()
	indexed(3 * 100 * b.N)
	b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "notifications/s")
	b.ReportMetric(1e5*(cpuTime()-before).Seconds()/float64(b.N*100), "cpu-s/100k")
}
