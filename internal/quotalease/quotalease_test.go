// SPDX-License-Identifier: Apache-2.0

package quotalease_test

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/quotalease"
)

// bootstrapTime is how long a new cluster takes: whatever was leased before must have ended.
const bootstrapTime = 7 * time.Second

func TestSingleMemberGetsTheFullQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		a := c.join(quotalease.Config{}, 0.1)
		defer a.leave()
		expectShare(t, "at first", a, 0)
		if !a.Status().BelowTarget {
			t.Error("it is not short of anything")
		}
		time.Sleep(bootstrapTime)
		expectShare(t, "later", a, 1)
		if a.Status().BelowTarget {
			t.Error("it is short of something")
		}
	})
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
		expectShare(t, "the first", a, 0.5)
		expectShare(t, "the newcomer", b, 0.5)
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
		expectShare(t, "the busy one", a, 0.99)
		b.limiter.setDemand(0.4)
		time.Sleep(2 * time.Second)
		expectShare(t, "the busy one", a, 0.5)
		expectShare(t, "who was idle", b, 0.5)
		b.limiter.setDemand(0.2)
		time.Sleep(2 * time.Second)
		expectShare(t, "the busy one", a, 0.75)
		expectShare(t, "the modest one, with a quarter for what comes next", b, 0.25)
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
		expectShare(t, "while it might live", a, 0.5)
		time.Sleep(4 * time.Second)
		expectShare(t, "after its lease", a, 1)
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
		expectShare(t, "who stays", a, 1)
	})
}

func TestDisconnectedMemberFallsBackAfterItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		cfg := quotalease.Config{FallbackShare: 0.2, Members: 4}
		a, b := c.join(cfg, 1), c.join(cfg, 1)
		defer a.leave()
		defer b.leave()
		expectShare(t, "before it has met anybody", a, 0.05)
		time.Sleep(bootstrapTime)
		expectShare(t, "in touch", b, 0.45) // half of 0.8, and 0.05
		b.setConn(true, false)
		time.Sleep(4 * time.Second)
		expectShare(t, "just cut off", b, 0.45)
		if s := b.Status(); s.Connected || s.Reason == "" {
			t.Errorf("%+v", s)
		}
		time.Sleep(4 * time.Second)
		expectShare(t, "cut off", b, 0.05)
		expectShare(t, "the other", a, 0.85)
		b.setConn(false, false)
		time.Sleep(2 * time.Second)
		expectShare(t, "in touch again", b, 0.45)
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
				t.Fatalf("%v %v, and who came later %v", a.limiter.share(), b.limiter.share(), d.limiter.share())
			}
		}
		time.Sleep(3 * time.Second)
		expectShare(t, "who came later", d, 0.33)
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
			t.Errorf("the old gate has %v, the new one %v", old, next.share())
		}
		a.SetLimiters(nil)
		time.Sleep(2 * time.Second)
		if next.share() != 0 || b.limiter.share() != 1 {
			t.Errorf("who shares no longer has %v, the other %v", next.share(), b.limiter.share())
		}
	})
}

func TestSharesNeverExceedTheQuota(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		cfg := quotalease.Config{Lease: time.Duration(rapid.IntRange(1, 5).Draw(r, "lease")) * time.Second, Members: 12}
		cfg.FallbackShare = rapid.SampledFrom([]float64{0, 0.1, 1}).Draw(r, "apart")
		type step struct {
			what, whom int
			pause      time.Duration
			wants      float64
		}
		steps := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
			return step{
				rapid.IntRange(0, 9).Draw(r, "what"), rapid.IntRange(0, 11).Draw(r, "whom"),
				time.Duration(rapid.IntRange(0, 3000).Draw(r, "pause")) * time.Millisecond, rapid.Float64Range(0, 1.5).Draw(r, "wants"),
			}
		}), 1, 40).Draw(r, "steps")
		most := 0.0
		synctest.Test(t, func(t *testing.T) {
			c := &fakeCluster{}
			var members []*testMember
			watch := func(long time.Duration) {
				for end := time.Now().Add(long); ; time.Sleep(7 * time.Millisecond) {
					if most = max(most, totalShare(members...)); !time.Now().Before(end) {
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
				case s.what <= 1 || len(members) == 0:
					if len(members) < cfg.Members {
						members = append(members, c.join(cfg, s.wants))
					}
				case s.what == 2:
					c.setDown(s.wants < 0.5)
				case s.what == 3:
					c.loseAll()
				default:
					i := s.whom % len(members)
					m := members[i]
					switch s.what {
					case 4:
						m.kill()
						members = append(members[:i:i], members[i+1:]...)
					case 5:
						m.leave()
						members = append(members[:i:i], members[i+1:]...)
					case 6:
						m.setConn(s.wants < 1, false)
					case 7:
						m.setConn(false, s.wants < 1)
					case 8:
						m.conn.mu.Lock()
						m.conn.latency = time.Duration(s.wants * float64(time.Second))
						m.conn.mu.Unlock()
					case 9:
						m.limiter.setDemand(s.wants)
					}
				}
				watch(s.pause)
			}
		})
		if most > 1+1e-9 {
			r.Fatalf("%v of the whole could be spent", most)
		}
	})
}
