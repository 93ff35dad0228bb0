// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"fmt"
	"math"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// Limit limits the use of a credential. The zero Limit is none.
type Limit struct {
	// Rate is the number of notifications, and of other requests, in a time of RatePer. 0 is no limit.
	Rate    int
	RatePer time.Duration
	// Concurrency is the maximum number of synchronous notifications in flight. 0 is no limit.
	Concurrency int
}

// Limits count the use of a credential. A nil *Limits has no limit. It is safe for concurrent use.
type Limits struct {
	limit    Limit
	rate     *rate.Limiter // nil without a limit
	inFlight *semaphore.Weighted
}

// newLimits returns nil if limit is zero.
func newLimits(limit Limit) *Limits {
	if limit == (Limit{}) {
		return nil
	}
	l := &Limits{limit: limit}
	if limit.Rate > 0 {
		l.rate = rate.NewLimiter(rate.Limit(float64(limit.Rate)/limit.RatePer.Seconds()), limit.Rate)
	}
	if limit.Concurrency > 0 {
		l.inFlight = semaphore.NewWeighted(int64(limit.Concurrency))
	}
	return l
}

// Exceeded says which limit refuses a request.
type Exceeded struct {
	// Name is rate or concurrency.
	Name string
	// Detail names the limit and its value.
	Detail string
	// RetryAfter is when a request may pass again.
	RetryAfter time.Duration
}

var rateUnits = map[time.Duration]string{time.Second: "s", time.Minute: "min", time.Hour: "h", 24 * time.Hour: "d"}

// Take counts n notifications of one request, or returns an error without counting them. A request
// passes if at least one notification does. The others are counted in advance: later requests wait for
// them. So a request with more notifications than the limit passes too, and the average is kept.
func (l *Limits) Take(n int) *Exceeded {
	if l == nil || l.rate == nil || n <= 0 {
		return nil
	}
	now := time.Now()
	if first := l.rate.ReserveN(now, 1); first.DelayFrom(now) > 0 {
		wait := first.DelayFrom(now)
		first.CancelAt(now)
		return &Exceeded{"rate", fmt.Sprintf("its rate is %d/%s", l.limit.Rate, rateUnits[l.limit.RatePer]), wait}
	}
	l.reserve(now, n-1)
	return nil
}

// Wait counts n notifications of a stream and returns how long the stream must wait before the next
// one. A stream is slowed instead of refused: what it has sent before cannot be taken back.
func (l *Limits) Wait(n int) time.Duration {
	if l == nil || l.rate == nil {
		return 0
	}
	return l.reserve(time.Now(), n)
}

// reserve takes n tokens, also more than the bucket holds, and returns the time until they are there.
func (l *Limits) reserve(now time.Time, n int) (wait time.Duration) {
	for ; n > 0; n -= l.rate.Burst() {
		wait = l.rate.ReserveN(now, min(n, l.rate.Burst())).DelayFrom(now)
	}
	return wait
}

// MaxInFlight returns the limit of notifications in flight, or math.MaxInt without one.
func (l *Limits) MaxInFlight() int {
	if l == nil || l.inFlight == nil {
		return math.MaxInt
	}
	return l.limit.Concurrency
}

// TryAcquire reserves a place for one notification in flight. Release must be called at its end, unless
// there is an error.
func (l *Limits) TryAcquire() *Exceeded {
	if l == nil || l.inFlight == nil || l.inFlight.TryAcquire(1) {
		return nil
	}
	return &Exceeded{"concurrency", fmt.Sprintf("its concurrency is %d", l.limit.Concurrency), time.Second}
}

// Acquire waits for places for n notifications of a stream, at most MaxInFlight. It returns an error
// only if ctx ends before.
func (l *Limits) Acquire(ctx context.Context, n int) error {
	if l == nil || l.inFlight == nil {
		return nil
	}
	return l.inFlight.Acquire(ctx, int64(n))
}

// Release returns n places.
func (l *Limits) Release(n int) {
	if l != nil && l.inFlight != nil {
		l.inFlight.Release(int64(n))
	}
}
