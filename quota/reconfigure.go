// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"slices"
	"time"
)

// Names of the scopes in Demand and SetShare. The name of an operator's scope is prefixed with
// "own/".
const (
	Total          = "total"
	Topics         = "topics"
	operatorPrefix = "own/"
)

// shareConfig holds the arguments of the last SetShare. The zero value is the whole limit.
type shareConfig struct {
	fractions map[string]float64 // nil: not shared
	until     time.Time
	fallback  float64
}

// fraction is the fraction of a limit that this gateway may use. The zero value is the whole limit.
type fraction struct {
	shared            bool
	current, fallback float64
	until             time.Time // when current becomes fallback; zero: never
}

// of returns the fraction of the named scope.
func (s *shareConfig) of(name string, now time.Time) fraction {
	f := fraction{shared: s.fractions != nil, current: s.fallback, fallback: s.fallback}
	if current, ok := s.fractions[name]; ok && s.until.After(now) {
		f.current, f.until = current, s.until
	}
	return f
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
	l.targets.cfg.Store(&cfg)
	l.total.reconfigure(cfg.Total, cfg.Weights)
	old := slices.Clone(l.scopes())
	var next []scope
	if cfg.Topics.Rate > 0 {
		next = append(next, scope{Scope: Scope{Name: Topics, Limit: cfg.Topics}, key: Topics})
	}
	for _, s := range cfg.Scopes {
		next = append(next, scope{Scope: s, key: operatorPrefix + s.Name})
	}
	for i := range next {
		s := &next[i]
		if k := slices.IndexFunc(old, func(o scope) bool { return o.key == s.key }); k >= 0 {
			s.limiter, old = old[k].limiter, slices.Delete(old, k, k+1)
		} else {
			s.limiter = &scopeLimiter{}
			s.limiter.setShare(&l.share, s.key)
		}
		s.limiter.reconfigure(s.Limit, cfg.Weights)
	}
	l.scopeList.Store(&next)
	for _, removed := range old {
		removed.limiter.reconfigure(Limit{}, cfg.Weights)
	}
}

// SetShare limits the RateLimiter to a fraction, from 0 to 1, of each shared limit, also for waiting
// notifications. From until on, by the local clock, and for scopes that are not named, the fraction
// is fallback; no message from other gateways is needed. Fractions apply to the rate and to the
// burst, which is at least 1 unless the fraction is 0. Before the first call the fraction is 1.
// Limits of single devices and topics are not shared.
func (l *RateLimiter) SetShare(fractions map[string]float64, until time.Time, fallback float64) {
	if fractions == nil {
		fractions = map[string]float64{}
	}
	l.configMu.Lock()
	defer l.configMu.Unlock()
	l.share = shareConfig{fractions, until, fallback}
	l.total.setShare(&l.share, Total)
	for _, s := range l.scopes() {
		s.limiter.setShare(&l.share, s.key)
	}
}

// Demand returns the current demand for each shared limit as a fraction of it: what was allowed and
// rejected within a second, and what is queued. It can exceed 1.
func (l *RateLimiter) Demand() map[string]float64 {
	demand := make(map[string]float64)
	l.total.addDemand(demand, Total)
	for _, s := range l.scopes() {
		s.limiter.addDemand(demand, s.key)
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
	l.armTimer(now)
}

func (l *scopeLimiter) setShare(s *shareConfig, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.aimd.bucketAt(now, now)
	l.aimd.fraction = s.of(name, now)
	l.aimd.bucketAt(now, now)
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
