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

// flakyProvider answers 503 while it is down, and accepts otherwise; an answer takes 50 ms.
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

// sendAtRate sends so many a second for so long, and returns how many ended in which verdict.
func sendAtRate(t *testing.T, r *delivery.Route, perSecond int, span time.Duration) map[push.Verdict]int {
	t.Helper()
	var mu sync.Mutex
	ends := map[push.Verdict]int{}
	var all sync.WaitGroup
	for i := range int(span.Seconds() * float64(perSecond)) {
		all.Go(func() {
			end := r.Send(t.Context(), newNotification(fmt.Sprint(i)))
			mu.Lock()
			defer mu.Unlock()
			ends[end.Verdict]++
			if end.Reason == "PROVIDER_DOWN" && (end.Verdict != push.Unavailable || end.RetryAfter <= 0 || len(end.Attempts) > 0) {
				t.Errorf("held back with %+v", end)
			}
		})
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	all.Wait()
	return ends
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
		if first := p.attempts.Load() - before; first > 10*rate*12/10 {
			t.Errorf("%d attempts for %d notifications in the first ten seconds", first, 10*rate)
		}
		before = p.attempts.Load()
		sendAtRate(t, r, rate, 50*time.Second)
		if probes := p.attempts.Load() - before; probes > 50*8 || probes < 50 {
			t.Errorf("%d attempts in the next fifty seconds, want no more than probes and their repeats", probes)
		}

		p.down.Store(false)
		sendAtRate(t, r, rate, 5*time.Second)
		if ends := sendAtRate(t, r, rate, 10*time.Second); ends[push.Accepted] < 10*rate*95/100 {
			t.Errorf("five seconds after it came back: %v", ends)
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
		r.Observer.Throttled = func(n *push.Notification) { t.Errorf("%s was held back", n.ID) }
		if ends := sendAtRate(t, r, 100, 30*time.Second); ends[push.Accepted] != 3000 {
			t.Errorf("%v", ends)
		}
	})
}

func TestRateLimitWaitDoesNotTriggerThrottler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const granted, rate, span = 20, 200, 20 * time.Second
		var p flakyProvider
		r := newRoute(t, p.service(), 8)
		r.Throttler, r.RateLimiter = new(retry.AdaptiveThrottler), quota.New(quota.Config{Total: quota.Limit{Rate: granted}})
		r.Retry.MaxRetryAfter = time.Hour
		if ends := sendAtRate(t, r, rate, span); ends[push.Accepted] != rate*int(span.Seconds()) {
			t.Errorf("%v, though the provider takes whatever it is sent", ends)
		}
	})
}
