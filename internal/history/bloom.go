// SPDX-License-Identifier: Apache-2.0

package history

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bits-and-blooms/bloom/v3"
)

// bloomFilter holds the Idempotency-Keys of the index, so that a lookup of a new key does not query
// the index. It consists of segments for 512 Ki keys in 1 MiB each (2 bytes per key). A segment is
// dropped when its newest key has expired. For each segment, less than one in a thousand new keys is
// a false positive and is looked up in the index. There are no false negatives.
type bloomFilter struct {
	// complete is set when all keys of the index are in the filter. Before that, mayContain returns
	// true for every key.
	complete atomic.Bool

	mu       sync.RWMutex
	segments []*bloomSegment // oldest first; keys are added to the last
}

const (
	segmentKeys   = 1 << 19
	segmentBits   = 16 * segmentKeys
	segmentHashes = 8
	// The maximum number of segments. Beyond it the last one takes all keys and its false positive
	// rate grows.
	maxSegments = 64
)

type bloomSegment struct {
	*bloom.BloomFilter
	keys   int
	newest time.Time
}

func newBloomFilter() *bloomFilter { return &bloomFilter{} }

// add adds a key with its time, unless it has expired.
func (f *bloomFilter) add(key []byte, at time.Time, ttl time.Duration) {
	if time.Since(at) > ttl {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.segments) > 0 && time.Since(f.segments[0].newest) > ttl {
		f.segments = f.segments[1:]
	}
	last := len(f.segments) - 1
	if last < 0 || f.segments[last].keys >= segmentKeys && last+1 < maxSegments {
		f.segments = append(f.segments, &bloomSegment{BloomFilter: bloom.New(segmentBits, segmentHashes)})
		last++
	}
	s := f.segments[last]
	if at.After(s.newest) {
		s.newest = at
	}
	if !s.TestAndAdd(key) {
		s.keys++
	}
}

// mayContain returns false if the key is not in the index.
func (f *bloomFilter) mayContain(key []byte) bool {
	if !f.complete.Load() {
		return true
	}
	bits := bloom.Locations(key, segmentHashes)
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.ContainsFunc(f.segments, func(s *bloomSegment) bool { return s.TestLocations(bits) })
}
