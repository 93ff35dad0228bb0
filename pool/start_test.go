// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/wire"
)

// resultHandler collects results and gives back their places.
type resultHandler struct {
	lease *pool.Lease

	mu      sync.Mutex
	results []wire.Result
}

func (h *resultHandler) Complete(results []wire.Result) {
	if !h.mu.TryLock() {
		panic("concurrent calls of Complete")
	}
	defer h.mu.Unlock()
	for _, r := range results {
		h.results = append(h.results, r)
		h.lease.Done(outcomeOf(r.Response, r.Err))
	}
}

// indexes returns the sorted indexes of the results.
func (h *resultHandler) indexes() (list []int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.results {
		list = append(list, r.Index)
	}
	slices.Sort(list)
	return list
}

func TestStartOnConnWithoutStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{})
		advance(time.Second)
		h := &resultHandler{lease: tp.pickN(3)}
		started := time.Now()
		h.lease.Start([]*wire.Request{request, request, request}, h)
		synctest.Wait()
		if n := tp.lastConn(1).State().InFlight; n != 3 || len(h.indexes()) != 0 {
			t.Fatalf("%d requests are in flight and %d have ended; want 3 and 0", n, len(h.indexes()))
		}
		advance(20 * time.Millisecond)
		if got := h.indexes(); !slices.Equal(got, []int{0, 1, 2}) {
			t.Fatalf("the requests %v have ended", got)
		}
		for _, r := range h.results {
			if r.Err != nil || r.Response.Status != 200 || !r.Started.Equal(started) || r.Ended.Sub(started) != 20*time.Millisecond {
				t.Errorf("the result is %+v", r)
			}
		}
		tp.wantInFlight(0)
		for range 3 { // enough responses for a median
			h := &resultHandler{lease: tp.pickN(3)}
			h.lease.Start([]*wire.Request{request, request, request}, h)
			advance(time.Second)
		}
		if ms := tp.endpointStatus(1).LatencyMS; ms < 18 || ms > 22 {
			t.Errorf("the latency is %.1f ms; want about 20", ms)
		}
	})
}

func TestCancelOnConnWithoutStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{})
		advance(time.Second)
		h := &resultHandler{lease: tp.pickN(2)}
		h.lease.Cancel(h) // has no effect
		h.lease.Start([]*wire.Request{request, request}, h)
		advance(10 * time.Millisecond)
		h.lease.Cancel(h)
		synctest.Wait()
		if got := h.indexes(); !slices.Equal(got, []int{0, 1}) {
			t.Fatalf("the requests %v have ended", got)
		}
		for _, r := range h.results {
			if wireErr, ok := errors.AsType[*wire.Error](r.Err); !ok || wireErr.Reason != wire.Canceled {
				t.Errorf("the result is %+v; want a canceled request", r)
			}
		}
		tp.wantInFlight(0)
	})
}

// testConn is an exampleConn whose methods tests replace.
type testConn struct {
	*exampleConn
	do func() (*wire.Response, error)
}

func (c *testConn) Do(context.Context, *wire.Request) (*wire.Response, error) { return c.do() }

// starterConn is a connection with Start.
type starterConn struct {
	*exampleConn
	started  []*wire.Request
	handler  wire.Handler
	canceled wire.Handler
}

func (c *starterConn) Start(rs []*wire.Request, h wire.Handler) { c.started, c.handler = rs, h }
func (c *starterConn) Cancel(h wire.Handler)                    { c.canceled = h }

// leaseOf runs a pool with one connection and returns a lease for n requests.
func leaseOf(t *testing.T, conn pool.Conn, n int) (*pool.Pool, *pool.Lease) {
	t.Helper()
	p, err := pool.New(pool.Config{Resolver: pool.Static(addrs(1, 1)), Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return conn, nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	lease, err := p.PickN(ctx, pool.Request{N: n})
	if err != nil {
		t.Fatal(err)
	}
	return p, lease
}

func TestStartAndCancelOfStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &starterConn{exampleConn: &exampleConn{closed: make(chan struct{})}}
		p, lease := leaseOf(t, conn, 2)
		h := &resultHandler{lease: lease}
		lease.Start([]*wire.Request{request, request}, h)
		lease.Cancel(h)
		if len(conn.started) != 2 || conn.handler != wire.Handler(h) || conn.canceled != wire.Handler(h) {
			t.Errorf("the connection was called with %+v", conn)
		}
		advance(30 * time.Millisecond)
		for i := range 2 {
			h.Complete([]wire.Result{{Index: i, Response: &wire.Response{Status: 200}}})
		}
		if n := p.Status().InFlight; n != 0 {
			t.Errorf("%d are in flight", n)
		}
	})
}

// Each request has a result, also if the connection panics.
func TestPanicOfConnAfterStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &testConn{&exampleConn{closed: make(chan struct{})}, func() (*wire.Response, error) { panic("test") }}
		p, lease := leaseOf(t, conn, 2)
		h := &resultHandler{lease: lease}
		lease.Start([]*wire.Request{request, request}, h)
		synctest.Wait()
		if got := h.indexes(); !slices.Equal(got, []int{0, 1}) || h.results[0].Err == nil {
			t.Errorf("the requests %v have ended: %+v", got, h.results)
		}
		if n := p.Status().InFlight; n != 0 {
			t.Errorf("%d are in flight", n)
		}
	})
}
