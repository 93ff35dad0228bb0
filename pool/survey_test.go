// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// surveyor notes how many endpoints it was shown, and how many of them healthy.
type surveyor struct {
	pool.RoundRobin
	all, healthy atomic.Int64
}

var _ pool.Surveyor = (*surveyor)(nil)

func (s *surveyor) Survey(all []*pool.Endpoint) {
	healthy := 0
	for _, e := range all {
		if e.Healthy() {
			healthy++
		}
	}
	s.all.Store(int64(len(all)))
	s.healthy.Store(int64(healthy))
}

func (s *surveyor) want(t *testing.T, all, healthy int64) {
	t.Helper()
	if s.all.Load() != all || s.healthy.Load() != healthy {
		t.Errorf("the picker was shown %d endpoints, %d of them healthy; want %d and %d", s.all.Load(), s.healthy.Load(), all, healthy)
	}
}

func TestASurveyorIsShownTheHealthyTheEjectedAndTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(surveyor)
		h := build(t, 4, pool.Config{Picker: s})
		h.set(4, func(s *server) { s.dialErr = errors.New("refused") })
		h.run()
		pass(time.Second)
		s.want(t, 4, 3)
		h.eject(1)
		synctest.Wait()
		s.want(t, 4, 2)
	})
}

func TestAPoolThatMirrorsLetsGoWhomTheResolverNamesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 3, pool.Config{Mirror: true})
		pass(time.Second)
		h.wantMembers(1, 2, 3)
		h.name(addrs(2, 4)...)
		pass(2 * time.Second)
		h.wantMembers(2, 3, 4)
	})
}

func TestAnAddressThatDoesNotAnswerIsLeftAloneForNoLongerThanRedial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, pool.Config{Redial: 10 * time.Second})
		h.set(2, func(s *server) { s.dialErr = errors.New("refused") })
		h.run()
		pass(10 * time.Minute)
		if n := len(h.look(2).dials); n < 50 || n > 65 {
			t.Errorf("it was dialled %d times in ten minutes, want about 60", n)
		}
	})
}

func TestAZoneMayBeLearnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var zone atomic.Value
		zone.Store("")
		h := open(t, 1, pool.Config{Zone: func(netip.AddrPort) string { return zone.Load().(string) }})
		pass(time.Second)
		zone.Store("tokyo-a")
		lease, err := h.Pick(t.Context(), nil)
		if err != nil || lease.Endpoint().Zone() != "tokyo-a" {
			t.Fatalf("%v: the zone is not the one that has been learnt since", err)
		}
		lease.Done(accepted)
	})
}
