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
		n, noted := newNotification("n"), []int{}
		n.BeforeAttempt = func(attempt int) error {
			if seen := len(s.visited("n")); seen != attempt-1 {
				t.Errorf("attempt %d is noted when %d have arrived", attempt, seen)
			}
			noted = append(noted, attempt)
			return nil
		}
		if got := newRoute(t, s, 2).Send(t.Context(), n); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
		if diff := cmp.Diff([]int{1, 2}, noted); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBeforeAttemptErrorPreventsSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scriptedService(accepted)
		n := newNotification("n")
		n.BeforeAttempt = func(int) error { return errors.New("the disk is full") }
		if got := newRoute(t, s, 2).Send(t.Context(), n); got.Verdict != push.Abandoned || len(s.visited("n")) != 0 {
			t.Errorf("%s, and the service met it %d times", verdicts(got), len(s.visited("n")))
		}
	})
}
