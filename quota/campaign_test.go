// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// fcmProject is an FCM project's quota in the worst minute: of its bucket nothing is left but a tenth of a second's worth, and
// what flows in.
type fcmProject struct {
	perMinute float64

	mu      sync.Mutex
	tokens  float64
	at      time.Time
	seconds []int // what was asked of it, second by second
	began   time.Time
	refused int
}

func (p *fcmProject) send() push.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.at.IsZero() {
		p.tokens, p.began, p.at = p.perMinute/600, now, now
	}
	p.tokens = min(p.tokens+now.Sub(p.at).Minutes()*p.perMinute, p.perMinute/600)
	p.at = now
	second := int(now.Sub(p.began) / time.Second)
	p.seconds = append(p.seconds, make([]int, max(second+1-len(p.seconds), 0))...)
	p.seconds[second]++
	if p.tokens < 1 {
		p.refused++
		return throttled(push.ScopeProject, time.Second)
	}
	p.tokens--
	return push.Outcome{Verdict: push.Accepted}
}

// A campaign of 600,000 is offered at three times what its project is granted, by as many senders as keep coming back,
// and ten urgent ones a second beside it.
func TestCampaignUsesWholeQuotaAndCriticalOvertakes(t *testing.T) {
	if testing.Short() {
		t.Skip("600,000 notifications")
	}
	synctest.Test(t, func(t *testing.T) {
		const rate, senders = 10_000, 3_000
		campaign, urgent := 600_000, 500
		if raceEnabled { // for each of them costs ten times as much
			campaign, urgent = 150_000, 120
		}
		granted := &fcmProject{perMinute: 60 * rate}
		g := quota.New(quota.Config{Total: quota.Limit{Rate: rate}})
		send := func(n *push.Notification, patience time.Duration) {
			for !acquire(g, n, patience) {
				time.Sleep(100 * time.Millisecond)
			}
			g.Record(n, granted.send())
		}
		var all sync.WaitGroup
		began := time.Now()
		for range senders { // each is done in a tenth of a second: 30,000 a second are offered
			all.Go(func() {
				for range campaign / senders {
					send(fromApp("campaign", push.LaneBulk), 20*time.Second)
				}
			})
		}
		var waits []time.Duration
		for range urgent {
			time.Sleep(99700 * time.Microsecond)
			at := time.Now()
			send(fromApp("alarm", push.LaneCritical), time.Second)
			waits = append(waits, time.Since(at))
		}
		all.Wait()
		took := time.Since(began)

		worst := slices.Max(granted.seconds)
		used := float64(campaign+len(waits)) / (took.Seconds() * rate)
		slices.Sort(waits)
		p99 := waits[len(waits)*99/100]
		share := float64(granted.refused) / float64(campaign)
		t.Logf("worst second %.3f of the quota, %.1f %% used, urgent p99 %v, 429s %.2f %%", float64(worst)/rate, 100*used, p99, 100*share)
		if float64(worst) > 1.05*rate {
			t.Errorf("%d in the worst second", worst)
		}
		if used < 0.98 || p99 >= 100*time.Millisecond || share >= 0.01 {
			t.Errorf("%.1f %% used, urgent p99 %v, 429s %.2f %%", 100*used, p99, 100*share)
		}
	})
}
