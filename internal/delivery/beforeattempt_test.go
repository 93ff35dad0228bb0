// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"errors"
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
