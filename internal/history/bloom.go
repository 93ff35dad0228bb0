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

// bloomFilter remembers which Idempotency-Keys the index may hold, so that a key that was never seen costs no look into it. It
// is a Bloom filter in leaves: a leaf takes 512 Ki keys in 1 MiB, 2 bytes a key, and goes as a whole when the last of its
// keys is not kept any more. About one new key in a thousand is taken for a known one, for each leaf, and is looked for in
// the index then, in vain. No key that the index holds is taken for a new one.
type bloomFilter struct {
	seed maphash.Seed
	// whole says that all keys of the index are in here; before that nothing can be said.
	complete atomic.Bool

	mu       sync.RWMutex
	segments []*bloomSegment // the oldest first; keys are added to the last
}

const (
	segmentBlocks = 1 << 14
	segmentKeys   = 32 * segmentBlocks
	// Leaves that there may be, a MiB each; beyond, the last one takes all keys and lets ever more through.
	maxSegments = 64
)

// bloomSegment is blocks of 64 bytes, one cache line. A key sets one bit in each of the eight words of its block
// ("Cache-, Hash- and Space-Efficient Bloom Filters", Putze, Sanders and Singler, 2007).
type bloomSegment struct {
	blocks [segmentBlocks][8]uint64
	keys   int
	newest time.Time
}

func newBloomFilter() *bloomFilter { return &bloomFilter{seed: maphash.MakeSeed()} }

// add remembers a key that came at that time, if it is still kept.
func (f *bloomFilter) add(key []byte, at time.Time, keep time.Duration) {
	if time.Since(at) > keep {
		return
	}
	hash := maphash.Bytes(f.seed, key)
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.segments) > 0 && time.Since(f.segments[0].newest) > keep {
		f.segments = f.segments[1:]
	}
	last := len(f.segments) - 1
	if last < 0 || f.segments[last].keys >= segmentKeys && last+1 < maxSegments {
		f.segments = append(f.segments, new(bloomSegment))
		last++
	}
	f.segments[last].add(hash, at)
}

// mayContain reports whether the index may hold the key.
func (f *bloomFilter) mayContain(key []byte) bool {
	if !f.complete.Load() {
		return true
	}
	hash := maphash.Bytes(f.seed, key)
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, l := range f.segments {
		if l.contains(hash) {
			return true
		}
	}
	return false
}

// The first 14 bits of a hash choose the block, the last 48 the bits in its words.
func (l *bloomSegment) block(hash uint64) *[8]uint64 { return &l.blocks[hash>>50] }

func bit(hash uint64, word int) uint64 { return 1 << (hash >> (6 * word) & 63) }

func (l *bloomSegment) add(hash uint64, at time.Time) {
	if at.After(l.newest) {
		l.newest = at
	}
	if l.contains(hash) {
		return
	}
	l.keys++
	block := l.block(hash)
	for i := range block {
		block[i] |= bit(hash, i)
	}
}

func (l *bloomSegment) contains(hash uint64) bool {
	for i, word := range l.block(hash) {
		if word&bit(hash, i) == 0 {
			return false
		}
	}
	return true
}

// addKeys takes note of the keys that are about to be in the index.
func (x *index) addKeys(steps []*eventHeader, keep time.Duration) {
	for _, s := range steps {
		if s.keyHash != nil {
			x.keyFilter.add(s.keyHash, s.at, keep)
		}
	}
}

// loadKeys reads the keys that were in the index when it was opened, while everybody else works.
func (h *History) loadKeys(ctx context.Context) error {
	x := h.index.Load()
	if x.keyFilter.complete.Load() {
		return nil
	}
	rows, err := x.readDB.QueryContext(ctx, "SELECT key, at FROM idempotency WHERE at >= ?", toMillis(time.Now().Add(-h.cfg.IdempotencyTTL)))
	if err != nil {
		return h.reportDamage(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err has told by then
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
