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
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for i := 1; i <= 2; i++ {
			h.setServer(i, func(s *fakeServer) { s.latency = 7 * time.Second })
		}
		outcomes := make(chan push.Outcome, 20)
		for range 20 {
			go func() {
				_, o := h.attempt()
				outcomes <- o
			}()
		}
		leased := h.pick() // leased before the end, used after it
		synctest.Wait()
		began := time.Now()
		h.stop()
		synctest.Wait()
		if o := outcomeOf(leased.Do(t.Context(), request)); o.Verdict != push.Accepted {
			t.Errorf("the lease that was out ended as %+v", o)
		}
		leased.Done(accepted)
		<-h.ended
		if took := time.Since(began); took != 7*time.Second || h.runErr != nil {
			t.Errorf("Run ended after %s with %v, want 7s and nil", took, h.runErr)
		}
		for range 20 {
			if o := <-outcomes; o.Verdict != push.Accepted {
				t.Errorf("what was in flight ended as %+v", o)
			}
		}
	})
}

func TestRunCancelsRequestsAfterDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{DrainTimeout: 3 * time.Second})
		advance(time.Second)
		lease := h.pick()
		h.stop()
		began := time.Now()
		<-h.ended
		if took := time.Since(began); took != 3*time.Second || h.runErr == nil || !strings.Contains(h.runErr.Error(), "1 requests in flight were cut after 3s") {
			t.Errorf("Run ended after %s with %v", took, h.runErr)
		}
		lease.Done(abandoned)
	})
}

func TestClosingPoolRejectsPicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		lease := h.pick()
		waiting := make(chan error)
		go func() {
			_, err := h.Pick(t.Context(), nil)
			waiting <- err
		}()
		synctest.Wait()
		h.stop()
		if o := push.NoResponse(<-waiting); o.Verdict != push.Unsent || o.Reason != pool.NoEndpoint {
			t.Errorf("who waited got %+v, want unsent", o)
		}
		if err := h.pickError(); err.Reason != pool.NoEndpoint {
			t.Errorf("who came later got %v", err)
		}
		if err := h.Ready(); err == nil {
			t.Error("it calls itself ready")
		}
		lease.Done(accepted)
		<-h.ended
		if err := h.pickError(); err.Reason != pool.NoEndpoint {
			t.Errorf("who came after the end got %v", err)
		}
	})
}

func TestRunEndCancelsDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 8, pool.Config{})
		for i := 1; i <= 8; i++ {
			h.setServer(i, func(s *fakeServer) { s.dialDelay = time.Hour })
		}
		h.run()
		advance(time.Second)
		began := time.Now()
		h.stop()
		<-h.ended
		if took := time.Since(began); took != 0 {
			t.Errorf("an end with eight dials under way took %s", took)
		}
	})
}

func TestRunTwiceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{})
		if err := h.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "Run was called twice") {
			t.Errorf("the second Run = %v", err)
		}
	})
}
