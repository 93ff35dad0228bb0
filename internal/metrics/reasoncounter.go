// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxReasons is the maximum number of series of a reasonCounter. The providers have far fewer
// reasons; the limit protects against a provider whose reasons are not from a fixed set.
const maxReasons = 128

// otherReason replaces the reasons beyond maxReasons.
const otherReason = "other"

// reasonCounter counts by value and reason. Counting an existing combination takes no lock and does
// not allocate.
type reasonCounter struct {
	counters atomic.Pointer[map[reasonKey]prometheus.Counter]

	mu  sync.Mutex // guards the replacement of counters
	vec *prometheus.CounterVec
}

type reasonKey struct{ value, reason string }

// init sets vec, whose last two labels are the value and the reason. The series of initial starts
// at zero.
func (r *reasonCounter) init(vec *prometheus.CounterVec, initial string) {
	r.vec = vec
	r.counters.Store(&map[reasonKey]prometheus.Counter{})
	r.getOrCreate(reasonKey{initial, ""})
}

func (r *reasonCounter) add(value, reason string) {
	key := reasonKey{value, reason}
	c, ok := (*r.counters.Load())[key]
	if !ok {
		c = r.getOrCreate(key)
	}
	c.Inc()
}

// getOrCreate returns the counter of key and creates it if it is new.
func (r *reasonCounter) getOrCreate(key reasonKey) prometheus.Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	counters := *r.counters.Load()
	if c, ok := counters[key]; ok {
		return c
	}
	if len(counters) >= maxReasons {
		return r.vec.WithLabelValues(key.value, otherReason)
	}
	c := r.vec.WithLabelValues(key.value, key.reason)
	counters = maps.Clone(counters)
	counters[key] = c
	r.counters.Store(&counters)
	return c
}
