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

// barrier is a sender's Send that holds everybody until so many are inside, and notes who they are.
type barrier struct {
	size int

	mu         sync.Mutex
	released   chan struct{}
	goroutines map[string]bool
}

func (h *barrier) send(_ context.Context, n *push.Notification) push.Receipt {
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
	<-full
	return accepted(n)
}

// reset empties the hall and returns who was there.
func (h *barrier) reset() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	were := h.goroutines
	h.goroutines = nil
	return were
}

// goroutineID is the number of the goroutine that asks.
func goroutineID() string {
	text := make([]byte, 64)
	name, _, _ := bytes.Cut(text[:runtime.Stack(text, false)], []byte(" ["))
	return string(name)
}

func TestBatchReusesWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, dismiss := context.WithCancel(t.Context())
		crew := new(api.WorkerPool)
		go func() { _ = crew.Run(ctx) }()
		synctest.Wait()
		h := barrier{size: 8}
		d := newTestAPI(t, func(cfg *api.Config) { cfg.Workers = crew })
		d.respond = h.send
		d.request("POST", batch, strings.Repeat(validBody+"\n", 8), ndjson)
		first := h.reset()
		synctest.Wait()
		d.request("POST", batch, strings.Repeat(validBody+"\n", 8), ndjson)
		for who := range h.reset() {
			if !first[who] {
				t.Errorf("%s is new", who)
			}
		}
		dismiss()
	})
}

func TestWorkerPoolStopsAfterLastJobAndBatchesWorkWithoutIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, dismiss := context.WithCancel(t.Context())
		crew := new(api.WorkerPool)
		gone := make(chan error, 1)
		go func() { gone <- crew.Run(ctx) }()
		synctest.Wait()
		h := barrier{size: 2}
		d := newTestAPI(t, func(cfg *api.Config) { cfg.Workers = crew })
		d.respond = h.send
		go d.request("POST", batch, validBody, ndjson)
		synctest.Wait()
		dismiss()
		synctest.Wait()
		select {
		case err := <-gone:
			t.Errorf("the crew went while one of it was at work (%v)", err)
		default:
		}
		go d.request("POST", batch, validBody, ndjson) // the other one that the hall waits for
		if err := <-gone; err != nil || d.count() != 2 {
			t.Fatalf("%v, %d sent", err, d.count())
		}
		d.respond = nil
		if got := receipts(t, d.request("POST", batch, validBody+"\n"+validBody, ndjson).Body); len(got) != 2 {
			t.Errorf("after its end: %+v", got)
		}
	})
}
