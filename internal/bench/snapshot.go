// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"maps"
	"time"

	"github.com/sluice-push/sluice/internal/report"
)

// Snapshot is how a test stands.
type Snapshot struct {
	// Elapsed is counted from the beginning of the warm-up, and Total is until nothing more is offered.
	Elapsed, WarmUp, Total time.Duration
	// Offered and Answered are notifications a second, lately; Latency is that of the answers then.
	Offered, Answered float64
	Latency           report.Latency
	// InFlight are notifications that are due and have no verdict.
	InFlight int
	// Verdicts are all of the measured time.
	Verdicts map[string]int
	// Live is how many endpoints the gateway has, and Troubled says of the others what is wrong, by address.
	Healthy   int
	Unhealthy map[string]string
}

// reportProgress tells how the test stands until ctx ends.
func (t *loadTest) reportProgress(ctx context.Context) {
	if t.OnProgress == nil {
		return
	}
	for last := time.Now(); sleep(ctx, t.ProgressInterval); {
		now := time.Now()
		s := t.recorder.snapshot(now.Sub(last))
		s.Elapsed, s.WarmUp, s.Total = now.Sub(t.schedule.start), t.WarmUp, t.schedule.duration
		t.OnProgress(s)
		last = now
	}
}

// snapshot returns what was booked since the last one, which was so long ago.
func (b *recorder) snapshot(since time.Duration) Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Snapshot{
		Offered: float64(b.sinceSnapshot.offered) / since.Seconds(), Answered: float64(b.sinceSnapshot.answered) / since.Seconds(), Latency: latencySummary(b.recentLatency),
		InFlight: b.inFlight, Verdicts: maps.Clone(b.totals.verdicts), Healthy: b.healthy, Unhealthy: b.unhealthy,
	}
	b.sinceSnapshot = newCounts()
	b.recentLatency.Reset()
	return s
}
