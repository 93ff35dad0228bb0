// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// siteLimit is what Chrome still accepts from a site that it limits.
var siteLimit = quota.Limit{Rate: 1000. / 60, Per: time.Minute}

// pushService accepts perMinute notifications from a sender in each minute, without telling the
// sender that the limit is not that of a device.
type pushService struct {
	perMinute int

	mu                sync.Mutex
	start             time.Time
	minute            int
	inMinute          int
	accepted, refused []int // per minute
}

func (p *pushService) send() push.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.start.IsZero() {
		p.start, p.minute = time.Now(), -1
	}
	if minute := int(time.Since(p.start) / time.Minute); minute != p.minute {
		for len(p.accepted) <= minute {
			p.accepted, p.refused = append(p.accepted, 0), append(p.refused, 0)
		}
		p.minute, p.inMinute = minute, 0
	}
	if p.inMinute >= p.perMinute {
		p.refused[p.minute]++
		return throttled(push.ScopeDevice, time.Minute)
	}
	p.inMinute++
	p.accepted[p.minute]++
	return push.Outcome{Verdict: push.Accepted}
}

// TestCampaignAtLimitedServiceIsPaced sends a campaign to a million subscriptions of a service that
// limits the site.
func TestCampaignAtLimitedServiceIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const minutes = 10
		base := quota.New(quota.Config{})
		l, service := base.Service(siteLimit), pushService{perMinute: 1000}
		var wg sync.WaitGroup
		end := time.Now().Add(minutes * time.Minute)
		for sender := range 200 {
			wg.Go(func() {
				for i := 0; time.Now().Before(end); i++ {
					n := toToken(fmt.Sprint(sender, " ", i))
					n.Lane = push.LaneBulk
					if !acquire(l, n, time.Minute) {
						time.Sleep(time.Second)
						continue
					}
					time.Sleep(50 * time.Millisecond)
					l.Record(n, service.send())
				}
			})
		}
		time.Sleep(time.Minute)
		critical := toToken("alarm")
		critical.Lane = push.LaneCritical
		time.Sleep(2*time.Minute + 30*time.Second)
		if start := time.Now(); !acquire(l, critical, time.Minute) || time.Since(start) > time.Second {
			t.Errorf("a critical notification waited for %v", time.Since(start))
		}
		mustAllow(t, base.Service(siteLimit), toToken("at another service"))
		wg.Wait()
		accepted, refused := 0, 0
		for minute := range minutes {
			if accepted += service.accepted[minute]; minute > 0 {
				refused += service.refused[minute]
			}
		}
		// Those in flight when the service first refuses are refused, and nearly none later.
		if service.refused[0] > 300 || refused > 10 {
			t.Errorf("refused per minute: %v", service.refused)
		}
		if accepted < minutes*800 {
			t.Errorf("%d accepted, want at least 800 a minute: %v", accepted, service.accepted)
		}
	})
}

// refuseDevices records refusals of n different devices, and accepted attempts at others.
func refuseDevices(l *quota.RateLimiter, refused, accepted int) (closed int) {
	for i := range accepted {
		l.Record(toToken(fmt.Sprint("accepted ", i)), push.Outcome{Verdict: push.Accepted})
	}
	for i := range refused {
		if l.Record(toToken(fmt.Sprint("refused ", i)), throttled(push.ScopeDevice, time.Minute)) {
			closed++
		}
	}
	return closed
}

func TestOnlyManyRefusedDevicesCloseService(t *testing.T) {
	for name, c := range map[string]struct {
		record func(l *quota.RateLimiter)
		want   time.Duration
	}{
		"few devices":     {func(l *quota.RateLimiter) { refuseDevices(l, 19, 0) }, 0},
		"many devices":    {func(l *quota.RateLimiter) { refuseDevices(l, 20, 0) }, time.Minute},
		"many of all":     {func(l *quota.RateLimiter) { refuseDevices(l, 20, 380) }, time.Minute},
		"few of all":      {func(l *quota.RateLimiter) { refuseDevices(l, 20, 381) }, 0},
		"within a minute": {func(l *quota.RateLimiter) { refuseDevices(l, 19, 0); time.Sleep(time.Minute); refuseDevices(l, 19, 0) }, 0},
		"one device often": {func(l *quota.RateLimiter) {
			for range 100 {
				l.Record(toToken("a"), throttled(push.ScopeDevice, time.Minute))
			}
		}, 0},
		"failures": {func(l *quota.RateLimiter) {
			for i := range 100 {
				l.Record(toToken(fmt.Sprint(i)), push.Outcome{Verdict: push.Unavailable, RetryAfter: time.Minute})
			}
		}, 0},
		"the credential": {func(l *quota.RateLimiter) { l.Record(toToken("a"), throttled(push.ScopeCredential, time.Minute)) }, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			base := quota.New(quota.Config{})
			l := base.Service(siteLimit)
			c.record(l)
			if wait := l.RetryAfter(toToken("other")); wait != c.want {
				t.Errorf("%s: closed for %v, want %v", name, wait, c.want)
			}
			if wait := base.Service(siteLimit).RetryAfter(toToken("other")); wait != 0 {
				t.Errorf("%s: another service is closed for %v", name, wait)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{}) // such as APNs, which limits each device
		if refuseDevices(l, 100, 0) != 0 || l.RetryAfter(toToken("other")) != 0 {
			t.Error("refusals of devices close everything without Service")
		}
	})
}

func TestRefusalOfServiceIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{}).Service(siteLimit)
		if closed := refuseDevices(l, 100, 0); closed != 1 {
			t.Errorf("reported %d times", closed)
		}
		s := l.Status()
		if len(s.Scopes) != 1 || s.Scopes[0].Name != "service" || s.ClosedFor != 60 || s.Scopes[0].Rate < 7 || s.Scopes[0].Rate > 9 || s.Rate != s.Scopes[0].Rate {
			t.Errorf("%+v", s)
		}
	})
}

func TestLimitOfServiceEndsAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{}).Service(siteLimit)
		refuseDevices(l, 20, 0)
		time.Sleep(24*time.Hour - time.Second)
		for allowed := 0; ; allowed++ {
			if _, ok := attempt(l, toToken(fmt.Sprint(allowed)), 0); !ok {
				if allowed > 2 {
					t.Errorf("%d allowed at once", allowed)
				}
				break
			}
		}
		time.Sleep(time.Second)
		for i := range 1000 {
			mustAllow(t, l, toToken(fmt.Sprint(i)))
		}
	})
}

func TestServiceWithoutLimitLearnsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{}).Service(quota.Limit{})
		for i := range 400 {
			mustAllow(t, l, toToken(fmt.Sprint(i)))
		}
		refuseDevices(l, 100, 400)
		mustReject(t, l, toToken("x"), time.Minute)
		time.Sleep(time.Minute)
		if rate := l.Status().Rate; rate < 5 || rate > 400 {
			t.Errorf("rate %v after the refusal", rate)
		}
		time.Sleep(time.Hour)
		if rate := l.Status().Rate; rate != 0 {
			t.Errorf("rate %v an hour later", rate)
		}
	})
}

func TestServiceSharesTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		a, b := base.Service(quota.Limit{}), base.Service(quota.Limit{})
		mustAllow(t, a, toToken("a"))
		if wait, ok := attempt(b, toToken("b"), 0); ok || wait != time.Second {
			t.Errorf("Acquire = %v, %v", wait, ok)
		}
		base.Reconfigure(quota.Config{})
		mustAllow(t, b, toToken("b"))
	})
}
