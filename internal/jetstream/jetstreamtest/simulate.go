// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

import (
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats-server/v2/server/ats"
)

// Simulate calls f in a testing/synctest bubble in which embedded servers can run. An hour in which a
// server runs takes some seconds.
func Simulate(t *testing.T, f func(t *testing.T)) {
	ats.Register() // starts a goroutine of all servers, which would keep the time of the bubble from advancing
	defer ats.Unregister()
	synctest.Test(t, f)
}
