// SPDX-License-Identifier: Apache-2.0

package share_test

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/share"
)

// founding is how long a new cluster takes: whatever was leased before must have ended.
const founding = 7 * time.Second

func TestWhoIsAloneHasTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		a := c.join(share.Config{}, 0.1)
		defer a.leave()
		about(t, "at first", a, 0)
		if !a.Status().Short {
			t.Error("it is not short of anything")
		}
		time.Sleep(founding)
		about(t, "later", a, 1)
		if a.Status().Short {
			t.Error("it is short of something")
		}
	})
}

func TestANewcomerHasItsPartWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		a := c.join(share.Config{}, 1)
		defer a.leave()
		time.Sleep(founding)
		b := c.join(share.Config{}, 1)
		defer b.leave()
		time.Sleep(2 * time.Second)
		about(t, "the first", a, 0.5)
		about(t, "the newcomer", b, 0.5)
		if s := b.Status(); s.Members != 2 || !s.InTouch {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhatOneDoesNotUseIsLentAndTakenBackWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		a, b := c.join(share.Config{}, 1), c.join(share.Config{}, 0)
		defer a.leave()
		defer b.leave()
		time.Sleep(founding)
		about(t, "the busy one", a, 0.99)
		b.spender.want(0.4)
		time.Sleep(2 * time.Second)
		about(t, "the busy one", a, 0.5)
		about(t, "who was idle", b, 0.5)
		b.spender.want(0.2)
		time.Sleep(2 * time.Second)
		about(t, "the busy one", a, 0.75)
		about(t, "the modest one, with a quarter for what comes next", b, 0.25)
	})
}

func TestWhatALostOneHadReturnsOnceItsLeaseHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		a, b := c.join(share.Config{}, 1), c.join(share.Config{}, 1)
		defer a.leave()
		time.Sleep(founding)
		b.kill()
		time.Sleep(3 * time.Second)
		about(t, "while it might live", a, 0.5)
		time.Sleep(4 * time.Second)
		about(t, "after its lease", a, 1)
	})
}

func TestWhoLeavesGivesItsPartBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		a, b := c.join(share.Config{}, 1), c.join(share.Config{}, 1)
		defer a.leave()
		time.Sleep(founding)
		b.leave()
		time.Sleep(time.Second)
		about(t, "who stays", a, 1)
	})
}

func TestWhoIsCutOffGoesOnUntilItsLeaseEndsAndThenHasWhatIsSetApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		cfg := share.Config{Apart: 0.2, Members: 4}
		a, b := c.join(cfg, 1), c.join(cfg, 1)
		defer a.leave()
		defer b.leave()
		about(t, "before it has met anybody", a, 0.05)
		time.Sleep(founding)
		about(t, "in touch", b, 0.45) // half of 0.8, and 0.05
		b.set(true, false)
		time.Sleep(4 * time.Second)
		about(t, "just cut off", b, 0.45)
		if s := b.Status(); s.InTouch || s.Reason == "" {
			t.Errorf("%+v", s)
		}
		time.Sleep(4 * time.Second)
		about(t, "cut off", b, 0.05)
		about(t, "the other", a, 0.85)
		b.set(false, false)
		time.Sleep(2 * time.Second)
		about(t, "in touch again", b, 0.45)
	})
}

func TestAClusterThatForgetsEverythingInterruptsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		a, b := c.join(share.Config{}, 1), c.join(share.Config{}, 0.3)
		defer a.leave()
		defer b.leave()
		time.Sleep(founding)
		c.lose()
		d := c.join(share.Config{}, 1)
		defer d.leave()
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			if a.spender.part() < 0.6 || b.spender.part() < 0.3 || d.spender.part() > 0 {
				t.Fatalf("%v %v, and who came later %v", a.spender.part(), b.spender.part(), d.spender.part())
			}
		}
		time.Sleep(3 * time.Second)
		about(t, "who came later", d, 0.33)
	})
}

func TestWithoutAGateThereIsNothingToShareAndAnotherGateTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		a, b := c.join(share.Config{}, 1), c.join(share.Config{}, 1)
		defer a.leave()
		defer b.leave()
		time.Sleep(founding)
		next := &spender{}
		next.want(1)
		a.Hold(map[string]share.Gate{"project": next})
		time.Sleep(2 * time.Second)
		if old := a.spender.part(); old != 0 || next.part() < 0.49 {
			t.Errorf("the old gate has %v, the new one %v", old, next.part())
		}
		a.Hold(nil)
		time.Sleep(2 * time.Second)
		if next.part() != 0 || b.spender.part() != 1 {
			t.Errorf("who shares no longer has %v, the other %v", next.part(), b.spender.part())
		}
	})
}

func TestTheSumIsNeverMoreThanTheWholeWhateverHappens(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		cfg := share.Config{Lease: time.Duration(rapid.IntRange(1, 5).Draw(r, "lease")) * time.Second, Members: 12}
		cfg.Apart = rapid.SampledFrom([]float64{0, 0.1, 1}).Draw(r, "apart")
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
			c := &cluster{}
			var members []*member
			watch := func(long time.Duration) {
				for end := time.Now().Add(long); ; time.Sleep(7 * time.Millisecond) {
					if most = max(most, sum(members...)); !time.Now().Before(end) {
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
					c.set(s.wants < 0.5)
				case s.what == 3:
					c.lose()
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
						m.set(s.wants < 1, false)
					case 7:
						m.set(false, s.wants < 1)
					case 8:
						m.line.mu.Lock()
						m.line.latency = time.Duration(s.wants * float64(time.Second))
						m.line.mu.Unlock()
					case 9:
						m.spender.want(s.wants)
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
