// SPDX-License-Identifier: Apache-2.0

// Package zone keeps traffic in the caller's zone. Its picker prefers endpoints of the home zone
// while they can take the load and distributes the rest over the other zones. It does not filter
// endpoints: the pool has already removed those that are ejected, full or tried.
package zone

import (
	"math"
	"sync"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// recoveryRamp is the time in which a recovering zone goes from no load to its full load. The share
// changes only at updates, about once a second. From its first call to 95 % of its load the zone
// therefore takes one to two seconds less than this. A zone whose gateways were cut off from the
// provider too reconnects during the first seconds, and its load there grows faster: at least ten
// seconds should be left of the ramp then.
const recoveryRamp = 14 * time.Second

// Prefer returns a picker that chooses a zone and lets next choose among its endpoints. The home
// zone gets all traffic while at least 5 of 7 of its endpoints are healthy. Otherwise its overflow
// goes to the other zones in proportion to their residual capacity. A recovering zone takes up its
// load over fourteen seconds. If less than half of all endpoints are healthy, zones are ignored. If the
// chosen zone has no candidate, another zone is used. With an empty home, Prefer returns next.
func Prefer(home string, next pool.Picker) pool.Picker {
	if home == "" {
		return next
	}
	return &preferPicker{home: home, next: next, zones: map[string]*zoneState{}}
}

// preferPicker chooses a zone by the current plan.
type preferPicker struct {
	home string
	next pool.Picker

	mu         sync.Mutex
	shares     map[string]float64 // nil: ignore zones
	deficit    map[string]float64 // picks that each zone is behind its share; negative if it is ahead
	zones      map[string]*zoneState
	lastUpdate time.Time
}

// zoneState is the state of a zone between two updates.
type zoneState struct {
	health
	recovering bool // localShare has decreased and is not back at 1
}

var _ pool.SnapshotPicker = (*preferPicker)(nil)

// UpdateEndpoints implements pool.SnapshotPicker. It computes a new plan.
func (p *preferPicker) UpdateEndpoints(all []*pool.Endpoint) {
	zones := map[string]*health{}
	for _, e := range all {
		z := zones[e.Zone()]
		if z == nil {
			z = &health{name: e.Zone()}
			zones[z.name] = z
		}
		z.total++
		if e.Healthy() {
			z.healthy++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.updatePlan(zones, time.Now())
}

// updatePlan computes a new plan from the current state of the zones. p.mu is held.
func (p *preferPicker) updatePlan(current map[string]*health, now time.Time) {
	step := now.Sub(p.lastUpdate).Seconds() / recoveryRamp.Seconds()
	p.lastUpdate = now
	var zones []health
	for name, z := range current {
		state := p.zones[name]
		if state == nil {
			state = &zoneState{}
			p.zones[name] = state
		}
		state.update(*z, step)
		zones = append(zones, state.health)
	}
	for name := range p.zones {
		if current[name] == nil {
			delete(p.zones, name)
		}
	}
	p.shares = plan(p.home, zones)
	deficit := make(map[string]float64, len(p.shares))
	for name := range p.shares {
		deficit[name] = min(max(p.deficit[name], -1), 1) // the rest is dropped
	}
	p.deficit = deficit
}

// update lowers localShare immediately and, after a loss, raises it by at most step. The time before
// the first endpoint was healthy does not count. A zone whose localShare has never decreased is new
// and needs no ramp.
func (s *zoneState) update(current health, step float64) {
	current.localShare = current.maxLocalShare()
	if s.healthy == 0 {
		step = 0
	}
	switch {
	case current.localShare < s.localShare:
		s.recovering = true
	case s.recovering:
		current.localShare = min(current.localShare, s.localShare+step)
		s.recovering = current.localShare < 1
	}
	s.health = current
}

// Pick implements pool.Picker.
func (p *preferPicker) Pick(candidates []*pool.Endpoint) *pool.Endpoint {
	zone, ok := p.chooseZone(candidates)
	if !ok {
		return p.next.Pick(candidates)
	}
	inZone := slicePool.Get().(*[]*pool.Endpoint)
	defer func() {
		clear(*inZone)
		*inZone = (*inZone)[:0]
		slicePool.Put(inZone)
	}()
	for _, e := range candidates {
		if e.Zone() == zone {
			*inZone = append(*inZone, e)
		}
	}
	return p.next.Pick(*inZone)
}

var slicePool = sync.Pool{New: func() any { return new([]*pool.Endpoint) }} // Pick must not allocate

// chooseZone returns the zone of this pick: among the zones that have a candidate, the one with the
// largest deficit. Each pick adds every zone's share to its deficit and subtracts 1 from the chosen
// zone. Between two updates, the picks of a zone therefore differ from its share by at most the
// number of zones.
func (p *preferPicker) chooseZone(candidates []*pool.Endpoint) (zone string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shares == nil {
		return "", false
	}
	if p.shares[p.home] == 1 {
		return p.home, hasZone(candidates, p.home)
	}
	for name, share := range p.shares {
		p.deficit[name] += share
	}
	largest := math.Inf(-1)
	for _, e := range candidates {
		name := e.Zone()
		if _, planned := p.shares[name]; planned && p.deficit[name] > largest {
			zone, largest, ok = name, p.deficit[name], true
		}
	}
	if ok {
		p.deficit[zone]--
	}
	return zone, ok
}

func hasZone(candidates []*pool.Endpoint, zone string) bool {
	for _, e := range candidates {
		if e.Zone() == zone {
			return true
		}
	}
	return false
}
