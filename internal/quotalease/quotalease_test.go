// SPDX-License-Identifier: Apache-2.0

package quotalease_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/quotalease"
)

// bootstrapTime is how long a new cluster takes to grant shares, because all earlier leases must
// have expired.
const bootstrapTime = 7 * time.Second

func TestSingleMemberGetsTheFullQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a := c.join(quotalease.Config{}, 0.1)
		defer a.leave()
		expectShare(t, "at the start", a, 0)
		if !a.Status().BelowTarget {
			t.Error("a new member is not below its target")
		}
		time.Sleep(bootstrapTime)
		expectShare(t, "after the start", a, 1)
		if a.Status().BelowTarget {
			t.Error("a single member is below its target")
		}
	})
}

func TestIncompleteDocumentIsReplaced(t *testing.T) {
	for _, text := range []string{`{}`, `{"members":null}`, `{"members":{"gone":null}}`, `{"epoch":"","ready":true,"members":{"gone":{}}}`} {
		synctest.Test(t, func(t *testing.T) {
			c := &fakeCluster{docs: map[string]entry{"fcm": {text, 1}}, revision: 1}
			a := c.join(quotalease.Config{}, 1)
			defer a.leave()
			time.Sleep(2 * bootstrapTime)
			expectShare(t, text, a, 1)
		})
	}
}

func TestNewMemberGetsItsShareWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a := c.join(quotalease.Config{}, 1)
		defer a.leave()
		time.Sleep(bootstrapTime)
		b := c.join(quotalease.Config{}, 1)
		defer b.leave()
		time.Sleep(2 * time.Second)
		expectShare(t, "the first member", a, 0.5)
		expectShare(t, "the new member", b, 0.5)
		if s := b.Status(); s.Members != 2 || !s.Connected {
			t.Errorf("%+v", s)
		}
	})
}

func TestUnusedShareIsLentAndReclaimedWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a, b := c.join(quotalease.Config{}, 1), c.join(quotalease.Config{}, 0)
		defer a.leave()
		defer b.leave()
		time.Sleep(bootstrapTime)
		expectShare(t, "busy member", a, 0.99)
		b.limiter.setDemand(0.4)
		time.Sleep(2 * time.Second)
		expectShare(t, "busy member, after the other became busy", a, 0.5)
		expectShare(t, "member that was idle", b, 0.5)
		b.limiter.setDemand(0.2)
		time.Sleep(2 * time.Second)
		expectShare(t, "busy member, after the other's demand fell", a, 0.75)
		expectShare(t, "member with a low demand and a quarter of it as headroom", b, 0.25)
	})
}

func TestShareOfDeadMemberReturnsAfterItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a, b := c.join(quotalease.Config{}, 1), c.join(quotalease.Config{}, 1)
		defer a.leave()
		time.Sleep(bootstrapTime)
		b.kill()
		time.Sleep(3 * time.Second)
		expectShare(t, "before the lease of the dead member has expired", a, 0.5)
		time.Sleep(4 * time.Second)
		expectShare(t, "after the lease of the dead member", a, 1)
	})
}

func TestLeavingMemberReturnsItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a, b := c.join(quotalease.Config{}, 1), c.join(quotalease.Config{}, 1)
		defer a.leave()
		time.Sleep(bootstrapTime)
		b.leave()
		time.Sleep(time.Second)
		expectShare(t, "the remaining member", a, 1)
	})
}

func TestDisconnectedMemberFallsBackAfterItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		cfg := quotalease.Config{FallbackShare: 0.2, Members: 4}
		a, b := c.join(cfg, 1), c.join(cfg, 1)
		defer a.leave()
		defer b.leave()
		expectShare(t, "before the first contact", a, 0.05)
		time.Sleep(bootstrapTime)
		expectShare(t, "connected", b, 0.45) // half of 0.8, and 0.05
		b.setConn(true, false)
		time.Sleep(4 * time.Second)
		expectShare(t, "disconnected, within the lease", b, 0.45)
		if s := b.Status(); s.Connected || s.Reason == "" {
			t.Errorf("%+v", s)
		}
		time.Sleep(4 * time.Second)
		expectShare(t, "disconnected, after the lease", b, 0.05)
		expectShare(t, "the connected member", a, 0.85)
		b.setConn(false, false)
		time.Sleep(2 * time.Second)
		expectShare(t, "connected again", b, 0.45)
	})
}

func TestLostDocumentsDoNotInterruptMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a, b := c.join(quotalease.Config{}, 1), c.join(quotalease.Config{}, 0.3)
		defer a.leave()
		defer b.leave()
		time.Sleep(bootstrapTime)
		c.loseAll()
		d := c.join(quotalease.Config{}, 1)
		defer d.leave()
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			if a.limiter.share() < 0.6 || b.limiter.share() < 0.3 || d.limiter.share() > 0 {
				t.Fatalf("the members have %v and %v, the new one %v", a.limiter.share(), b.limiter.share(), d.limiter.share())
			}
		}
		time.Sleep(3 * time.Second)
		expectShare(t, "the new member", d, 0.33)
	})
}

func TestSetLimitersReplacesAndRemovesLimiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a, b := c.join(quotalease.Config{}, 1), c.join(quotalease.Config{}, 1)
		defer a.leave()
		defer b.leave()
		time.Sleep(bootstrapTime)
		next := &fakeLimiter{}
		next.setDemand(1)
		a.SetLimiters(map[string]quotalease.RateLimiter{"project": next})
		time.Sleep(2 * time.Second)
		if old := a.limiter.share(); old != 0 || next.share() < 0.49 {
			t.Errorf("the old limiter has %v, the new one %v", old, next.share())
		}
		a.SetLimiters(nil)
		time.Sleep(2 * time.Second)
		if next.share() != 0 || b.limiter.share() != 1 {
			t.Errorf("the removed limiter has %v, the other member %v", next.share(), b.limiter.share())
		}
	})
}

func TestSharesNeverExceedTheQuota(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		cfg := quotalease.Config{Lease: time.Duration(rapid.IntRange(1, 5).Draw(r, "lease")) * time.Second, Members: 12}
		cfg.FallbackShare = rapid.SampledFrom([]float64{0, 0.1, 1}).Draw(r, "fallback share")
		type step struct {
			action, member int
			pause          time.Duration
			amount         float64
		}
		steps := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
			return step{
				rapid.IntRange(0, 9).Draw(r, "action"), rapid.IntRange(0, 11).Draw(r, "member"),
				time.Duration(rapid.IntRange(0, 3000).Draw(r, "pause")) * time.Millisecond, rapid.Float64Range(0, 1.5).Draw(r, "amount"),
			}
		}), 1, 40).Draw(r, "steps")
		highest := 0.0
		synctest.Test(t, func(t *testing.T) {
			c := &fakeCluster{}
			var members []*testMember
			watch := func(period time.Duration) {
				for end := time.Now().Add(period); ; time.Sleep(7 * time.Millisecond) {
					if highest = max(highest, totalShare(members...)); !time.Now().Before(end) {
						return
					}
				}
			}
			defer func() {
				for _, m := range members {
					m.leave()
				}
			}()
			for _, s := range steps {
				switch {
				case s.action <= 1 || len(members) == 0:
					if len(members) < cfg.Members {
						members = append(members, c.join(cfg, s.amount))
					}
				case s.action == 2:
					c.setDown(s.amount < 0.5)
				case s.action == 3:
					c.loseAll()
				default:
					i := s.member % len(members)
					m := members[i]
					switch s.action {
					case 4:
						m.kill()
						members = append(members[:i:i], members[i+1:]...)
					case 5:
						m.leave()
						members = append(members[:i:i], members[i+1:]...)
					case 6:
						m.setConn(s.amount < 1, false)
					case 7:
						m.setConn(false, s.amount < 1)
					case 8:
						m.conn.mu.Lock()
						m.conn.latency = time.Duration(s.amount * float64(time.Second))
						m.conn.mu.Unlock()
					case 9:
						m.limiter.setDemand(s.amount)
					}
				}
				watch(s.pause)
			}
		})
		if highest > 1+1e-9 {
			r.Fatalf("%v of the quota could be used", highest)
		}
	})
}

// panickingLimiter panics when it is asked for its demand.
type panickingLimiter struct {
	fakeLimiter
	panics atomic.Int64
}

func (l *panickingLimiter) Demand() map[string]float64 {
	l.panics.Add(1)
	panic("SECRET")
}

// TestPanicOfOneLimiterDoesNotAffectOthers shares two quotas, and the limiter of one panics. It is asked
// again once a minute and has the fallback share. The other one gets its quota.
func TestPanicOfOneLimiterDoesNotAffectOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, bad := &fakeCluster{}, &panickingLimiter{}
		a := c.join(quotalease.Config{FallbackShare: 0.1, Members: 1}, 1)
		defer a.leave()
		a.SetLimiters(map[string]quotalease.RateLimiter{"project": a.limiter, "bad": bad})
		time.Sleep(5*time.Minute + bootstrapTime)
		expectShare(t, "the other limiter", a, 1)
		if n := bad.panics.Load(); n < 5 || n > 6 || bad.share() > 0.1 {
			t.Errorf("%d calls in five minutes, share %v", n, bad.share())
		}
	})
}
