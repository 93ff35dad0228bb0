// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"math"
	"math/rand/v2"
)

// Picker chooses one of the candidates, of which there is at least one and all
// may be used: the pool has left out what is tried, ejected or full. It is
// called by many goroutines at once and must not keep the slice.
type Picker interface {
	Pick(candidates []*Endpoint) *Endpoint
}

// SnapshotPicker is a Picker that wants to know the whole pool, and not only whom it
// may pick. Survey is told of all endpoints that have a place or that the
// resolver names, each second and whenever one of them has joined, left,
// failed or healed; by one goroutine, and it must not keep the slice.
type SnapshotPicker interface {
	Picker
	UpdateEndpoints(all []*Endpoint)
}

// RoundRobin picks the endpoint whose last turn is longest ago. While the
// candidates stay the same that is plain round robin; when they differ from
// one Pick to the next, as they do with retries, it is still even, which
// counting modulo their number is not.
type RoundRobin struct{}

// LeastLoaded picks, of two endpoints drawn by lot, the one with fewer leases
// out. It moves load away from an endpoint that is slow before anybody ejects
// it (Mitzenmacher, The Power of Two Choices, 2001).
type LeastLoaded struct{}

// BoundedRoundRobin picks like RoundRobin among those that keep up: an endpoint with more
// leases out than twice those of the least busy candidate and four is passed
// over until it has caught up. While all is well each endpoint so gets the same
// to within one, which two drawn by lot do not; one that is slow, or silent and
// not yet found out, gets no more than its answers make room for.
type BoundedRoundRobin struct{}

var (
	_ Picker = RoundRobin{}
	_ Picker = LeastLoaded{}
	_ Picker = BoundedRoundRobin{}
)

// Pick takes the oldest turn.
func (RoundRobin) Pick(candidates []*Endpoint) *Endpoint {
	return leastRecentlyPicked(candidates, math.MaxInt)
}

// leastRecentlyPicked takes the oldest turn of those that have at most so many leases out, or
// just anybody if nobody has so few any more. A concurrent Pick that took the
// turn first makes it look again, so that no turn is given twice.
func leastRecentlyPicked(candidates []*Endpoint, most int) *Endpoint {
	for {
		found, turn := candidates[0], uint64(math.MaxUint64)
		for _, e := range candidates {
			if t := e.lastTurn.Load(); t < turn && e.InFlight() <= most {
				found, turn = e, t
			}
		}
		if turn == math.MaxUint64 || found.lastTurn.CompareAndSwap(turn, found.turnCounter.Add(1)) {
			return found
		}
	}
}

// Pick takes the oldest turn of those that keep up.
func (BoundedRoundRobin) Pick(candidates []*Endpoint) *Endpoint {
	least := candidates[0].InFlight()
	for _, e := range candidates[1:] {
		least = min(least, e.InFlight())
	}
	return leastRecentlyPicked(candidates, 2*least+4)
}

// Pick draws two different candidates.
func (LeastLoaded) Pick(candidates []*Endpoint) *Endpoint {
	n := len(candidates)
	if n == 1 {
		return candidates[0]
	}
	i, j := rand.IntN(n), rand.IntN(n-1)
	if j >= i {
		j++
	}
	if candidates[j].InFlight() < candidates[i].InFlight() {
		return candidates[j]
	}
	return candidates[i]
}
