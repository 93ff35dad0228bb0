// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxReasons bounds the series of a tally. The providers' tables hold far fewer reasons; the bound is for a provider that
// breaks the rule that they come from a closed set.
const maxReasons = 128

// otherReason stands in for those beyond the bound.
const otherReason = "other"

// reasonCounter counts by a word and a reason. Who counts what was counted before takes no lock and allocates nothing.
type reasonCounter struct {
	counters atomic.Pointer[map[reasonKey]prometheus.Counter]

	mu  sync.Mutex // guards changes of known
	vec *prometheus.CounterVec
}

type reasonKey struct{ value, reason string }

// init makes a tally of vec, whose last two labels are the word and the reason. The word that is hoped for begins at zero.
func (t *reasonCounter) init(vec *prometheus.CounterVec, hoped string) {
	t.vec = vec
	t.counters.Store(&map[reasonKey]prometheus.Counter{})
	t.getOrCreate(reasonKey{hoped, ""})
}

func (t *reasonCounter) add(word, reason string) {
	p := reasonKey{word, reason}
	c, ok := (*t.counters.Load())[p]
	if !ok {
		c = t.getOrCreate(p)
	}
	c.Inc()
}

// getOrCreate returns the counter of a pair that was not known when the caller looked.
func (t *reasonCounter) getOrCreate(p reasonKey) prometheus.Counter {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.counters.Load()
	if c, ok := known[p]; ok {
		return c
	}
	if len(known) >= maxReasons {
		return t.vec.WithLabelValues(p.value, otherReason)
	}
	c := t.vec.WithLabelValues(p.value, p.reason)
	known = maps.Clone(known)
	known[p] = c
	t.counters.Store(&known)
	return c
}
