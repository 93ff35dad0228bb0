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
			t.Fatalf("false negative for key %d", i)
		}
	}
	falsePositives := 0
	for i := range others {
		if f.mayContain(testKey(keys + i)) {
			falsePositives++
		}
	}
	if falsePositives > others/100 { // the expected rate is a few in a thousand for every seed
		t.Errorf("%d false positives for %d keys", falsePositives, others)
	}
	if len(f.segments) != 2 {
		t.Errorf("%d segments for %d keys", len(f.segments), keys)
	}
}

func TestIncompleteBloomFilterMayContainAnyKey(t *testing.T) {
	if f := newBloomFilter(); !f.mayContain(testKey(1)) {
		t.Error("an incomplete filter rules out a key")
	}
}

func TestBloomFilterDropsExpiredKeys(t *testing.T) {
	f := filledFilter(1000, time.Now().Add(-time.Minute))
	f.add(testKey(1000), time.Now().Add(-time.Minute), 30*time.Second) // already expired
	for i := range 10 {
		f.add(testKey(i), time.Now(), 30*time.Second) // added again
	}
	if len(f.segments) != 1 {
		t.Fatalf("%d segments", len(f.segments))
	}
	for i := range 10 {
		if !f.mayContain(testKey(i)) {
			t.Errorf("false negative for key %d, which was added again", i)
		}
	}
}

func TestBloomFilterCountsKeyOnce(t *testing.T) {
	f := filledFilter(1000, time.Now())
	for i := range 1000 {
		f.add(testKey(i), time.Now(), time.Hour)
	}
	if got := f.segments[0].keys; got > 1000 {
		t.Errorf("%d keys counted, want at most 1000", got)
	}
}
