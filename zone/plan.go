// SPDX-License-Identifier: Apache-2.0

package zone

import "slices"

const (
	// overprovisioningFactor is how much more than its share a zone's endpoints are taken to bear: with 5 of 7 healthy it still
	// bears all of its own (Envoy's overprovisioning factor).
	overprovisioningFactor = 1.4
	// panicThreshold is the share of healthy endpoints below which zones count no more: to keep near would bury the few that
	// are left (Envoy's panic threshold).
	panicThreshold = 0.5
)

// health is how a zone stands.
type health struct {
	name       string
	total      int     // endpoints that there are
	healthy    int     // of these
	localShare float64 // of its own load, from 0 to 1: what its healthy endpoints can, held back while it returns
}

// maxLocalShare is the share of its own load that a zone's healthy endpoints can take.
func (s health) maxLocalShare() float64 {
	return min(1, overprovisioningFactor*float64(s.healthy)/float64(s.total))
}

// overflow is what it cannot bear of its own, in endpoints' loads.
func (s health) overflow() float64 { return float64(s.total) * (1 - s.localShare) }

// residualCapacity is what it can take of others.
func (s health) residualCapacity() float64 {
	if s.localShare < 1 {
		return 0
	}
	return max(0, overprovisioningFactor*float64(s.healthy)-float64(s.total))
}

// capacity is what its endpoints are worth when all of them have to take more than they should: less than their number
// only while it returns.
func (s health) capacity() float64 {
	if s.healthy == 0 {
		return 0
	}
	return float64(s.healthy) * s.localShare / s.maxLocalShare()
}

// plan is where the callers of one zone send, as shares that add up to 1; nil sends everywhere, as if there were no zones.
//
// It is Envoy's rule for zone-aware routing. Envoy knows how many callers each zone has; here they are taken to be spread
// as the endpoints are, so that each zone's own load is one per endpoint. Home keeps what it bears. What the zones cannot
// bear goes to the others in proportion to their residual capacity. What is more than all of that is spread over
// everybody, home too, in proportion to what is healthy. So, with every zone following its own plan, no healthy endpoint
// gets more than 1.4 times its load, or than all endpoints get if the load cannot be had for less.
func plan(home string, zones []health) map[string]float64 {
	at := slices.IndexFunc(zones, func(z health) bool { return z.name == home })
	var all, healthy int
	var overflow, residual, capacity float64
	for _, z := range zones {
		all += z.total
		healthy += z.healthy
		overflow += z.overflow()
		residual += z.residualCapacity()
		capacity += z.capacity()
	}
	if at < 0 || float64(healthy) < panicThreshold*float64(all) || capacity == 0 {
		return nil
	}
	shares := map[string]float64{home: zones[at].localShare}
	leaving := 1 - zones[at].localShare
	if leaving == 0 {
		return shares
	}
	fits := min(1, residual/overflow) // of what overflows
	for _, z := range zones {
		if residual > 0 {
			shares[z.name] += leaving * fits * z.residualCapacity() / residual
		}
		shares[z.name] += leaving * (1 - fits) * z.capacity() / capacity
	}
	return shares
}
