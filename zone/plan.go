// SPDX-License-Identifier: Apache-2.0

package zone

import "slices"

const (
	// overprovisioningFactor is the load that a healthy endpoint can take, relative to its normal
	// load: with 5 of 7 endpoints healthy a zone still takes all of its own load. Envoy uses the
	// same factor.
	overprovisioningFactor = 1.4
	// panicThreshold is the fraction of healthy endpoints below which zones are ignored: preferring
	// a zone would overload the endpoints that are left. Envoy uses the same threshold.
	panicThreshold = 0.5
)

// health is the state of a zone.
type health struct {
	name       string
	total      int     // endpoints
	healthy    int     // healthy endpoints
	localShare float64 // fraction of the zone's own load that it takes now, from 0 to 1
}

// maxLocalShare returns the fraction of the zone's own load that its healthy endpoints can take.
func (h health) maxLocalShare() float64 {
	return min(1, overprovisioningFactor*float64(h.healthy)/float64(h.total))
}

// overflow returns the part of its own load that the zone does not take, in units of one endpoint's
// load.
func (h health) overflow() float64 { return float64(h.total) * (1 - h.localShare) }

// residualCapacity returns the load of other zones that the zone can take, in units of one
// endpoint's load.
func (h health) residualCapacity() float64 {
	if h.localShare < 1 {
		return 0
	}
	return max(0, overprovisioningFactor*float64(h.healthy)-float64(h.total))
}

// capacity returns the zone's weight when all zones have to take more than they should: the number
// of healthy endpoints, reduced while the zone recovers.
func (h health) capacity() float64 {
	if h.healthy == 0 {
		return 0
	}
	return float64(h.healthy) * h.localShare / h.maxLocalShare()
}

// plan returns the shares of the zones in the traffic of callers in home. The shares add up to 1. A
// nil plan means that zones are ignored.
//
// It is Envoy's algorithm for zone-aware routing. Envoy knows the number of callers in each zone;
// plan assumes that callers are distributed like endpoints, so that the normal load of a zone is
// one unit per endpoint. home keeps what it can take. The overflow of all zones goes to the other
// zones in proportion to their residual capacity. What exceeds the residual capacity is spread over
// all zones in proportion to their capacity. If every zone follows its plan, no healthy endpoint
// gets more than max(1.4, total/healthy) times its normal load.
func plan(home string, zones []health) map[string]float64 {
	homeIndex := slices.IndexFunc(zones, func(z health) bool { return z.name == home })
	var total, healthy int
	var overflow, residual, capacity float64
	for _, z := range zones {
		total += z.total
		healthy += z.healthy
		overflow += z.overflow()
		residual += z.residualCapacity()
		capacity += z.capacity()
	}
	if homeIndex < 0 || float64(healthy) < panicThreshold*float64(total) || capacity == 0 {
		return nil
	}
	shares := map[string]float64{home: zones[homeIndex].localShare}
	leaving := 1 - zones[homeIndex].localShare
	if leaving == 0 {
		return shares
	}
	fits := min(1, residual/overflow) // fraction of the overflow that fits the residual capacity
	for _, z := range zones {
		if residual > 0 {
			shares[z.name] += leaving * fits * z.residualCapacity() / residual
		}
		shares[z.name] += leaving * (1 - fits) * z.capacity() / capacity
	}
	return shares
}
