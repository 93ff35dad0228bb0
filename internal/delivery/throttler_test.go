// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
)

// flakyProvider answers 503 while it is down and accepts otherwise. A response takes 50 ms.
type flakyProvider struct {
	down     atomic.Bool
	attempts atomic.Int64
}

func (p *flakyProvider) service() *service {
	return &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
		p.attempts.Add(1)
		time.Sleep(50 * time.Millisecond)
		if p.down.Load() {
			return unavailable
		}
		return accepted
	}}
}

// sendAtRate sends at a constant rate for the given duration and counts the verdicts.
func sendAtRate(t *testing.T, r *delivery.Route, perSecond int, duration time.Duration) map[push.Verdict]int {
	t.Helper()
	var mu sync.Mutex
	verdictCounts := map[push.Verdict]int{}
	var wg sync.WaitGroup
	for i := range int(duration.Seconds() * float64(perSecond)) {
		wg.Go(func() {
			receipt := r.Send(t.Context(), &push.Call{Notification: newNotification(fmt.Sprint(i))})
			mu.Lock()
			defer mu.Unlock()
			verdictCounts[receipt.Verdict]++
			if receipt.Reason == "PROVIDER_DOWN" && (receipt.Verdict != push.Unavailable || receipt.RetryAfter <= 0 || len(receipt.Attempts) > 0) {
				t.Errorf("throttled with %+v", receipt)
			}
		})
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	wg.Wait() // bounded by the bubble
	return verdictCounts
}

func TestThrottlerSendsOnlyProbesDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 200
		var p flakyProvider
		r := newRoute(t, p.service(), 8)
		r.Budget, r.Throttler = new(retry.Budget), new(retry.AdaptiveThrottler)
		sendAtRate(t, r, rate, 20*time.Second)

		p.down.Store(true)
		before := p.attempts.Load()
		sendAtRate(t, r, rate, 10*time.Second)
		if attempts := p.attempts.Load() - before; attempts > 10*rate*12/10 {
			t.Errorf("%d attempts for %d notifications in the first ten seconds", attempts, 10*rate)
		}
		before = p.attempts.Load()
		sendAtRate(t, r, rate, 50*time.Second)
		if probes := p.attempts.Load() - before; probes > 50*8 || probes < 50 {
			t.Errorf("%d attempts in the next fifty seconds, want only probes and their retries", probes)
		}

		p.down.Store(false)
		sendAtRate(t, r, rate, 5*time.Second)
		if verdictCounts := sendAtRate(t, r, rate, 10*time.Second); verdictCounts[push.Accepted] < 10*rate*95/100 {
			t.Errorf("five seconds after recovery: %v", verdictCounts)
		}
	})
}

func TestOneFailingEndpointDoesNotTriggerThrottler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, _ *push.Notification, _ int, endpoint string) push.Outcome {
			if endpoint == "192.0.2.3:443" {
				return unavailable
			}
			return accepted
		}}
		r := newRoute(t, s, 8)
		r.Budget, r.Throttler = new(retry.Budget), new(retry.AdaptiveThrottler)
		r.Observer.Throttled = func(n *push.Notification) { t.Errorf("%s was throttled", n.ID) }
		if verdictCounts := sendAtRate(t, r, 100, 30*time.Second); verdictCounts[push.Accepted] != 3000 {
			t.Errorf("%v, want 3000 accepted", verdictCounts)
		}
	})
}

func TestRateLimitWaitDoesNotTriggerThrottler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quotaRate, rate, duration = 20, 200, 20 * time.Second
		var p flakyProvider
		r := newRoute(t, p.service(), 8)
		r.Throttler, r.RateLimiter = new(retry.AdaptiveThrottler), quota.New(quota.Config{Total: quota.Limit{Rate: quotaRate}})
		r.Retry.MaxRetryAfter = time.Hour
		if verdictCounts := sendAtRate(t, r, rate, duration); verdictCounts[push.Accepted] != rate*int(duration.Seconds()) {
			t.Errorf("%v, want all accepted", verdictCounts)
		}
	})
}
