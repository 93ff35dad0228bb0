// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"math"
	"sync"
	"time"
)

// schedule determines when calls are due.
type schedule struct {
	start    time.Time
	duration time.Duration // no call is due after it; 0 with a limit
	rate     float64       // calls per second; 0 in a closed loop, and if all are due at the start
	limit    int           // number of calls; 0 for no limit
	idle     func()        // called before an open loop blocks; may be nil
}

// due returns when call i is due, counted from the start. It does not accumulate rounding errors.
func (s *schedule) due(i int) time.Duration {
	if s.rate == 0 {
		return 0
	}
	return time.Duration(float64(i) / s.rate * float64(time.Second))
}

// count returns the number of calls of an open loop.
func (s *schedule) count() int {
	if s.limit > 0 {
		return s.limit
	}
	return int(math.Ceil(s.duration.Seconds()*s.rate - 1e-9))
}

// runOpenLoop offers each call when it is due, until ctx is done. Slow responses and late offers do
// not shift the schedule: overdue calls are offered immediately.
func (s *schedule) runOpenLoop(ctx context.Context, offer func(i int, due time.Duration)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for i := range s.count() {
		due := s.due(i)
		if wait := due - time.Since(s.start); wait > 0 {
			if s.idle != nil {
				s.idle()
			}
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		} else if i%64 == 0 && ctx.Err() != nil {
			return
		}
		offer(i, due)
	}
}

// runClosedLoop keeps inFlight calls in flight until the duration has passed, the limit is reached or
// ctx is done. The next call is due when one ends.
func (s *schedule) runClosedLoop(ctx context.Context, inFlight int, call func(next func() (i int, due time.Duration, more bool))) {
	var mu sync.Mutex
	count := 0
	next := func() (int, time.Duration, bool) {
		due := time.Since(s.start)
		if s.limit == 0 && due >= s.duration || ctx.Err() != nil {
			return 0, 0, false
		}
		mu.Lock()
		defer mu.Unlock()
		if s.limit > 0 && count == s.limit {
			return 0, 0, false
		}
		count++
		return count - 1, due, true
	}
	var callers sync.WaitGroup
	for range inFlight {
		callers.Go(func() { call(next) })
	}
	callers.Wait()
}
