// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// millionCountEnv is the number of notifications to queue. make million sets it.
const millionCountEnv = "SLUICE_MILLION"

const maxMemory = 300 << 20

// TestMemoryOfMillionWaitingTasks queues notifications with Idempotency-Keys in batches, with the
// history, and checks the peak memory of this process: while nothing is sent, and while the provider
// cannot be reached.
func TestMemoryOfMillionWaitingTasks(t *testing.T) {
	count, err := strconv.Atoi(os.Getenv(millionCountEnv))
	if err != nil {
		t.Skip("takes minutes; run make million")
	}
	t.Run("drained", func(t *testing.T) { queueMany(t, count, newFakeSender(), true) })
	t.Run("outage", func(t *testing.T) { queueMany(t, count, unreachableSender{newFakeSender()}, false) })
}

// unreachableSender starts no attempt.
type unreachableSender struct{ *fakeSender }

func (unreachableSender) SendAll(_ context.Context, calls []*push.Call, ended func([]*push.Call)) {
	for _, c := range calls {
		c.Receipt = push.Receipt{ID: c.ID, Outcome: push.Outcome{Verdict: push.Unsent, Reason: "CONNECT_REFUSED"}}
	}
	ended(calls)
}

func queueMany(t *testing.T, count int, s queue.Sender, drained bool) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	log, err := history.OpenLog(t.Context(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	hist, err := history.Open(t.Context(), history.Config{Engine: e, Log: log, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(t.Context(), queue.Config{Engine: e, Log: log, Journal: historyJournal{hist}, Sender: s})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := idempotency.NewLog(t.Context(), idempotency.LogConfig{Engine: e, History: keyHistory{hist}, Queue: q})
	if err != nil {
		t.Fatal(err)
	}
	if drained { // all of them wait
		q.Drain()
	}
	ctx, stop := context.WithCancel(context.Background())
	var running, accepting sync.WaitGroup
	running.Go(func() { _ = q.Run(ctx) })
	running.Go(func() { _ = hist.Run(ctx) })
	running.Go(func() { _ = log.Run(ctx) })
	batches := make(chan int)
	for range 4 {
		accepting.Go(func() {
			for batch := range batches {
				acceptKeyed(t, q, keys, batch)
			}
		})
	}
	for batch := range count / 100 {
		batches <- batch
	}
	close(batches)
	accepting.Wait() // bounded by go test -timeout
	status, err := q.Status(t.Context())
	stop()
	testwait.Call(t, running.Wait, "the end of the queue and the history")
	_, _ = hist.Close(), e.Close()
	peak := peakMemory(t)
	t.Logf("waiting: %+v; %.0f s of CPU, peak memory %d MiB", status.Waiting, cpuTime().Seconds(), peak>>20)
	if err != nil || peak > maxMemory {
		t.Errorf("peak memory %d MiB, want at most %d; %v", peak>>20, maxMemory>>20, err)
	}
}

// acceptKeyed claims the keys of a batch and accepts it, as the API does.
func acceptKeyed(t *testing.T, q *queue.Queue, keys idempotency.Store, batch int) {
	ns := newNotifications("shop", 100)
	for i, n := range ns {
		key := sha256.Sum256([]byte(strconv.Itoa(batch*100 + i)))
		n.KeyHash, n.BodyHash = key[:], key[:]
		release, _, err := keys.Claim(t.Context(), n)
		if err != nil || release == nil {
			t.Error("a new key is not free: ", err)
			return
		}
		defer release(nil)
	}
	for _, err := range q.Accept(t.Context(), ns) {
		if err != nil {
			t.Error(err)
		}
	}
}

// peakMemory returns the peak resident memory of this process in bytes. It works on Linux only.
func peakMemory(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("peak memory is not available:", err)
	}
	_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
	kib, err := strconv.Atoi(string(bytes.Fields(after)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
