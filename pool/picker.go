// SPDX-License-Identifier: Apache-2.0

package pool

import "math/rand/v2"

// Picker chooses one of the candidates, of which there is at least one and all
// may be used: the pool has left out what is tried, ejected or full. It is
// called by many goroutines at once and must not keep the slice.
type Picker interface {
	Pick(candidates []*Endpoint) *Endpoint
}

// Surveyor is a Picker that wants to know the whole pool, and not only whom it
// may pick. Survey is told of all endpoints that have a place or that the
// resolver names, each second and whenever one of them has joined, left,
// failed or healed; by one goroutine, and it must not keep the slice.
type Surveyor interface {
	Picker
	Survey(all []*Endpoint)
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

var (
	_ Picker = RoundRobin{}
	_ Picker = LeastLoaded{}
)

// Pick takes the oldest turn. A concurrent Pick that took it first makes it
// look again, so that no turn is given twice.
func (RoundRobin) Pick(candidates []*Endpoint) *Endpoint {
	for {
		oldest, turn := candidates[0], candidates[0].turn.Load()
		for _, e := range candidates[1:] {
			if t := e.turn.Load(); t < turn {
				oldest, turn = e, t
			}
		}
		if oldest.turn.CompareAndSwap(turn, oldest.turns.Add(1)) {
			return oldest
		}
	}
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
