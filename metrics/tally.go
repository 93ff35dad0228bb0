// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// mostReasons bounds the series of a tally. The providers' tables hold far fewer reasons; the bound is for a provider that
// breaks the rule that they come from a closed set.
const mostReasons = 128

// otherReason stands in for those beyond the bound.
const otherReason = "other"

// tally counts by a word and a reason. Who counts what was counted before takes no lock and allocates nothing.
type tally struct {
	known atomic.Pointer[map[pair]prometheus.Counter]

	mu  sync.Mutex // guards changes of known
	vec *prometheus.CounterVec
}

type pair struct{ word, reason string }

// init makes a tally of vec, whose last two labels are the word and the reason. The word that is hoped for begins at zero.
func (t *tally) init(vec *prometheus.CounterVec, hoped string) {
	t.vec = vec
	t.known.Store(&map[pair]prometheus.Counter{})
	t.meet(pair{hoped, ""})
}

func (t *tally) add(word, reason string) {
	p := pair{word, reason}
	c, ok := (*t.known.Load())[p]
	if !ok {
		c = t.meet(p)
	}
	c.Inc()
}

// meet returns the counter of a pair that was not known when the caller looked.
func (t *tally) meet(p pair) prometheus.Counter {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.known.Load()
	if c, ok := known[p]; ok {
		return c
	}
	if len(known) >= mostReasons {
		return t.vec.WithLabelValues(p.word, otherReason)
	}
	c := t.vec.WithLabelValues(p.word, p.reason)
	known = maps.Clone(known)
	known[p] = c
	t.known.Store(&known)
	return c
}
