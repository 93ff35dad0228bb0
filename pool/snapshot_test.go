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

// snapshotRecorder records the number of endpoints in the last snapshot, and how many of them are
// healthy.
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
		t.Errorf("the snapshot has %d endpoints, %d of them healthy; want %d and %d", s.all.Load(), s.healthy.Load(), all, healthy)
	}
}

func TestSnapshotPickerSeesAllEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(snapshotRecorder)
		tp := newTestPool(t, 4, pool.Config{Picker: s})
		tp.setServer(4, func(s *fakeServer) { s.dialErr = errors.New("refused") })
		tp.run()
		advance(time.Second)
		s.want(t, 4, 3)
		tp.eject(1)
		synctest.Wait()
		s.want(t, 4, 2)
	})
}

func TestPruneUnlistedRemovesMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{PruneUnlisted: true})
		advance(time.Second)
		tp.wantMembers(1, 2, 3)
		tp.setAddrs(addrs(2, 4)...)
		advance(2 * time.Second)
		tp.wantMembers(2, 3, 4)
	})
}

func TestMaxRedialDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 2, pool.Config{MaxRedialDelay: 10 * time.Second})
		tp.setServer(2, func(s *fakeServer) { s.dialErr = errors.New("refused") })
		tp.run()
		advance(10 * time.Minute)
		if n := len(tp.serverCopy(2).dials); n < 50 || n > 65 {
			t.Errorf("%d dials in ten minutes; want about 60", n)
		}
	})
}

func TestZoneMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var zone atomic.Value
		zone.Store("")
		tp := startPool(t, 1, pool.Config{Zone: func(netip.AddrPort) string { return zone.Load().(string) }})
		advance(time.Second)
		zone.Store("tokyo-a")
		lease, err := tp.Pick(t.Context(), nil)
		if err != nil || lease.Endpoint().Zone() != "tokyo-a" {
			t.Fatalf("%v: the lease does not have the new zone", err)
		}
		lease.Done(accepted)
	})
}
