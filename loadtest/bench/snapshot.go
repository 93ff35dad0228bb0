// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"maps"
	"time"

	"github.com/sluice-push/sluice/loadtest/report"
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
	Live     int
	Troubled map[string]string
}

// tell tells how the test stands until ctx ends.
func (t *test) tell(ctx context.Context) {
	if t.Tell == nil {
		return
	}
	for last := time.Now(); sleep(ctx, t.TellEvery); {
		now := time.Now()
		s := t.book.snapshot(now.Sub(last))
		s.Elapsed, s.WarmUp, s.Total = now.Sub(t.schedule.began), t.WarmUp, t.schedule.until
		t.Tell(s)
		last = now
	}
}

// snapshot returns what was booked since the last one, which was so long ago.
func (b *book) snapshot(since time.Duration) Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Snapshot{
		Offered: float64(b.recent.offered) / since.Seconds(), Answered: float64(b.recent.answered) / since.Seconds(), Latency: latencyOf(b.newest),
		InFlight: b.everInFlight, Verdicts: maps.Clone(b.count.verdicts), Live: b.live, Troubled: b.troubled,
	}
	b.recent = newCounts()
	b.newest.Reset()
	return s
}
