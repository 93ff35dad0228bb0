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

// fcmProject is the quota of an FCM project in its worst minute: the bucket holds a tenth of a
// second's worth of tokens.
type fcmProject struct {
	perMinute float64

	mu       sync.Mutex
	tokens   float64
	refilled time.Time
	seconds  []int // requests per second
	start    time.Time
	refused  int
}

func (p *fcmProject) send() push.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.refilled.IsZero() {
		p.tokens, p.start, p.refilled = p.perMinute/600, now, now
	}
	p.tokens = min(p.tokens+now.Sub(p.refilled).Minutes()*p.perMinute, p.perMinute/600)
	p.refilled = now
	second := int(now.Sub(p.start) / time.Second)
	p.seconds = append(p.seconds, make([]int, max(second+1-len(p.seconds), 0))...)
	p.seconds[second]++
	if p.tokens < 1 {
		p.refused++
		return throttled(push.ScopeProject, time.Second)
	}
	p.tokens--
	return push.Outcome{Verdict: push.Accepted}
}

// TestCampaignUsesWholeQuotaAndCriticalOvertakes sends a campaign of 600,000 notifications at three
// times the quota of its project, with ten critical notifications per second in between.
func TestCampaignUsesWholeQuotaAndCriticalOvertakes(t *testing.T) {
	if testing.Short() {
		t.Skip("600,000 notifications")
	}
	synctest.Test(t, func(t *testing.T) {
		const rate, senders = 10_000, 3_000
		campaign, critical := 600_000, 500
		if raceEnabled { // each notification takes ten times as long
			campaign, critical = 150_000, 120
		}
		project := &fcmProject{perMinute: 60 * rate}
		l := quota.New(quota.Config{Total: quota.Limit{Rate: rate}})
		send := func(n *push.Notification, maxWait time.Duration) {
			for !acquire(l, n, maxWait) {
				time.Sleep(100 * time.Millisecond)
			}
			l.Record(n, project.send())
		}
		var wg sync.WaitGroup
		start := time.Now()
		for range senders { // each sends every 100 ms: 30,000 per second
			wg.Go(func() {
				for range campaign / senders {
					send(fromApp("campaign", push.LaneBulk), 20*time.Second)
				}
			})
		}
		var waits []time.Duration
		for range critical {
			time.Sleep(99700 * time.Microsecond)
			sent := time.Now()
			send(fromApp("alarm", push.LaneCritical), time.Second)
			waits = append(waits, time.Since(sent))
		}
		wg.Wait()
		duration := time.Since(start)

		busiest := slices.Max(project.seconds)
		used := float64(campaign+len(waits)) / (duration.Seconds() * rate)
		slices.Sort(waits)
		p99 := waits[len(waits)*99/100]
		share := float64(project.refused) / float64(campaign)
		t.Logf("busiest second %.3f of the quota, %.1f %% used, critical p99 %v, 429s %.2f %%", float64(busiest)/rate, 100*used, p99, 100*share)
		if float64(busiest) > 1.05*rate {
			t.Errorf("%d in the busiest second", busiest)
		}
		if used < 0.98 || p99 >= 100*time.Millisecond || share >= 0.01 {
			t.Errorf("%.1f %% used, critical p99 %v, 429s %.2f %%", 100*used, p99, 100*share)
		}
	})
}
