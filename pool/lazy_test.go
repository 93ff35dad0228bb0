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
		tp := startPool(t, 2, pool.Config{Size: 2, Lazy: true})
		advance(time.Hour)
		if tp.dialCount() != 0 || tp.resolves != 0 || !tp.Idle() {
			t.Errorf("before the first Pick: %d dials, %d resolves, idle %v", tp.dialCount(), tp.resolves, tp.Idle())
		}
		tp.attempt()
		advance(time.Second)
		if tp.Idle() {
			t.Error("the pool is still idle after a Pick")
		}
		tp.wantMembers(1, 2)
	})
}

func TestIdlePoolCanStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{Lazy: true})
		advance(time.Hour)
		tp.stop()
		<-tp.ended
		if tp.runErr != nil || tp.dialCount() != 0 {
			t.Errorf("Run returned %v after %d dials", tp.runErr, tp.dialCount())
		}
	})
}
