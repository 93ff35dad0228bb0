// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"errors"
	"testing"
	"time"
)

// TestReserveGivesWayToWrites fills a disk of 100 MiB around a reserve of 16 MiB. The reserve shrinks when
// less than 8 MiB are free, and returns when the disk has space.
func TestReserveGivesWayToWrites(t *testing.T) {
	const mib = 1 << 20
	r := newReserve(Config{Dir: t.TempDir(), Reserve: 16 * mib})
	used := int64(0) // by other files
	r.left = func(string) (uint64, bool) { return uint64(max(100*mib-used-r.held(), 0)), true }
	s := &server{cfg: Config{Dir: t.TempDir()}, reserve: r}
	for _, step := range []struct {
		used, held int64 // MiB
		admits     bool
	}{
		{0, 16, true}, {70, 16, true}, {80, 12, true}, {84, 8, true}, {85, 7, false}, {90, 2, false}, {92, 0, false}, {100, 0, false},
		{90, 0, false}, {85, 0, false}, {80, 12, true}, {77, 12, true}, {76, 16, true}, {0, 16, true},
	} {
		used = step.used * mib
		settle(t, r)
		if held := r.held(); held != step.held*mib {
			t.Errorf("%d MiB used: the reserve has %d MiB, want %d", step.used, held/mib, step.held)
		}
		if err := s.admit(0); (err == nil) != step.admits || err != nil && !errors.Is(err, ErrFull) {
			t.Errorf("%d MiB used: %v", step.used, err)
		}
	}
	used = 50 * mib
	if s.admit(35*mib) == nil || s.admit(34*mib) != nil {
		t.Error("the space that accepted notifications need is not counted")
	}
	for _, committed := range []int64{34, 10, 0, 30} {
		r.committed.Store(committed * mib)
		if settle(t, r); r.held() != min(16+committed, 42)*mib {
			t.Errorf("%d MiB committed: the reserve has %d MiB", committed, r.held()/mib)
		}
	}
}

// settle adjusts the reserve until it does not change any more.
func settle(t *testing.T, r *reserve) {
	t.Helper()
	for before := int64(-1); before != r.held(); {
		before = r.held()
		if err := r.adjust(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReserveIsNotTakenByOthers fills a disk while the reserve gives way: another program takes all that
// it gives. In a second it gets a few MiB. Each write of the log still has space.
func TestReserveIsNotTakenByOthers(t *testing.T) {
	const mib = 1 << 20
	r := newReserve(Config{Dir: t.TempDir(), Reserve: 16 * mib})
	used := int64(0)
	left := func() int64 { return max(100*mib-used-r.held(), 0) }
	r.left = func(string) (uint64, bool) { return uint64(left()), true }
	settle(t, r)
	for range time.Second / reserveInterval {
		used += left()
		if err := r.adjust(); err != nil {
			t.Fatal(err)
		}
	}
	if held := r.held(); held < 5*mib {
		t.Errorf("after a second, the reserve has %d KiB", held>>10)
	}
	for range 40 {
		used += left()
		if r.makeRoom(100 << 10); left() != 100<<10 {
			t.Fatalf("%d bytes are free for a write", left())
		}
	}
	if r.makeRoom(64 * mib); r.held() != 0 {
		t.Errorf("the reserve has %d bytes", r.held())
	}
}

func TestNoReserve(t *testing.T) {
	r := newReserve(Config{Dir: t.TempDir(), Reserve: -1})
	if err := r.adjust(); err != nil || r.held() != 0 {
		t.Error(err, r.held())
	}
}
