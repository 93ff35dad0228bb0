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

// snapshotRecorder notes how many endpoints it was shown, and how many of them healthy.
type snapshotRecorder struct {
	pool.RoundRobin
	all, healthy atomic.Int64
}

var _ pool.SnapshotPicker = (*snapshotRecorder)(nil)

func (s *snapshotRecorder) UpdateEndpoints(all []*pool.Endpoint) {
	healthy := 0
	for _, e := range all {
		if e.Healthy() {
			healthy++
		}
	}
	s.all.Store(int64(len(all)))
	s.healthy.Store(int64(healthy))
}

func (s *snapshotRecorder) want(t *testing.T, all, healthy int64) {
	t.Helper()
	if s.all.Load() != all || s.healthy.Load() != healthy {
		t.Errorf("the picker was shown %d endpoints, %d of them healthy; want %d and %d", s.all.Load(), s.healthy.Load(), all, healthy)
	}
}

func TestSnapshotPickerSeesAllEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(snapshotRecorder)
		h := newTestPool(t, 4, pool.Config{Picker: s})
		h.setServer(4, func(s *fakeServer) { s.dialErr = errors.New("refused") })
		h.run()
		advance(time.Second)
		s.want(t, 4, 3)
		h.eject(1)
		synctest.Wait()
		s.want(t, 4, 2)
	})
}

func TestPruneUnlistedRemovesMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{PruneUnlisted: true})
		advance(time.Second)
		h.wantMembers(1, 2, 3)
		h.setAddrs(addrs(2, 4)...)
		advance(2 * time.Second)
		h.wantMembers(2, 3, 4)
	})
}

func TestMaxRedialDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 2, pool.Config{MaxRedialDelay: 10 * time.Second})
		h.setServer(2, func(s *fakeServer) { s.dialErr = errors.New("refused") })
		h.run()
		advance(10 * time.Minute)
		if n := len(h.serverCopy(2).dials); n < 50 || n > 65 {
			t.Errorf("it was dialled %d times in ten minutes, want about 60", n)
		}
	})
}

func TestZoneMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var zone atomic.Value
		zone.Store("")
		h := startPool(t, 1, pool.Config{Zone: func(netip.AddrPort) string { return zone.Load().(string) }})
		advance(time.Second)
		zone.Store("tokyo-a")
		lease, err := h.Pick(t.Context(), nil)
		if err != nil || lease.Endpoint().Zone() != "tokyo-a" {
			t.Fatalf("%v: the zone is not the one that has been learnt since", err)
		}
		lease.Done(accepted)
	})
}
