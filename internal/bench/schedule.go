// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"math"
	"sync"
	"time"
)

// group is goroutines that somebody waits for.
type group = sync.WaitGroup

// schedule says when calls are due.
type schedule struct {
	start    time.Time
	duration time.Duration // since then: nothing is due from there on
	rate     float64       // of calls in a second; 0 in a closed loop
}

// due is when call i is due, counted from the beginning. It is computed anew for each, so that no error adds up.
func (s *schedule) due(i int) time.Duration {
	return time.Duration(float64(i) / s.rate * float64(time.Second))
}

// count is how many are due before the end.
func (s *schedule) count() int { return int(math.Ceil(s.duration.Seconds()*s.rate - 1e-9)) }

// runOpenLoop offers every call at its time until ctx ends. Neither a slow answer nor an offer that comes late moves the next
// one's time: what was missed is offered at once, as late as it is.
func (s *schedule) runOpenLoop(ctx context.Context, offer func(i int, due time.Duration)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for i := range s.count() {
		due := s.due(i)
		if left := due - time.Since(s.start); left > 0 {
			timer.Reset(left)
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

// runClosedLoop keeps so many calls in flight until the end, or until ctx ends: the next is due when one has ended.
func (s *schedule) runClosedLoop(ctx context.Context, inFlight int, call func(next func() (i int, due time.Duration, more bool))) {
	var mu sync.Mutex
	made := 0
	next := func() (int, time.Duration, bool) {
		due := time.Since(s.start)
		if due >= s.duration || ctx.Err() != nil {
			return 0, 0, false
		}
		mu.Lock()
		defer mu.Unlock()
		made++
		return made - 1, due, true
	}
	var callers group
	for range inFlight {
		callers.Go(func() { call(next) })
	}
	callers.Wait()
}
