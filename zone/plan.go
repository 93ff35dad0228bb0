// SPDX-License-Identifier: Apache-2.0

package zone

import "slices"

const (
	// overprovision is how much more than its share a zone's endpoints are taken to bear: with 5 of 7 healthy it still
	// bears all of its own (Envoy's overprovisioning factor).
	overprovision = 1.4
	// panicBelow is the share of healthy endpoints below which zones count no more: to keep near would bury the few that
	// are left (Envoy's panic threshold).
	panicBelow = 0.5
)

// standing is how a zone stands.
type standing struct {
	name    string
	all     int     // endpoints that there are
	healthy int     // of these
	bears   float64 // of its own load, from 0 to 1: what its healthy endpoints can, held back while it returns
}

// canBear is the share of its own load that a zone's healthy endpoints can take.
func (s standing) canBear() float64 {
	return min(1, overprovision*float64(s.healthy)/float64(s.all))
}

// overflow is what it cannot bear of its own, in endpoints' loads.
func (s standing) overflow() float64 { return float64(s.all) * (1 - s.bears) }

// residual is what it can take of others.
func (s standing) residual() float64 {
	if s.bears < 1 {
		return 0
	}
	return max(0, overprovision*float64(s.healthy)-float64(s.all))
}

// capacity is what its endpoints are worth when all of them have to take more than they should: less than their number
// only while it returns.
func (s standing) capacity() float64 {
	if s.healthy == 0 {
		return 0
	}
	return float64(s.healthy) * s.bears / s.canBear()
}

// plan is where the callers of one zone send, as shares that add up to 1; nil sends everywhere, as if there were no zones.
//
// It is Envoy's rule for zone-aware routing. Envoy knows how many callers each zone has; here they are taken to be spread
// as the endpoints are, so that each zone's own load is one per endpoint. Home keeps what it bears. What the zones cannot
// bear goes to the others in proportion to their residual capacity. What is more than all of that is spread over
// everybody, home too, in proportion to what is healthy. So, with every zone following its own plan, no healthy endpoint
// gets more than 1.4 times its load, or than all endpoints get if the load cannot be had for less.
func plan(home string, zones []standing) map[string]float64 {
	at := slices.IndexFunc(zones, func(z standing) bool { return z.name == home })
	var all, healthy int
	var overflow, residual, capacity float64
	for _, z := range zones {
		all += z.all
		healthy += z.healthy
		overflow += z.overflow()
		residual += z.residual()
		capacity += z.capacity()
	}
	if at < 0 || float64(healthy) < panicBelow*float64(all) || capacity == 0 {
		return nil
	}
	shares := map[string]float64{home: zones[at].bears}
	leaving := 1 - zones[at].bears
	if leaving == 0 {
		return shares
	}
	fits := min(1, residual/overflow) // of what overflows
	for _, z := range zones {
		if residual > 0 {
			shares[z.name] += leaving * fits * z.residual() / residual
		}
		shares[z.name] += leaving * (1 - fits) * z.capacity() / capacity
	}
	return shares
}
