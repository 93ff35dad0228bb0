// SPDX-License-Identifier: Apache-2.0

// Package zone keeps traffic near: its picker narrows the choice to the home zone while that can bear the load, and
// shares out what it cannot. It ejects nobody: the pool has left out who is ejected, full or tried before anybody picks.
package zone

import (
	"math"
	"sync"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// recoveryRamp is how long a zone that was lost takes from nothing to all of its load.
const recoveryRamp = 10 * time.Second

// Prefer returns a picker that lets next choose among the endpoints of the home zone as long as that can bear the load,
// which it does while 5 of 7 of its endpoints are healthy. Then what it cannot bear goes to the other zones, in proportion
// to what they have to spare; a zone that comes back takes its load again over ten seconds. With less than half of all
// endpoints healthy there are no zones any more. An endpoint of home that is full or tried is passed over: then the next
// best zone is picked from. An empty home prefers nobody.
func Prefer(home string, next pool.Picker) pool.Picker {
	if home == "" {
		return next
	}
	return &preferPicker{home: home, next: next, zones: map[string]*zoneState{}}
}

// preferPicker is a picker and the plan that it follows.
type preferPicker struct {
	home string
	next pool.Picker

	mu         sync.Mutex
	shares     map[string]float64 // nil: no zones
	deficit    map[string]float64 // picks that a zone has due, or had too many of
	zones      map[string]*zoneState
	lastUpdate time.Time
}

// zoneState is what is remembered of a zone from one survey to the next.
type zoneState struct {
	health
	recovering bool // it has borne more before than it does now
}

var _ pool.SnapshotPicker = (*preferPicker)(nil)

// UpdateEndpoints implements pool.Surveyor: it makes the plan anew.
func (p *preferPicker) UpdateEndpoints(all []*pool.Endpoint) {
	now := map[string]*health{}
	for _, e := range all {
		z := now[e.Zone()]
		if z == nil {
			z = &health{name: e.Zone()}
			now[z.name] = z
		}
		z.total++
		if e.Healthy() {
			z.healthy++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.updatePlan(now, time.Now())
}

// updatePlan takes note of how the zones stand.
func (p *preferPicker) updatePlan(now map[string]*health, at time.Time) {
	step := at.Sub(p.lastUpdate).Seconds() / recoveryRamp.Seconds()
	p.lastUpdate = at
	var zones []health
	for name, z := range now {
		state := p.zones[name]
		if state == nil {
			state = &zoneState{}
			p.zones[name] = state
		}
		state.update(*z, step)
		zones = append(zones, state.health)
	}
	for name := range p.zones {
		if now[name] == nil {
			delete(p.zones, name)
		}
	}
	p.shares = plan(p.home, zones)
	owed := make(map[string]float64, len(p.shares))
	for name := range p.shares {
		owed[name] = min(max(p.deficit[name], -1), 1) // what could not be paid in a second is let go
	}
	p.deficit = owed
}

// update lets what a zone bears fall at once and, after a loss, rise slowly. One that has only ever grown is new, and has
// nothing to be spared.
func (s *zoneState) update(now health, step float64) {
	now.localShare = now.maxLocalShare()
	switch {
	case now.localShare < s.localShare:
		s.recovering = true
	case s.recovering:
		now.localShare = min(now.localShare, s.localShare+step)
		s.recovering = now.localShare < 1
	}
	s.health = now
}

// Pick implements pool.Picker.
func (p *preferPicker) Pick(candidates []*pool.Endpoint) *pool.Endpoint {
	zone, ok := p.chooseZone(candidates)
	if !ok {
		return p.next.Pick(candidates)
	}
	near := slicePool.Get().(*[]*pool.Endpoint)
	defer func() {
		clear(*near)
		*near = (*near)[:0]
		slicePool.Put(near)
	}()
	for _, e := range candidates {
		if e.Zone() == zone {
			*near = append(*near, e)
		}
	}
	return p.next.Pick(*near)
}

var slicePool = sync.Pool{New: func() any { return new([]*pool.Endpoint) }} // a Pick must not allocate

// chooseZone returns the zone of this pick: of those that have a candidate, the one that is owed most. Each pick owes every
// zone its share and is paid by one, so that over any number of picks between two plans no zone gets more than its share and
// one for each zone.
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
	most := math.Inf(-1)
	for _, e := range candidates {
		name := e.Zone()
		if _, planned := p.shares[name]; planned && p.deficit[name] > most {
			zone, most, ok = name, p.deficit[name], true
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
