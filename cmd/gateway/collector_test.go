// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
)

func TestCollectorRespectsGCSettings(t *testing.T) {
	percent := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	for _, set := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Setenv("GOGC", "")
		t.Setenv("GOMEMLIMIT", "")
		t.Setenv(set, "100")
		if tuneCollector(); debug.SetGCPercent(100) != 100 {
			t.Errorf("the collector is tuned although %s is set", set)
		}
	}
}

func TestCollectorPercent(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[uint64]int{1 * mib: 1200, 4 * mib: 1200, 8 * mib: 600, 64 * mib: 75, 96 * mib: 50, 128 * mib: 50, 1024 * mib: 50} {
		if got := collectorPercent(live); got != want {
			t.Errorf("%d MiB: %d%%, want %d%%", live/mib, got, want)
		}
	}
}

// TestCollectorFollowsHeap makes the heap grow and shrink.
func TestCollectorFollowsHeap(t *testing.T) {
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	tuneCollector()
	percent := func() int {
		runtime.GC()
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	heap := make([]byte, 512<<20)
	testwait.Until(t, func() bool { return percent() == 50 }, "GOGC is small for a large heap")
	runtime.KeepAlive(heap)
	testwait.Until(t, func() bool { return percent() > 100 }, "GOGC is large for a small heap")
}
