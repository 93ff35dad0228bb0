// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

// collector is a Handler that records results.
type collector struct {
	mu     sync.Mutex
	calls  [][]int // the indexes of each call of Complete
	byIdx  map[int][]wire.Result
	onCall func()
}

func (h *collector) Complete(results []wire.Result) {
	h.mu.Lock()
	var indexes []int
	for _, r := range results {
		if h.byIdx == nil {
			h.byIdx = map[int][]wire.Result{}
		}
		h.byIdx[r.Index] = append(h.byIdx[r.Index], r)
		indexes = append(indexes, r.Index)
	}
	h.calls = append(h.calls, indexes)
	h.mu.Unlock()
	if h.onCall != nil {
		h.onCall()
	}
}

// get returns the result of request i.
func (h *collector) get(t *testing.T, i int) result {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.byIdx[i]); n != 1 {
		t.Fatalf("request %d has %d results", i, n)
	}
	return result{h.byIdx[i][0].Response, h.byIdx[i][0].Err}
}

func (h *collector) wantCalls(t *testing.T, want ...[]int) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.EqualFunc(h.calls, want, slices.Equal[[]int]) {
		t.Fatalf("calls of Complete %v, want %v", h.calls, want)
	}
}

func posts(n int) []*wire.Request {
	rs := make([]*wire.Request, n)
	for i := range rs {
		rs[i] = post(fmt.Sprint("/", i))
	}
	return rs
}

// respondTogether sends responses of status 200 in one write.
func (p *peer) respondTogether(streams ...uint32) {
	p.t.Helper()
	var out bytes.Buffer
	framer := http2.NewFramer(&out, nil)
	for _, id := range streams {
		p.check(framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, BlockFragment: p.encode(":status", "200"), EndHeaders: true, EndStream: true,
		}))
	}
	_, err := p.nc.Write(out.Bytes())
	p.check(err)
}

func TestStartSendsInOrderAndCompletesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConn(t, wire.Config{})
		var a, b collector
		started := time.Now()
		c.Start(posts(3), &a)
		c.Start(posts(2), &b)
		c.Start(nil, &b)
		for i, path := range []string{"/0", "/1", "/2", "/0", "/1"} {
			if h := c.peer.nextFrame(http2.FrameHeaders); h.stream != uint32(1+2*i) || h.fields[":path"] != path {
				t.Fatalf("frame %d: %v, want path %s", i, h, path)
			}
		}
		time.Sleep(time.Second / 2)
		c.peer.respondTogether(5, 7, 1)
		a.wantCalls(t, []int{2, 0})
		b.wantCalls(t, []int{0})
		c.peer.respondTogether(9, 3)
		a.wantCalls(t, []int{2, 0}, []int{1})
		b.wantCalls(t, []int{0}, []int{1})
		for i := range 3 {
			wantStatus(t, a.get(t, i), 200)
			if r := a.byIdx[i][0]; !r.Started.Equal(started) || r.Ended.Sub(r.Started) != time.Second/2 {
				t.Errorf("request %d: started %v, ended %v; want 0.5 s after %v", i, r.Started, r.Ended, started)
			}
		}
	})
}

func TestStartCompletesRejectedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConn(t, wire.Config{MaxStreams: 2, MaxWaiting: 1})
		var h, again, drained, ended collector
		h.onCall = func() { // once, with the rejected request
			h.onCall = nil
			c.Start(posts(1), &again)
		}
		c.Start(posts(4), &h)
		h.wantCalls(t, []int{3})
		wantError(t, h.get(t, 3), wire.QueueFull, wire.Never, false)
		wantError(t, again.get(t, 0), wire.QueueFull, wire.Never, false)

		c.Drain()
		c.Start(posts(2), &drained)
		drained.wantCalls(t, []int{0, 1})
		wantError(t, drained.get(t, 0), wire.LostBeforeWrite, wire.Never, false)

		c.peer.respondTogether(1, 3)
		synctest.Wait()
		c.peer.respondTogether(5)
		h.wantCalls(t, []int{3}, []int{0, 1}, []int{2})
		if err := <-c.runErr; err != nil {
			t.Error(err)
		}
		c.Start(posts(1), &ended)
		wantError(t, ended.get(t, 0), wire.LostBeforeWrite, wire.Never, false)
	})
}

func TestCancelEndsTheRequestsOfOneHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConn(t, wire.Config{MaxStreams: 2})
		var h, other collector
		c.Start(posts(4), &h)
		synctest.Wait()
		c.Start(posts(1), &other)
		do := c.start(t.Context(), post("/do"))
		synctest.Wait()
		c.peer.respondTogether(1)
		synctest.Wait()
		c.Cancel(&h)
		c.Cancel(&h)
		wantStatus(t, h.get(t, 0), 200)
		for i, processed := range []wire.Processed{wire.Unknown, wire.Unknown, wire.Never} {
			e := requireError(t, h.get(t, i+1), wire.Canceled, processed, false)
			if !errors.Is(e, context.Canceled) {
				t.Errorf("request %d: %v, want context.Canceled", i+1, e)
			}
		}
		synctest.Wait()
		resets := []uint32{c.peer.nextFrame(http2.FrameRSTStream).stream, c.peer.nextFrame(http2.FrameRSTStream).stream}
		if slices.Sort(resets); !slices.Equal(resets, []uint32{3, 5}) {
			t.Errorf("streams %v were reset, want 3 and 5", resets)
		}
		c.peer.respondTogether(7, 9)
		other.wantCalls(t, []int{0})
		wantStatus(t, <-do, 200)
	})
}

