// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

func TestRunWaitsForRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for i := 1; i <= 2; i++ {
			tp.setServer(i, func(s *fakeServer) { s.latency = 7 * time.Second })
		}
		outcomes := make(chan push.Outcome, 20)
		for range 20 {
			go func() {
				_, o := tp.attempt()
				outcomes <- o
			}()
		}
		leased := tp.pick() // leased before the stop, used after it
		synctest.Wait()
		start := time.Now()
		tp.stop()
		synctest.Wait()
		if o := outcomeOf(leased.Do(t.Context(), request)); o.Verdict != push.Accepted {
			t.Errorf("the outstanding lease ended as %+v", o)
		}
		leased.Done(accepted)
		<-tp.ended
		if took := time.Since(start); took != 7*time.Second || tp.runErr != nil {
			t.Errorf("Run ended after %s with %v; want 7s and nil", took, tp.runErr)
		}
		for range 20 {
			if o := <-outcomes; o.Verdict != push.Accepted {
				t.Errorf("a request in flight ended as %+v", o)
			}
		}
	})
}

func TestRunCancelsRequestsAfterDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{DrainTimeout: 3 * time.Second})
		advance(time.Second)
		lease := tp.pick()
		tp.stop()
		start := time.Now()
		<-tp.ended
		if took := time.Since(start); took != 3*time.Second || tp.runErr == nil || !strings.Contains(tp.runErr.Error(), "1 requests in flight were canceled after 3s") {
			t.Errorf("Run ended after %s with %v", took, tp.runErr)
		}
		lease.Done(abandoned)
	})
}

func TestClosingPoolRejectsPicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		lease := tp.pick()
		waiting := make(chan error)
		go func() {
			_, err := tp.Pick(t.Context(), nil)
			waiting <- err
		}()
		synctest.Wait()
		tp.stop()
		if o := push.NoResponse(<-waiting); o.Verdict != push.Unsent || o.Reason != pool.NoEndpoint {
			t.Errorf("the waiting Pick got %+v; want unsent", o)
		}
		if err := tp.pickError(); err.Reason != pool.NoEndpoint {
			t.Errorf("a Pick while closing got %v", err)
		}
		if err := tp.Ready(); err == nil {
			t.Error("Ready() = nil while closing")
		}
		lease.Done(accepted)
		<-tp.ended
		if err := tp.pickError(); err.Reason != pool.NoEndpoint {
			t.Errorf("a Pick after the end got %v", err)
		}
	})
}

func TestRunEndCancelsDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 8, pool.Config{})
		for i := 1; i <= 8; i++ {
			tp.setServer(i, func(s *fakeServer) { s.dialDelay = time.Hour })
		}
		tp.run()
		advance(time.Second)
		start := time.Now()
		tp.stop()
		<-tp.ended
		if took := time.Since(start); took != 0 {
			t.Errorf("Run with eight dials in progress ended after %s; want immediately", took)
		}
	})
}

func TestRunTwiceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{})
		if err := tp.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "Run was called twice") {
			t.Errorf("the second Run = %v", err)
		}
	})
}
