// SPDX-License-Identifier: Apache-2.0

// Package zone keeps traffic near: its picker narrows the choice to the home
// zone while that can bear the load. It knows nothing of health: the pool has
// left out who is ejected, full or tried before anybody picks.
package zone

import (
	"sync"

	"github.com/sluice-push/sluice/pool"
)

// Prefer returns a picker that lets next choose among the endpoints of the
// home zone as long as there is one among the candidates, and among all of
// them otherwise. So traffic leaves home only when every endpoint there is
// ejected, tried or at its in-flight cap, and only as much as home cannot
// bear. An empty home prefers nobody.
func Prefer(home string, next pool.Picker) pool.Picker {
	if home == "" {
		return next
	}
	return &prefer{home: home, next: next}
}

type prefer struct {
	home string
	next pool.Picker
	near sync.Pool // of *[]*pool.Endpoint: a Pick must not allocate
}

var _ pool.Picker = (*prefer)(nil)

// Pick implements pool.Picker.
func (p *prefer) Pick(candidates []*pool.Endpoint) *pool.Endpoint {
	near, ok := p.near.Get().(*[]*pool.Endpoint)
	if !ok {
		near = new([]*pool.Endpoint)
	}
	defer func() {
		clear(*near)
		*near = (*near)[:0]
		p.near.Put(near)
	}()
	for _, e := range candidates {
		if e.Zone() == p.home {
			*near = append(*near, e)
		}
	}
	if len(*near) == 0 {
		return p.next.Pick(candidates)
	}
	return p.next.Pick(*near)
}
