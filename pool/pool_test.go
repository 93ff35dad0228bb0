// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

func TestTheLoadIsSpreadEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		h.wantMembers(1, 2, 3, 4, 5, 6, 7, 8)
		for endpoint, n := range h.spread(8 * 100) {
			if n < 99 || n > 101 {
				t.Errorf("%s was picked %d times of 800", endpoint, n)
			}
		}
		t.Log(h.story())
	})
}
