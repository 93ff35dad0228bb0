// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

// runStep is a step of the property tests below: count notifications start, and some end.
type runStep struct {
	sleep   time.Duration
	count   int
	verdict push.Verdict
}

func drawRunSteps(t *rapid.T) []runStep {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) runStep {
		return runStep{
			// The microsecond keeps a step from starting when an earlier one ends.
			sleep:   time.Duration(rapid.IntRange(0, 1000).Draw(t, "milliseconds"))*time.Millisecond + time.Microsecond,
			count:   rapid.IntRange(1, 64).Draw(t, "count"),
			verdict: rapid.SampledFrom([]push.Verdict{push.Accepted, push.Accepted, push.Unavailable, push.Unknown, push.Unsent}).Draw(t, "verdict"),
		}
	}), 1, 60).Draw(t, "steps")
}

func TestAcquireOfSeveralEqualsSingleCallsWhileNothingIsRejected(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawRunSteps(rt)
		var failure string
		synctest.Test(t, func(*testing.T) {
			together, single := &retry.AdaptiveThrottler{Rand: maxJitter}, &retry.AdaptiveThrottler{Rand: maxJitter}
			for i, s := range steps {
				time.Sleep(s.sleep)
				rejecting := together.RejectionRate() > 0
				p, err := together.Acquire(s.count)
				ok := err == nil
				if ok != !rejecting && s.count > 1 {
					failure = fmt.Sprintf("step %d: Acquire = %v at rejection rate %v", i, ok, together.RejectionRate())
					return
				}
				if !ok && s.count > 1 {
					continue
				}
				var permits []retry.Permit
				for range s.count {
					q, err := single.Acquire(1)
					if (err == nil) != ok {
						failure = fmt.Sprintf("step %d: Acquire = %v, one by one %v", i, ok, err)
						return
					}
					permits = append(permits, q)
				}
				if ok {
					time.AfterFunc(roundTrip, func() {
						p.Release(push.Outcome{Verdict: s.verdict}, s.count)
						for _, q := range permits {
							q.Release(push.Outcome{Verdict: s.verdict}, 1)
						}
					})
				}
				if a, b := together.RejectionRate(), single.RejectionRate(); a != b {
					failure = fmt.Sprintf("step %d: rejection rate %v, with single calls %v", i, a, b)
					return
				}
			}
			time.Sleep(time.Second)
			if a, b := together.RejectionRate(), single.RejectionRate(); a != b {
				failure = fmt.Sprintf("rejection rate %v at the end, with single calls %v", a, b)
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

func TestDepositOfSeveralEqualsSingleDeposits(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawRunSteps(rt)
		var failure string
		synctest.Test(t, func(*testing.T) {
			var together, single retry.Budget
			for i, s := range steps {
				time.Sleep(s.sleep)
				together.Deposit(s.count)
				for range s.count {
					single.Deposit(1)
				}
				for range s.count {
					if o := (push.Outcome{Verdict: push.Unavailable}); together.Withdraw(o) != single.Withdraw(o) {
						failure = fmt.Sprintf("step %d: the budgets differ", i)
						return
					}
				}
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

func TestNilThrottlerAndBudgetAllowRuns(t *testing.T) {
	var th *retry.AdaptiveThrottler
	p, err := th.Acquire(64)
	p.Release(push.Outcome{}, 64)
	(*retry.Budget)(nil).Deposit(64)
	if err != nil {
		t.Error("a nil throttler rejects:", err)
	}
}

// BenchmarkRun measures the permits and the deposit of notifications, alone and in a run.
func BenchmarkRun(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var th retry.AdaptiveThrottler
			var budget retry.Budget
			for b.Loop() {
				p, _ := th.Acquire(n)
				budget.Deposit(n)
				p.Release(push.Outcome{Verdict: push.Accepted}, n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/notification")
		})
	}
}
