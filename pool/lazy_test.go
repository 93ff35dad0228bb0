// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

func TestLazyPoolDialsNothingBeforeFirstPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{Size: 2, Lazy: true})
		advance(time.Hour)
		if h.dialCount() != 0 || h.resolves != 0 || !h.Idle() {
			t.Errorf("%d dials, %d questions, asleep %v before anybody asked", h.dialCount(), h.resolves, h.Idle())
		}
		h.attempt()
		advance(time.Second)
		if h.Idle() {
			t.Error("it still sleeps")
		}
		h.wantMembers(1, 2)
	})
}

func TestIdlePoolCanStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{Lazy: true})
		advance(time.Hour)
		h.stop()
		<-h.ended
		if h.runErr != nil || h.dialCount() != 0 {
			t.Errorf("%v after %d dials", h.runErr, h.dialCount())
		}
	})
}
