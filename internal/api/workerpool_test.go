// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

// barrier blocks Send until a number of goroutines have called it, and records their IDs.
type barrier struct {
	size int

	mu         sync.Mutex
	released   chan struct{}
	goroutines map[string]bool
}

func (h *barrier) send(ctx context.Context, n *push.Notification) push.Receipt {
	h.mu.Lock()
	if h.goroutines == nil {
		h.goroutines, h.released = map[string]bool{}, make(chan struct{})
	}
	h.goroutines[goroutineID()] = true
	if len(h.goroutines) == h.size {
		close(h.released)
	}
	full := h.released
	h.mu.Unlock()
	select {
	case <-full:
	case <-ctx.Done():
	}
	return accepted(n)
}

// reset resets the barrier and returns the goroutines that have called send.
func (h *barrier) reset() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	goroutines := h.goroutines
	h.goroutines = nil
	return goroutines
}

// goroutineID returns the ID of the calling goroutine.
func goroutineID() string {
	text := make([]byte, 64)
	name, _, _ := bytes.Cut(text[:runtime.Stack(text, false)], []byte(" ["))
	return string(name)
}

func TestBatchReusesWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		workers := new(api.WorkerPool)
		go func() { _ = workers.Run(ctx) }()
		synctest.Wait()
		h := barrier{size: 8}
		ts := newTestAPI(t, func(cfg *api.Config) { cfg.Workers = workers })
		ts.respond = h.send
		ts.request("POST", batchPath, strings.Repeat(validBody+"\n", 8), ndjson)
		first := h.reset()
		synctest.Wait()
		ts.request("POST", batchPath, strings.Repeat(validBody+"\n", 8), ndjson)
		for id := range h.reset() {
			if !first[id] {
				t.Errorf("goroutine %s is new", id)
			}
		}
		stop()
	})
}

func TestWorkerPoolStopsAfterLastJobAndBatchesWorkWithoutIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		workers := new(api.WorkerPool)
		done := make(chan error, 1)
		go func() { done <- workers.Run(ctx) }()
		synctest.Wait()
		h := barrier{size: 2}
		ts := newTestAPI(t, func(cfg *api.Config) { cfg.Workers = workers })
		ts.respond = h.send
		go ts.request("POST", batchPath, validBody, ndjson)
		synctest.Wait()
		stop()
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("Run returned while a task was running (%v)", err)
		default:
		}
		go ts.request("POST", batchPath, validBody, ndjson) // completes the barrier
		if err := <-done; err != nil || ts.count() != 2 {
			t.Fatalf("%v, %d sent", err, ts.count())
		}
		ts.respond = nil
		if got := receipts(t, ts.request("POST", batchPath, validBody+"\n"+validBody, ndjson).Body); len(got) != 2 {
			t.Errorf("after Run: %+v", got)
		}
	})
}
