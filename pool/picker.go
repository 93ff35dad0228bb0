// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"math"
	"math/rand/v2"
)

// Picker chooses one of the candidates. There is at least one, and all of them may be used: the
// pool has already removed endpoints that are tried, ejected or at their limit. Pick is called
// concurrently and must not retain the slice.
type Picker interface {
	Pick(candidates []*Endpoint) *Endpoint
}

// SnapshotPicker is a Picker that also needs to see the endpoints that it cannot pick at the
// moment. UpdateEndpoints receives all members and all addresses that the resolver returned. It is
// called from one goroutine, every second and after every change of membership or health. It must
// not retain the slice.
type SnapshotPicker interface {
	Picker
	UpdateEndpoints(all []*Endpoint)
}

// maxSample is how many candidates the pickers of this package get at most while no probe is needed
// and there is no panic mode: each pick gets others, in turn. Its cost does then not depend on the
// size of the pool.
const maxSample = 8

// RoundRobin picks the endpoint that was picked least recently. With changing candidates, as
// retries cause them, it stays even, unlike a counter modulo the number of candidates.
type RoundRobin struct{}

// LeastLoaded picks two endpoints at random and uses the one with fewer outstanding leases
// (Mitzenmacher, The Power of Two Choices, 2001). It moves load away from a slow endpoint before
// the endpoint is ejected.
type LeastLoaded struct{}

// BoundedRoundRobin picks like RoundRobin, but skips endpoints with more than 2n+4 outstanding
// leases, where n is the number of leases of the least loaded candidate. Healthy endpoints get
// equal load to within one request, unlike with LeastLoaded. A slow or silent endpoint gets new
// requests only as it responds.
type BoundedRoundRobin struct{}

var (
	_ Picker = RoundRobin{}
	_ Picker = LeastLoaded{}
	_ Picker = BoundedRoundRobin{}
)

// Pick returns the endpoint that was picked least recently.
func (RoundRobin) Pick(candidates []*Endpoint) *Endpoint {
	return leastRecentlyPicked(candidates, math.MaxInt)
}

// leastRecentlyPicked returns the endpoint that was picked least recently among those with at most
// maxInFlight leases, or the first candidate if there is none. It starts again if a concurrent Pick
// took the same endpoint.
func leastRecentlyPicked(candidates []*Endpoint, maxInFlight int) *Endpoint {
	for {
		found, turn := candidates[0], uint64(math.MaxUint64)
		for _, e := range candidates {
			if t := e.lastTurn.Load(); t < turn && e.InFlight() <= maxInFlight {
				found, turn = e, t
			}
		}
		if turn == math.MaxUint64 || found.lastTurn.CompareAndSwap(turn, found.pool.turns.Add(1)) {
			return found
		}
	}
}

// Pick returns the least recently picked endpoint whose load is within the bound.
func (BoundedRoundRobin) Pick(candidates []*Endpoint) *Endpoint {
	minInFlight := candidates[0].InFlight()
	for _, e := range candidates[1:] {
		minInFlight = min(minInFlight, e.InFlight())
	}
	return leastRecentlyPicked(candidates, 2*minInFlight+4)
}

// Pick compares two different candidates.
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
