// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"testing"

	"github.com/sluice-push/sluice/push"
)

func TestLanePriority(t *testing.T) {
	for lane, want := range map[push.Lane]int{push.LaneCritical: 0, "": 1, push.LaneNormal: 1, push.LaneBulk: 2} {
		if got := lane.Priority(); got != want {
			t.Errorf("priority of %q is %d, want %d", lane, got, want)
		}
	}
}
