// SPDX-License-Identifier: Apache-2.0

package history

import (
	"encoding/binary"
	"testing"
	"time"
)

func testKey(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

func filledFilter(keys int, at time.Time) *bloomFilter {
	f := newBloomFilter()
	for i := range keys {
		f.add(testKey(i), at, time.Hour)
	}
	f.complete.Store(true)
	return f
}

func TestBloomFilterFalsePositiveRate(t *testing.T) {
	const keys, others = segmentKeys + 1000, 100_000
	f := filledFilter(keys, time.Now())
	for i := range keys {
		if !f.mayContain(testKey(i)) {
			t.Fatalf("key %d is taken for a new one", i)
		}
	}
	mistaken := 0
	for i := range others {
		if f.mayContain(testKey(keys + i)) {
			mistaken++
		}
	}
	if mistaken > others/100 { // a few in a thousand are to be expected, whatever the seed
		t.Errorf("of %d new keys %d are taken for known ones", others, mistaken)
	}
	if len(f.segments) != 2 {
		t.Errorf("%d leaves for %d keys", len(f.segments), keys)
	}
}

func TestIncompleteBloomFilterMayContainAnyKey(t *testing.T) {
	if f := newBloomFilter(); !f.mayContain(testKey(1)) {
		t.Error("a key is taken for a new one before those of the index are known")
	}
}

func TestBloomFilterDropsExpiredKeys(t *testing.T) {
	f := filledFilter(1000, time.Now().Add(-time.Minute))
	f.add(testKey(1000), time.Now().Add(-time.Minute), 30*time.Second) // is too old itself
	for i := range 10 {
		f.add(testKey(i), time.Now(), 30*time.Second) // these came again
	}
	if len(f.segments) != 1 {
		t.Fatalf("%d leaves", len(f.segments))
	}
	for i := range 10 {
		if !f.mayContain(testKey(i)) {
			t.Errorf("key %d, which came again, is taken for a new one", i)
		}
	}
}

func TestBloomFilterCountsKeyOnce(t *testing.T) {
	f := filledFilter(1000, time.Now())
	for i := range 1000 {
		f.add(testKey(i), time.Now(), time.Hour)
	}
	if got := f.segments[0].keys; got > 1000 {
		t.Errorf("%d keys are counted", got)
	}
}
