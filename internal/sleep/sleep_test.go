// SPDX-License-Identifier: Apache-2.0

package sleep_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
)

func TestForWaitsUntilTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		for _, c := range []struct {
			wait, took time.Duration
			want       bool
		}{{time.Second, time.Second, true}, {0, time.Second, true}, {-1, time.Second, true}, {time.Hour, time.Minute, false}, {0, time.Minute, false}} {
			if got := sleep.For(ctx, c.wait); got != c.want || time.Since(start) != c.took {
				t.Errorf("For(%s) = %v after %s, want %v after %s", c.wait, got, time.Since(start), c.want, c.took)
			}
		}
	})
}
