// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"maps"
	"time"

	"github.com/sluice-push/sluice/internal/report"
	"github.com/sluice-push/sluice/internal/sleep"
)

// Snapshot is the state of a running test.
type Snapshot struct {
	// Elapsed counts from the start of the warm-up. Total is the length of the warm-up and the
	// measurement.
	Elapsed, WarmUp, Total time.Duration
	// Offered and Answered are notifications per second since the previous snapshot. Latency is
	// that of the notifications answered since then.
	Offered, Answered float64
	Latency           report.Latency
	// InFlight is the number of notifications that are due and have no verdict yet.
	InFlight int
	// Verdicts counts all verdicts of the measurement.
	Verdicts map[string]int
	// Healthy is the number of healthy endpoints of the gateway. Unhealthy holds the state of the
	// others by address.
	Healthy   int
	Unhealthy map[string]string
}

// reportProgress calls OnProgress every ProgressInterval until ctx is done.
func (t *loadTest) reportProgress(ctx context.Context) {
	if t.OnProgress == nil {
		return
	}
	for last := time.Now(); sleep.For(ctx, t.ProgressInterval); {
		now := time.Now()
		s := t.recorder.snapshot(now.Sub(last))
		s.Elapsed, s.WarmUp, s.Total = now.Sub(t.recorder.start)+t.WarmUp, t.WarmUp, t.WarmUp+t.Duration
		t.OnProgress(s)
		last = now
	}
}

// snapshot returns the state of the recorder. since is the time since the previous snapshot.
func (rec *recorder) snapshot(since time.Duration) Snapshot {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	s := Snapshot{
		Offered: float64(rec.sinceSnapshot.offered) / since.Seconds(), Answered: float64(rec.sinceSnapshot.answered) / since.Seconds(), Latency: latencySummary(rec.recentLatency),
		InFlight: rec.inFlight, Verdicts: maps.Clone(rec.totals.verdicts), Healthy: rec.healthy, Unhealthy: rec.unhealthy,
	}
	rec.sinceSnapshot = newCounts()
	rec.recentLatency.Reset()
	return s
}
