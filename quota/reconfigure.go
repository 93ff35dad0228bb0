// SPDX-License-Identifier: Apache-2.0

package quota

import "time"

// Names of the scopes in Demand and SetShare. The name of an operator's scope is prefixed with
// "own/".
const (
	Total          = "total"
	Topics         = "topics"
	operatorPrefix = "own/"
)

// shareConfig holds the arguments of the last SetShare.
type shareConfig struct {
	fractions map[string]float64
	until     time.Time
	fallback  float64
}

// fraction is the fraction of a limit that this gateway may use. The zero value is the whole limit.
type fraction struct {
	shared            bool
	current, fallback float64
	until             time.Time // when current becomes fallback; zero: never
}

// expire replaces current with fallback if the fraction has expired at the given time. It returns
// true once, with the time of the expiry.
func (f *fraction) expire(at time.Time) (until time.Time, expired bool) {
	if f.until.IsZero() || at.Before(f.until) {
		return time.Time{}, false
	}
	until = f.until
	f.current, f.until = f.fallback, time.Time{}
	return until, true
}

// Reconfigure replaces the configuration, also for waiting notifications. Buckets keep their tokens
// up to their new size, and rates learned from refusals are kept. Over any interval, at most what
// the old and the new limits allow in their parts of it, plus one burst, is allowed. Notifications
// that wait in a removed scope continue with the next one.
func (l *RateLimiter) Reconfigure(cfg Config) {
	l.configMu.Lock()
	defer l.configMu.Unlock()
	l.weights = cfg.Weights
	l.targets.cfg.Store(&cfg)
	l.total.reconfigure(cfg.Total, cfg.Weights)
	old, next := l.scopes.Load(), &scopeSet{}
	if cfg.Topics.Rate > 0 {
		next.topics = l.reuseOrNew(old.topics, Topics)
		next.topics.reconfigure(cfg.Topics, cfg.Weights)
	}
	for _, s := range cfg.Scopes {
		limiter := l.reuseOrNew(old.find(s.Name, next), operatorPrefix+s.Name)
		limiter.reconfigure(s.Limit, cfg.Weights)
		next.operator = append(next.operator, operatorScope{s, limiter})
	}
	l.scopes.Store(next)
	for _, limiter := range old.notIn(next) {
		limiter.reconfigure(Limit{}, cfg.Weights)
	}
}

// reuseOrNew returns limiter or, if it is nil, a new one with the current share. l.configMu is
// held.
func (l *RateLimiter) reuseOrNew(limiter *scopeLimiter, name string) *scopeLimiter {
	if limiter == nil {
		limiter = &scopeLimiter{}
		if l.share != nil {
			limiter.setShare(l.share, name)
		}
	}
	return limiter
}

// find returns the limiter of the operator's scope with that name, or nil if there is none that is
// not in other.
func (s *scopeSet) find(name string, other *scopeSet) *scopeLimiter {
	for _, o := range s.operator {
		if o.Name == name && !other.contains(o.limiter) {
			return o.limiter
		}
	}
	return nil
}

func (s *scopeSet) contains(l *scopeLimiter) bool {
	for _, o := range s.operator {
		if o.limiter == l {
			return true
		}
	}
	return s.topics == l
}

// notIn returns the limiters that next does not contain.
func (s *scopeSet) notIn(next *scopeSet) (removed []*scopeLimiter) {
	for _, l := range s.limiters() {
		if !next.contains(l) {
			removed = append(removed, l)
		}
	}
	return removed
}

func (s *scopeSet) limiters() (limiters []*scopeLimiter) {
	if s.topics != nil {
		limiters = append(limiters, s.topics)
	}
	for _, o := range s.operator {
		limiters = append(limiters, o.limiter)
	}
	return limiters
}

// SetShare limits the RateLimiter to a fraction, from 0 to 1, of each shared limit, also for waiting
// notifications. From until on, by the local clock, and for scopes that are not named, the fraction
// is fallback; no message from other gateways is needed. Fractions apply to the rate and to the
// burst, which is at least 1 unless the fraction is 0. Before the first call the fraction is 1.
// Limits of single devices and topics are not shared.
func (l *RateLimiter) SetShare(fractions map[string]float64, until time.Time, fallback float64) {
	l.configMu.Lock()
	defer l.configMu.Unlock()
	l.share = &shareConfig{fractions, until, fallback}
	l.total.setShare(l.share, Total)
	scopes := l.scopes.Load()
	if scopes.topics != nil {
		scopes.topics.setShare(l.share, Topics)
	}
	for _, o := range scopes.operator {
		o.limiter.setShare(l.share, operatorPrefix+o.Name)
	}
}

// Demand returns the current demand for each shared limit as a fraction of it: what was allowed and
// rejected within a second, and what is queued. It can exceed 1.
func (l *RateLimiter) Demand() map[string]float64 {
	scopes := l.scopes.Load()
	demand := make(map[string]float64)
	l.total.addDemand(demand, Total)
	if scopes.topics != nil {
		scopes.topics.addDemand(demand, Topics)
	}
	for _, o := range scopes.operator {
		o.limiter.addDemand(demand, operatorPrefix+o.Name)
	}
	return demand
}

// reconfigure replaces the limit and the weights.
func (l *scopeLimiter) reconfigure(limit Limit, weights map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.aimd.setLimit(now, limit)
	l.weights = weights
	l.queue.SetWeights(func(app string) int { return weights[app] })
	l.resetTimer(now)
}

func (l *scopeLimiter) setShare(s *shareConfig, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.aimd.bucketAt(now, now)
	f := fraction{shared: true, current: s.fallback, fallback: s.fallback}
	if current, ok := s.fractions[name]; ok && s.until.After(now) {
		f.current, f.until = current, s.until
	}
	l.aimd.fraction = f
	l.aimd.bucketAt(now, now)
	l.resetTimer(now)
}

// resetTimer sets the timer again after a change of the rate. l.mu is held.
func (l *scopeLimiter) resetTimer(now time.Time) {
	l.armed = false
	l.armTimer(now)
}

func (l *scopeLimiter) addDemand(demand map[string]float64, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.aimd.limit.Rate == 0 {
		return
	}
	now := time.Now()
	perSecond := l.aimd.passed.perSecond(now) + l.rejected.perSecond(now) + float64(l.queue.Len())
	demand[name] = max(demand[name], perSecond/l.aimd.limit.Rate)
}

// scaledBurst returns the share of a burst: at least 1 unless the share is 0.
func scaledBurst(share float64, burst int) int {
	if share == 0 {
		return 0
	}
	return max(1, int(share*float64(burst)))
}
