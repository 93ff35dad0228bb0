// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

func TestAPoolThatSleepsDialsNothingBeforeItsFirstPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{Size: 2, Asleep: true})
		pass(time.Hour)
		if h.dials() != 0 || h.asked != 0 || !h.Asleep() {
			t.Errorf("%d dials, %d questions, asleep %v before anybody asked", h.dials(), h.asked, h.Asleep())
		}
		h.attempt()
		pass(time.Second)
		if h.Asleep() {
			t.Error("it still sleeps")
		}
		h.wantMembers(1, 2)
	})
}

func TestAPoolMayEndInItsSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{Asleep: true})
		pass(time.Hour)
		h.stop()
		<-h.ended
		if h.result != nil || h.dials() != 0 {
			t.Errorf("%v after %d dials", h.result, h.dials())
		}
	})
}
