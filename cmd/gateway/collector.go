// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// minGarbage is how much garbage the collector lets accumulate at least. On a large heap it is half of what is
// live.
const minGarbage = 48 << 20

// tuneCollector makes the garbage collector run less often on a small heap. By default Go collects when
// the heap has doubled. A gateway has a few megabytes of live heap, so that happened after every
// thousand notifications and used a sixth of the CPU time. On a large heap it collects more often than by
// default, to limit memory. GOGC and GOMEMLIMIT in the environment take precedence.
func tuneCollector() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	t := &collectorTuner{samples: []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}}
	t.tune()
}

// collectorTuner is unreachable, so that its finalizer runs after each collection.
type collectorTuner struct {
	samples []metrics.Sample
	percent int
}

// tune sets GOGC for what is live now, and is called again after the next collection.
func (t *collectorTuner) tune() {
	metrics.Read(t.samples)
	var live uint64
	for _, s := range t.samples {
		live += s.Value.Uint64()
	}
	// Each change stops the world for a moment, so small ones are left out.
	if percent := collectorPercent(live); percent < t.percent*15/16 || percent > t.percent*17/16 {
		t.percent = percent
		debug.SetGCPercent(percent)
	}
	runtime.SetFinalizer(t, (*collectorTuner).tune)
}

// collectorPercent returns the value of GOGC for live bytes of heap, stacks and globals.
func collectorPercent(live uint64) int {
	live = max(live, 4<<20)
	return int(max(live/2, minGarbage) * 100 / live)
}
