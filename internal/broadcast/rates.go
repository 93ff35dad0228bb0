// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"sync"
	"time"
)

// rates measures how many notifications of broadcasts end in a minute.
type rates struct {
	mu      sync.Mutex
	samples map[string][]sample // of the last minute, by ID
}

// sample is how many had ended at a time.
type sample struct {
	at    time.Time
	ended uint64
}

// add adds a sample of a broadcast that is being sent.
func (r *rates) add(id string, ended uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.samples == nil {
		r.samples = map[string][]sample{}
	}
	all := append(r.samples[id], sample{now, ended})
	for len(all) > 1 && now.Sub(all[0].at) > time.Minute {
		all = all[1:]
	}
	r.samples[id] = all
}

// forget forgets a broadcast that is not being sent.
func (r *rates) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.samples, id)
}

// perMinute returns the rate, or 0 if it is not known yet.
func (r *rates) perMinute(id string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.samples[id]
	if len(all) < 2 {
		return 0
	}
	first, last := all[0], all[len(all)-1]
	took := last.at.Sub(first.at)
	if took <= 0 || last.ended < first.ended {
		return 0
	}
	return uint64(float64(last.ended-first.ended) / took.Minutes())
}
