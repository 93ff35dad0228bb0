// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime/debug"
	"testing"
)

func TestBallastRespectsGCSettings(t *testing.T) {
	percent := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	for _, set := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Setenv("GOGC", "")
		t.Setenv("GOMEMLIMIT", "")
		t.Setenv(set, "100")
		if ballast() != nil || debug.SetGCPercent(100) != 100 {
			t.Errorf("ballast changed the collector settings although %s is set", set)
		}
	}
	t.Setenv("GOMEMLIMIT", "")
	if len(ballast()) != ballastSize || debug.SetGCPercent(100) != 50 {
		t.Error("ballast did not allocate the ballast or did not set GOGC to 50")
	}
}
