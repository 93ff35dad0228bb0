// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// bloomFilter holds the Idempotency-Keys of the index, so that a lookup of a new key does not query
// the index. It consists of segments for 512 Ki keys in 1 MiB each (2 bytes per key). A segment is
// dropped when its newest key has expired. For each segment, about one in a thousand new keys is a
// false positive and is looked up in the index. There are no false negatives.
type bloomFilter struct {
	seed maphash.Seed
	// complete is set when all keys of the index are in the filter. Before that, mayContain returns
	// true for every key.
	complete atomic.Bool

	mu       sync.RWMutex
	segments []*bloomSegment // oldest first; keys are added to the last
}

const (
	segmentBlocks = 1 << 14
	segmentKeys   = 32 * segmentBlocks
	// The maximum number of segments. Beyond it the last one takes all keys and its false positive
	// rate grows.
	maxSegments = 64
)

// bloomSegment is a blocked Bloom filter. Each block has 64 bytes, one cache line, and a key sets
// one bit in each of the eight words of its block ("Cache-, Hash- and Space-Efficient Bloom
// Filters", Putze, Sanders and Singler, 2007).
type bloomSegment struct {
	blocks [segmentBlocks][8]uint64
	keys   int
	newest time.Time
}

func newBloomFilter() *bloomFilter { return &bloomFilter{seed: maphash.MakeSeed()} }

// add adds a key with its time, unless it has expired.
func (f *bloomFilter) add(key []byte, at time.Time, ttl time.Duration) {
	if time.Since(at) > ttl {
		return
	}
	hash := maphash.Bytes(f.seed, key)
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.segments) > 0 && time.Since(f.segments[0].newest) > ttl {
		f.segments = f.segments[1:]
	}
	last := len(f.segments) - 1
	if last < 0 || f.segments[last].keys >= segmentKeys && last+1 < maxSegments {
		f.segments = append(f.segments, new(bloomSegment))
		last++
	}
	f.segments[last].add(hash, at)
}

// mayContain returns false if the key is not in the index.
func (f *bloomFilter) mayContain(key []byte) bool {
	if !f.complete.Load() {
		return true
	}
	hash := maphash.Bytes(f.seed, key)
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, s := range f.segments {
		if s.contains(hash) {
			return true
		}
	}
	return false
}

// The first 14 bits of a hash select the block, the last 48 the bits in its words.
func (s *bloomSegment) block(hash uint64) *[8]uint64 { return &s.blocks[hash>>50] }

func bit(hash uint64, word int) uint64 { return 1 << (hash >> (6 * word) & 63) }

func (s *bloomSegment) add(hash uint64, at time.Time) {
	if at.After(s.newest) {
		s.newest = at
	}
	if s.contains(hash) {
		return
	}
	s.keys++
	block := s.block(hash)
	for i := range block {
		block[i] |= bit(hash, i)
	}
}

func (s *bloomSegment) contains(hash uint64) bool {
	for i, word := range s.block(hash) {
		if word&bit(hash, i) == 0 {
			return false
		}
	}
	return true
}

// addKeys adds the keys of events to the filter, before they are committed to the index.
func (x *index) addKeys(headers []*eventHeader, ttl time.Duration) {
	for _, hdr := range headers {
		if hdr.keyHash != nil {
			x.keyFilter.add(hdr.keyHash, hdr.at, ttl)
		}
	}
}

// loadKeys adds the keys that were in the index when it was opened. It runs concurrently with
// queries.
func (h *History) loadKeys(ctx context.Context) error {
	x := h.index.Load()
	if x.keyFilter.complete.Load() {
		return nil
	}
	rows, err := x.readDB.QueryContext(ctx, "SELECT key, at FROM idempotency WHERE at >= ?", toMillis(time.Now().Add(-h.cfg.IdempotencyTTL)))
	if err != nil {
		return h.reportDamage(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err reports the error
	var key sql.RawBytes
	var at int64
	for rows.Next() {
		if err := rows.Scan(&key, &at); err != nil {
			return h.reportDamage(err)
		}
		x.keyFilter.add(key, fromMillis(at), h.cfg.IdempotencyTTL)
	}
	if err := rows.Err(); err != nil {
		return h.reportDamage(err)
	}
	x.keyFilter.complete.Store(true)
	return nil
}
