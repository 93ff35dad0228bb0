// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// onDemandPool is a testPool that runs only while it is used.
type onDemandPool struct {
	*testPool
	running sync.WaitGroup

	mu   sync.Mutex
	runs int
}

func newOnDemandPool(t *testing.T, n int, idleTimeout time.Duration) *onDemandPool {
	t.Helper()
	od := &onDemandPool{}
	ctx, cancel := context.WithCancel(t.Context())
	od.testPool = newTestPool(t, n, pool.Config{IdleTimeout: idleTimeout, OnDemand: func() {
		od.mu.Lock()
		od.runs++
		od.mu.Unlock()
		od.running.Go(func() {
			if err := od.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}})
	od.stop = cancel
	t.Cleanup(func() { cancel(); od.running.Wait() })
	return od
}

// wantRuns checks how often the pool was started, and whether it is idle.
func (od *onDemandPool) wantRuns(n int, idle bool) {
	od.t.Helper()
	synctest.Wait()
	od.mu.Lock()
	defer od.mu.Unlock()
	if od.runs != n || od.Idle() != idle || od.Status().Idle != idle {
		od.t.Errorf("the pool was started %d times, idle: %v; want %d, %v\n%s", od.runs, od.Idle(), n, idle, od.eventLog())
	}
}

func TestPoolConnectsOnFirstPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 2, time.Minute)
		advance(time.Hour)
		if od.dialCount() != 0 || od.resolves != 0 || od.Ready() != nil || !od.Status().Ready {
			t.Errorf("before the first Pick: %d dials, %d resolves, Ready() = %v", od.dialCount(), od.resolves, od.Ready())
		}
		od.wantRuns(0, true)
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { od.attempt() })
		}
		group.Wait()
		od.wantRuns(1, false)
		advance(time.Second)
		od.wantMembers(1, 2)
	})
}

func TestIdlePoolDisconnectsAndConnectsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 2, time.Minute)
		for run := 1; run <= 5; run++ {
			if _, o := od.attempt(); o.Verdict != push.Accepted {
				t.Fatalf("run %d: %+v", run, o)
			}
			advance(50 * time.Second)
			od.attempt() // a Pick within the timeout
			advance(50 * time.Second)
			od.wantRuns(run, false)
			advance(12 * time.Second)
			od.wantRuns(run, true)
			od.running.Wait() // Run has returned, with all goroutines
			for i := 1; i <= 2; i++ {
				if !od.lastConn(i).State().Draining {
					t.Errorf("run %d: the connection to endpoint %d is open", run, i)
				}
			}
			if s := od.Status(); od.Ready() != nil || len(s.Endpoints) != 0 || s.InFlight != 0 {
				t.Errorf("Ready() = %v, %+v", od.Ready(), s)
			}
		}
	})
}

func TestPoolIsNotIdleWhileItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 1, time.Second)
		lease, err := od.Pick(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		advance(time.Minute)
		od.wantRuns(1, false)
		lease.Done(accepted)
		advance(3 * time.Second)
		od.wantRuns(1, true)
		od.setServer(1, func(s *fakeServer) { s.dialDelay = 10 * time.Second })
		if _, o := od.attempt(); o.Verdict != push.Accepted { // waits for longer than IdleTimeout
			t.Errorf("%+v", o)
		}
		od.wantRuns(2, false)
	})
}

func TestIdlePoolKeepsBreakers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 2, 3*time.Second)
		od.attempt()
		advance(time.Second)
		od.eject(1)
		advance(5 * time.Second)
		od.wantRuns(1, true)
		od.attempt()
		if s := od.endpointStatus(1); s.State != "open" {
			t.Errorf("the breaker of the ejected endpoint is %s", s.State)
		}
	})
}

func TestDialInProgressEndsWithIdlePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 2, time.Second)
		od.setServer(2, func(s *fakeServer) { s.dialDelay = 10 * time.Second })
		od.attempt()
		advance(3 * time.Second)
		od.wantRuns(1, true)
		od.running.Wait()
		advance(time.Minute)
		if conns := od.serverCopy(2).conns; len(conns) != 0 {
			t.Errorf("endpoint 2 has %d connections", len(conns))
		}
	})
}

// TestPickAtIdleTimeoutSucceeds picks at every moment around the end of a run.
func TestPickAtIdleTimeoutSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 2, time.Second)
		for i := range 2000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			lease, err := od.Pick(ctx, nil)
			cancel()
			if err != nil {
				t.Fatalf("Pick %d = %v", i, err)
			}
			lease.Done(accepted)
			time.Sleep(time.Second + time.Duration(i)*500*time.Microsecond)
		}
	})
}

func TestConcurrentPicksAtIdleTimeoutSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 2, time.Second)
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 100 {
					for _, o := od.attempt(); o.Verdict != push.Accepted; _, o = od.attempt() {
						if o.Verdict != push.Unsent {
							t.Errorf("an attempt ended as %+v", o)
						}
					}
					time.Sleep(1980 * time.Millisecond) // with the response, in step with the ticks
				}
			})
		}
		group.Wait()
	})
}

func TestIdlePoolCanStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		od := newOnDemandPool(t, 1, time.Minute)
		od.stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := od.Pick(ctx, nil); err == nil || ctx.Err() != nil {
			t.Errorf("Pick after the end = %v; want an error immediately", err)
		}
		if od.dialCount() != 0 {
			t.Errorf("%d dials", od.dialCount())
		}
	})
}
