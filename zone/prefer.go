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

// ramp is how long a zone that was lost takes from nothing to all of its load.
const ramp = 10 * time.Second

// Prefer returns a picker that lets next choose among the endpoints of the home zone as long as that can bear the load,
// which it does while 5 of 7 of its endpoints are healthy. Then what it cannot bear goes to the other zones, in proportion
// to what they have to spare; a zone that comes back takes its load again over ten seconds. With less than half of all
// endpoints healthy there are no zones any more. An endpoint of home that is full or tried is passed over: then the next
// best zone is picked from. An empty home prefers nobody.
func Prefer(home string, next pool.Picker) pool.Picker {
	if home == "" {
		return next
	}
	return &prefer{home: home, next: next, zones: map[string]*zoneState{}}
}

// prefer is a picker and the plan that it follows.
type prefer struct {
	home string
	next pool.Picker

	mu       sync.Mutex
	shares   map[string]float64 // nil: no zones
	owed     map[string]float64 // picks that a zone has due, or had too many of
	zones    map[string]*zoneState
	surveyed time.Time
}

// zoneState is what is remembered of a zone from one survey to the next.
type zoneState struct {
	standing
	lost bool // it has borne more before than it does now
}

var _ pool.SnapshotPicker = (*prefer)(nil)

// UpdateEndpoints implements pool.Surveyor: it makes the plan anew.
func (p *prefer) UpdateEndpoints(all []*pool.Endpoint) {
	now := map[string]*standing{}
	for _, e := range all {
		z := now[e.Zone()]
		if z == nil {
			z = &standing{name: e.Zone()}
			now[z.name] = z
		}
		z.all++
		if e.Healthy() {
			z.healthy++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replan(now, time.Now())
}

// replan takes note of how the zones stand.
func (p *prefer) replan(now map[string]*standing, at time.Time) {
	step := at.Sub(p.surveyed).Seconds() / ramp.Seconds()
	p.surveyed = at
	var zones []standing
	for name, z := range now {
		state := p.zones[name]
		if state == nil {
			state = &zoneState{}
			p.zones[name] = state
		}
		state.follow(*z, step)
		zones = append(zones, state.standing)
	}
	for name := range p.zones {
		if now[name] == nil {
			delete(p.zones, name)
		}
	}
	p.shares = plan(p.home, zones)
	owed := make(map[string]float64, len(p.shares))
	for name := range p.shares {
		owed[name] = min(max(p.owed[name], -1), 1) // what could not be paid in a second is let go
	}
	p.owed = owed
}

// follow lets what a zone bears fall at once and, after a loss, rise slowly. One that has only ever grown is new, and has
// nothing to be spared.
func (s *zoneState) follow(now standing, step float64) {
	now.bears = now.canBear()
	switch {
	case now.bears < s.bears:
		s.lost = true
	case s.lost:
		now.bears = min(now.bears, s.bears+step)
		s.lost = now.bears < 1
	}
	s.standing = now
}

// Pick implements pool.Picker.
func (p *prefer) Pick(candidates []*pool.Endpoint) *pool.Endpoint {
	zone, ok := p.choose(candidates)
	if !ok {
		return p.next.Pick(candidates)
	}
	near := lists.Get().(*[]*pool.Endpoint)
	defer func() {
		clear(*near)
		*near = (*near)[:0]
		lists.Put(near)
	}()
	for _, e := range candidates {
		if e.Zone() == zone {
			*near = append(*near, e)
		}
	}
	return p.next.Pick(*near)
}

var lists = sync.Pool{New: func() any { return new([]*pool.Endpoint) }} // a Pick must not allocate

// choose returns the zone of this pick: of those that have a candidate, the one that is owed most. Each pick owes every
// zone its share and is paid by one, so that over any number of picks between two plans no zone gets more than its share and
// one for each zone.
func (p *prefer) choose(candidates []*pool.Endpoint) (zone string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shares == nil {
		return "", false
	}
	if p.shares[p.home] == 1 {
		return p.home, has(candidates, p.home)
	}
	for name, share := range p.shares {
		p.owed[name] += share
	}
	most := math.Inf(-1)
	for _, e := range candidates {
		name := e.Zone()
		if _, planned := p.shares[name]; planned && p.owed[name] > most {
			zone, most, ok = name, p.owed[name], true
		}
	}
	if ok {
		p.owed[zone]--
	}
	return zone, ok
}

func has(candidates []*pool.Endpoint, zone string) bool {
	for _, e := range candidates {
		if e.Zone() == zone {
			return true
		}
	}
	return false
}
