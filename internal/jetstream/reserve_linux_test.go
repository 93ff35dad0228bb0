// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"errors"
	"testing"
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
		if err := r.adjust(); err != nil {
			t.Fatal(err)
		}
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
		if err := r.adjust(); err != nil || r.held() != min(16+committed, 42)*mib {
			t.Errorf("%d MiB committed: the reserve has %d MiB, %v", committed, r.held()/mib, err)
		}
	}
}

func TestNoReserve(t *testing.T) {
	r := newReserve(Config{Dir: t.TempDir(), Reserve: -1})
	if err := r.adjust(); err != nil || r.held() != 0 {
		t.Error(err, r.held())
	}
}
