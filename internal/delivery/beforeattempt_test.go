// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/push"
)

func TestBeforeAttemptRunsBeforeEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scriptedService(push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint, HTTP: 503}, accepted)
		n, calls := &push.Call{Notification: newNotification("n")}, []int{}
		n.BeforeAttempt = func(attempt int) error {
			if requests := len(s.visited("n")); requests != attempt-1 {
				t.Errorf("BeforeAttempt(%d) called after %d requests", attempt, requests)
			}
			calls = append(calls, attempt)
			return nil
		}
		if got := newRoute(t, s, 2).Send(t.Context(), n); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
		if diff := cmp.Diff([]int{1, 2}, calls); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBeforeAttemptErrorPreventsSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scriptedService(accepted)
		n := &push.Call{Notification: newNotification("n")}
		n.BeforeAttempt = func(int) error { return errors.New("disk full") }
		if got := newRoute(t, s, 2).Send(t.Context(), n); got.Verdict != push.Abandoned || len(s.visited("n")) != 0 {
			t.Errorf("%s after %d requests, want abandoned after none", verdicts(got), len(s.visited("n")))
		}
	})
}

// TestBeforeRunRunsBeforeFirstAttempts sends a run of which some calls must not be sent, and some are
// sent again. BeforeRun gets each call once before it is sent, and BeforeAttempt each further attempt.
func TestBeforeRunRunsBeforeFirstAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, n *push.Notification, attempt int, _ string) push.Outcome {
			if n.ID == "3" && attempt == 1 {
				return unavailable
			}
			return accepted
		}}
		r, calls := fullRoute(t, s, 2), []*push.Call{}
		var runs, further []int
		for i, n := range manyNotifications(20) {
			calls = append(calls, &push.Call{Notification: n, Index: i, CanQueue: true, BeforeRun: func(calls []*push.Call) (errs []error) {
				for _, c := range calls {
					if len(s.visited(c.ID)) != 0 {
						t.Errorf("BeforeRun with %s, which has been sent", c.ID)
					}
					runs = append(runs, c.Index)
					errs = append(errs, nil)
					if c.Index%5 == 0 {
						errs[len(errs)-1] = errors.New("cancelled")
					}
				}
				return errs
			}, BeforeAttempt: func(attempt int) error {
				if visits := len(s.visited(n.ID)); attempt != visits+1 {
					t.Errorf("BeforeAttempt(%d) of %s after %d requests", attempt, n.ID, visits)
				}
				further = append(further, i)
				return nil
			}})
		}
		var ended atomic.Int64
		r.SendAll(t.Context(), calls, func(calls []*push.Call) { ended.Add(int64(len(calls))) })
		for i, c := range calls {
			want := push.Accepted
			if i%5 == 0 {
				want = push.Abandoned
			}
			if sent := len(s.visited(c.ID)) > 0; c.Receipt.Verdict != want || sent != (i%5 != 0) {
				t.Errorf("%d: %s, sent: %v", i, verdicts(&c.Receipt), sent)
			}
		}
		slices.Sort(runs)
		if len(runs) != 20 || len(slices.Compact(runs)) != 20 || !slices.Equal(further, []int{3}) || ended.Load() != 20 {
			t.Errorf("BeforeRun with %v, BeforeAttempt for %v, %d ended", runs, further, ended.Load())
		}
		checkIdle(t, r)
	})
}

func TestRunWithoutBeforeRunCallsBeforeAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, calls := &service{}, []*push.Call{}
		for i, n := range manyNotifications(10) {
			calls = append(calls, &push.Call{Notification: n, CanQueue: true, BeforeAttempt: func(int) error {
				if i == 4 {
					return errors.New("disk full")
				}
				return nil
			}})
		}
		r := fullRoute(t, s, 1)
		r.SendAll(t.Context(), calls, func([]*push.Call) {})
		for i, c := range calls {
			if sent := len(s.visited(c.ID)); sent != 1 && i != 4 || sent != 0 && i == 4 {
				t.Errorf("%d: %s after %d requests", i, verdicts(&c.Receipt), sent)
			}
		}
		checkIdle(t, r)
	})
}

func TestPanicOfBeforeRunReturnsPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, calls, ended := &service{}, []*push.Call{}, 0
		for _, n := range manyNotifications(10) {
			calls = append(calls, &push.Call{Notification: n, CanQueue: true, BeforeRun: func([]*push.Call) []error { panic("bug") }})
		}
		r := fullRoute(t, s, 1)
		r.SendAll(t.Context(), calls, func(calls []*push.Call) { ended += len(calls) })
		for _, c := range calls {
			if c.Receipt.Verdict != push.Unknown || len(s.visited(c.ID)) != 0 {
				t.Error(verdicts(&c.Receipt))
			}
		}
		if ended != 10 {
			t.Errorf("%d ended", ended)
		}
		checkIdle(t, r)
	})
}
