// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"time"

	"github.com/sluice-push/sluice/internal/audience"
)

// maxTogether is how many lines are enqueued with one write.
const maxTogether = 500

// pacer keeps a rate. It knows only how many were enqueued, so another gateway goes on at the same point
// of the ramp.
type pacer struct {
	rate  audience.Rate
	since time.Time
	begin time.Duration // of the rate's time, at since
}

func newPacer(rate audience.Rate, done uint64, now time.Time) *pacer {
	return &pacer{rate, now, rate.At(int64(done))}
}

// quantum is how many are enqueued together at the rate: those of a tenth of a second.
func (p *pacer) quantum() int {
	if p.rate.PerMinute == 0 {
		return maxTogether
	}
	return min(maxTogether, max(1, p.rate.PerMinute/600))
}

// allowed returns how many more may be enqueued now, or how long to wait. Time in which nothing could be
// enqueued is not made up for by more than a second's worth.
func (p *pacer) allowed(done uint64, now time.Time) (n int, wait time.Duration) {
	if p.rate.PerMinute == 0 {
		return maxTogether, 0
	}
	elapsed := p.begin + now.Sub(p.since)
	if behind := elapsed - p.rate.At(int64(done)); behind > time.Second {
		elapsed = p.rate.At(int64(done)) + time.Second
		p.begin, p.since = elapsed, now
	}
	if ready := p.rate.Allowed(elapsed) - int64(done); ready >= int64(p.quantum()) {
		return int(min(ready, maxTogether)), 0
	}
	return 0, p.rate.At(int64(done)+int64(p.quantum())-1) - elapsed
}