// Whatever ends a request, its handler receives the result.
func TestStartCompletesWhateverEndsTheRequest(t *testing.T) {
	for _, test := range []struct {
		name   string
		end    func(*testConn)
		reason wire.Reason
		// processed is the value of the request that was written. The other one was not.
		processed wire.Processed
		waiting   wire.Reason
	}{
		{"timeout", func(*testConn) { time.Sleep(10 * time.Second) }, wire.ResponseTimeout, wire.Unknown, wire.ResponseTimeout},
		{"connection lost", func(c *testConn) { _ = c.peer.nc.Close() }, wire.LostAfterWrite, wire.Unknown, wire.LostBeforeWrite},
		{"protocol error", func(c *testConn) { c.peer.respondTogether(2) }, wire.LostAfterWrite, wire.Unknown, wire.LostBeforeWrite},
		{"goaway", func(c *testConn) { c.peer.check(c.peer.framer.WriteGoAway(0, http2.ErrCodeNo, nil)) },
			wire.GoAwayUnprocessed, wire.Never, wire.GoAwayUnprocessed},
		{"context", func(c *testConn) { c.stop() }, wire.Canceled, wire.Unknown, wire.LostBeforeWrite},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestConn(t, wire.Config{MaxStreams: 1, PingTimeout: time.Minute})
				var h collector
				c.Start(posts(2), &h)
				c.peer.nextFrame(http2.FrameHeaders)
				test.end(c)
				synctest.Wait()
				for i, want := range []wire.Reason{test.reason, test.waiting} {
					var e *wire.Error
					if r := h.get(t, i); !errors.As(r.err, &e) || e.Reason != want {
						t.Fatalf("request %d: %v, want %s", i, r.err, want)
					}
					processed := test.processed
					if i == 1 {
						processed = wire.Never
					}
					if e.Processed != processed {
						t.Errorf("request %d: processed %d, want %d", i, e.Processed, processed)
					}
				}
			})
		})
	}
}

func TestStartCompletesWhenStreamIDsAreUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConn(t, wire.Config{})
		c.SetRemainingStreamIDs(1)
		var h collector
		c.Start(posts(3), &h)
		h.wantCalls(t, []int{1, 2})
		wantError(t, h.get(t, 1), wire.LostBeforeWrite, wire.Never, false)
		c.peer.respondTogether(1<<31 - 1)
		h.wantCalls(t, []int{1, 2}, []int{0})
	})
}

// stressHandler checks the results of one run of a stress test.
type stressHandler struct {
	t       *testing.T
	f       *connDialer
	paths   []string
	rs      []*wire.Request
	seen    []bool
	pending int
	ended   chan struct{}
	busy    sync.Mutex
}

func (h *stressHandler) Complete(results []wire.Result) {
	if !h.busy.TryLock() {
		h.t.Error("one connection calls Complete concurrently")
		return
	}
	defer h.busy.Unlock()
	for _, r := range results {
		if h.seen[r.Index] {
			h.t.Errorf("%s has two results", h.paths[r.Index])
		}
		h.seen[r.Index] = true
		h.f.checkResult(h.paths[r.Index], r.Response, r.Err)
		h.rs[r.Index].Body[0] = 'x' // detects with -race that the connection still reads the body
	}
	if h.pending -= len(results); h.pending == 0 {
		close(h.ended)
	}
}

// checkResult checks the result of a path that is sent once.
func (f *connDialer) checkResult(path string, res *wire.Response, err error) {
	f.ledger.mu.Lock()
	processed := f.ledger.processed[path]
	f.ledger.mu.Unlock()
	var e *wire.Error
	switch {
	case err == nil && (res == nil || string(res.Body) != path || processed != 1):
		f.t.Errorf("%s got %+v and was processed %d times", path, res, processed)
	case err != nil && !errors.As(err, &e):
		f.t.Errorf("%s failed with %v; want a *wire.Error", path, err)
	case err != nil && e.Processed == wire.Never && processed != 0:
		f.t.Errorf("%s was processed, but its error is %v", path, err)
	}
}

// Runs of random size, some of which are canceled, get exactly one result per request from peers
// that behave randomly.
func TestStartHasOneResultPerRequest(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runStartStress(t, seed) })
		})
	}
}

func runStartStress(t *testing.T, seed uint64) {
	f := &connDialer{t: t, rng: rand.New(rand.NewPCG(seed, 1)), ledger: &ledger{processed: map[string]int{}}}
	var callers sync.WaitGroup
	for i := range 10 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)+2))
		callers.Go(func() {
			for j := range 15 {
				f.startRun(fmt.Sprintf("/%d/%d", i, j), rng)
			}
		})
		callers.Go(func() {
			for j := range 15 {
				f.send(fmt.Sprintf("/do/%d/%d", i, j), rand.New(rand.NewPCG(seed, uint64(100*i+j))))
			}
		})
	}
	callers.Wait() // bounded by the bubble
	f.conn().Drain()
	f.running.Wait() // bounded by the bubble
}

// startRun starts a run and waits until all its requests have ended.
func (f *connDialer) startRun(name string, rng *rand.Rand) {
	n := 1 + rng.IntN(64)
	h := &stressHandler{t: f.t, f: f, seen: make([]bool, n), pending: n, ended: make(chan struct{})}
	for i := range n {
		path := fmt.Sprint(name, "/", i)
		h.paths = append(h.paths, path)
		h.rs = append(h.rs, &wire.Request{
			Method: "POST", Path: path, Body: []byte("{}"), Timeout: time.Duration(1+rng.IntN(5)) * time.Second,
		})
	}
	conn := f.conn()
	conn.Start(h.rs, h)
	if rng.IntN(5) == 0 {
		time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
		conn.Cancel(h)
	}
	select {
	case <-h.ended:
	case <-time.After(time.Minute):
		f.t.Errorf("%d requests of %s have no result", h.pending, name)
	}
}
