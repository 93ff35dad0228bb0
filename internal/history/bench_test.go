// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// openBench returns a function that opens and runs a history. All histories use the same engine.
func openBench(b *testing.B) (open func(dir string) (h *history.History, stop func())) {
	b.Helper()
	e, err := jetstream.Open(b.Context(), jetstream.Config{Dir: filepath.Join(b.TempDir(), "engine")})
	if err != nil {
		b.Fatal(err)
	}
	log, err := history.OpenLog(b.Context(), e, "")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := errors.Join(testwait.For(b, ended, "the end of the log"), e.Close()); err != nil {
			b.Error(err)
		}
	})
	return func(dir string) (*history.History, func()) {
		h, err := history.Open(b.Context(), history.Config{Engine: e, Log: log, Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx) }()
		return h, func() {
			cancel()
			if err := testwait.For(b, ended, "the end"); err != nil {
				b.Fatal(err)
			}
			if err := h.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func lifecycles(n int) (ids []string, events []push.Event) {
	for range n {
		ids = append(ids, newID())
	}
	for _, status := range []push.Status{push.StatusQueued, push.StatusSending, push.StatusAccepted} {
		for _, id := range ids {
			events = append(events, newEvent(id, status))
		}
	}
	return ids, events
}

// BenchmarkIndexing indexes 30,000 events of 10,000 notifications. ns/event is the time for one
// event.
func BenchmarkIndexing(b *testing.B) {
	open := openBench(b)
	h, stop := open(b.TempDir())
	_, events := lifecycles(10_000)
	if _, err := h.Append(b.Context(), events...); err != nil {
		b.Fatal(err)
	}
	stop()
	for b.Loop() {
		h, stop := open(b.TempDir())
		if err := h.WaitCaughtUp(b.Context()); err != nil {
			b.Fatal(err)
		}
		stop()
	}
	perEvent := float64(b.Elapsed().Nanoseconds()) / float64(b.N*len(events))
	b.ReportMetric(perEvent, "ns/event")
	b.ReportMetric(1e9/perEvent, "events/s")
}

// BenchmarkAppend appends from one and from many goroutines. Each waits until its event is on disk.
func BenchmarkAppend(b *testing.B) {
	for name, writers := range map[string]int{"1": 1, "512": 512} {
		b.Run(name, func(b *testing.B) {
			open := openBench(b)
			h, stop := open(b.TempDir())
			defer stop()
			turns := make(chan struct{})
			var running sync.WaitGroup
			for range writers {
				running.Go(func() {
					for range turns {
						if _, err := h.Append(b.Context(), newEvent(newID(), push.StatusQueued)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				turns <- struct{}{}
			}
			close(turns)
			running.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkFind(b *testing.B) {
	open := openBench(b)
	h, stop := open(b.TempDir())
	defer stop()
	ids, events := lifecycles(10_000)
	if _, err := h.Append(b.Context(), events...); err != nil {
		b.Fatal(err)
	}
	if err := h.WaitCaughtUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if _, _, err := h.Find(b.Context(), "shop", ids[i%len(ids)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStates reads the states of a hundred notifications, as the queue does for each message.
func BenchmarkStates(b *testing.B) {
	open := openBench(b)
	h, stop := open(b.TempDir())
	defer stop()
	ids, events := lifecycles(10_000)
	if _, err := h.Append(b.Context(), events...); err != nil {
		b.Fatal(err)
	}
	if err := h.WaitCaughtUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		from := i * 100 % len(ids)
		if states, err := h.States(b.Context(), ids[from:from+100]); err != nil || len(states) != 100 {
			b.Fatal(len(states), err)
		}
	}
}

// BenchmarkLastUse looks up new keys, and keys of waiting and ended notifications, with 10,000 keys in
// the index.
func BenchmarkLastUse(b *testing.B) {
	open := openBench(b)
	h, stop := open(b.TempDir())
	defer stop()
	const count = 10_000
	var events []push.Event
	for i := range count {
		n := newKeyed(fmt.Sprintf("%032d", i), "body")
		events = append(events, keyedEvent(n, push.StatusQueued))
		if i%2 == 1 {
			events = append(events, keyedEvent(n, push.StatusSending), keyedEvent(n, push.StatusAccepted))
		}
	}
	if _, err := h.Append(b.Context(), events...); err != nil {
		b.Fatal(err)
	}
	if err := h.WaitCaughtUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	testwait.Until(b, func() bool { return h.Status().LagBatches == 0 }, "all events are in the index")
	for name, key := range map[string]func(i int) int{
		"new": func(i int) int { return count + i }, "waiting": func(i int) int { return i * 2 % count }, "ended": func(i int) int { return i*2%count + 1 },
	} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				use, err := h.LastUse(b.Context(), fmt.Appendf(nil, "%032d", key(i)))
				if err != nil || (use == nil) != (name == "new") {
					b.Fatal(key(i), err)
				}
			}
		})
	}
}
