// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
)

const (
	// A service that refuses minRefusedDevices different devices within detectWindow, and
	// minRefusedFraction of all attempts in it, limits the sender and not the devices.
	minRefusedDevices  = 20
	minRefusedFraction = 0.05
	detectWindow       = time.Minute

	// serviceLimitTime is how long the limit of a service applies after the last refusal. Chrome's
	// shortest limit takes a day ("Increasing web push notification value with rate limits", read
	// 2026-11-22).
	serviceLimitTime = 24 * time.Hour
)

// serviceScope is the scope of everything that is sent to one of several services. It sets no limit
// until the service refuses the sender.
type serviceScope struct {
	limit      Limit // applies after a refusal; the zero value means that the rate is learned
	limiter    scopeLimiter
	active     atomic.Bool  // refused before
	limitUntil atomic.Int64 // Unix nanoseconds; 0: limit does not apply

	mu          sync.Mutex
	windowStart time.Time
	attempts    int
	refusals    int
	refused     map[uint64]struct{} // devices, at most minRefusedDevices
}

// Service returns a RateLimiter for the notifications to one of several services with quotas of
// their own, such as the push services of browsers. It shares all limits of l, which must not
// itself be the result of Service. In addition, it has a scope for everything that is sent to the
// service. A refusal of the credential or the project closes that scope and not the total. Refusals of
// many different devices within a minute close it too: the service then limits the sender. For a day
// after a refusal, the scope has the given limit; the zero Limit means that the rate is learned.
func (l *RateLimiter) Service(limit Limit) *RateLimiter {
	s := &serviceScope{limit: limit, refused: map[uint64]struct{}{}}
	s.limiter.aimd.learnsRate = true
	return &RateLimiter{limits: l.limits, service: s}
}

// activeLimiter returns the limiter, or nil if the service has not refused the sender yet.
func (s *serviceScope) activeLimiter() *scopeLimiter {
	if s == nil || !s.active.Load() {
		return nil
	}
	if until := s.limitUntil.Load(); until != 0 && time.Now().UnixNano() >= until && s.limitUntil.CompareAndSwap(until, 0) {
		s.limiter.reconfigure(Limit{}, nil)
	}
	return &s.limiter
}

// recordAttempt counts an attempt to a device. It returns true if the service has refused the
// attempt, and many to other devices.
func (s *serviceScope) recordAttempt(device uint64, verdict push.Verdict) bool {
	switch verdict {
	case push.Accepted, push.Throttled, push.Unregistered, push.Refused:
	default:
		return false // the service did not decide
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.windowStart) >= detectWindow {
		s.windowStart, s.attempts, s.refusals = now, 0, 0
		clear(s.refused)
	}
	s.attempts++
	if verdict != push.Throttled {
		return false
	}
	s.refusals++
	if len(s.refused) < minRefusedDevices {
		s.refused[device] = struct{}{}
	}
	return len(s.refused) == minRefusedDevices && float64(s.refusals) >= minRefusedFraction*float64(s.attempts)
}

// recordRefusal closes the scope and lowers its rate. It returns true if the scope was open.
func (s *serviceScope) recordRefusal(wait time.Duration) bool {
	if s.limit.Rate > 0 {
		s.limitUntil.Store(time.Now().Add(serviceLimitTime).UnixNano())
		s.limiter.reconfigure(s.limit, nil)
	}
	s.active.Store(true)
	return s.limiter.applyRefusal((*aimdLimiter).recordRefusal, wait)
}
