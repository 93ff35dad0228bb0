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

// filter remembers which Idempotency-Keys the index may hold, so that a key that was never seen costs no look into it. It
// is a Bloom filter in leaves: a leaf takes 512 Ki keys in 1 MiB, 2 bytes a key, and goes as a whole when the last of its
// keys is not kept any more. About one new key in a thousand is taken for a known one, for each leaf, and is looked for in
// the index then, in vain. No key that the index holds is taken for a new one.
type filter struct {
	seed maphash.Seed
	// whole says that all keys of the index are in here; before that nothing can be said.
	whole atomic.Bool

	mu     sync.RWMutex
	leaves []*leaf // the oldest first; keys are added to the last
}

const (
	leafBlocks = 1 << 14
	leafKeys   = 32 * leafBlocks
	// Leaves that there may be, a MiB each; beyond, the last one takes all keys and lets ever more through.
	mostLeaves = 64
)

// leaf is blocks of 64 bytes, one cache line. A key sets one bit in each of the eight words of its block
// ("Cache-, Hash- and Space-Efficient Bloom Filters", Putze, Sanders and Singler, 2007).
type leaf struct {
	blocks [leafBlocks][8]uint64
	keys   int
	newest time.Time
}

func newFilter() *filter { return &filter{seed: maphash.MakeSeed()} }

// add remembers a key that came at that time, if it is still kept.
func (f *filter) add(key []byte, at time.Time, keep time.Duration) {
	if time.Since(at) > keep {
		return
	}
	hash := maphash.Bytes(f.seed, key)
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.leaves) > 0 && time.Since(f.leaves[0].newest) > keep {
		f.leaves = f.leaves[1:]
	}
	last := len(f.leaves) - 1
	if last < 0 || f.leaves[last].keys >= leafKeys && last+1 < mostLeaves {
		f.leaves = append(f.leaves, new(leaf))
		last++
	}
	f.leaves[last].add(hash, at)
}

// may reports whether the index may hold the key.
func (f *filter) may(key []byte) bool {
	if !f.whole.Load() {
		return true
	}
	hash := maphash.Bytes(f.seed, key)
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, l := range f.leaves {
		if l.has(hash) {
			return true
		}
	}
	return false
}

// The first 14 bits of a hash choose the block, the last 48 the bits in its words.
func (l *leaf) block(hash uint64) *[8]uint64 { return &l.blocks[hash>>50] }

func bit(hash uint64, word int) uint64 { return 1 << (hash >> (6 * word) & 63) }

func (l *leaf) add(hash uint64, at time.Time) {
	if at.After(l.newest) {
		l.newest = at
	}
	if l.has(hash) {
		return
	}
	l.keys++
	block := l.block(hash)
	for i := range block {
		block[i] |= bit(hash, i)
	}
}

func (l *leaf) has(hash uint64) bool {
	for i, word := range l.block(hash) {
		if word&bit(hash, i) == 0 {
			return false
		}
	}
	return true
}

// remember takes note of the keys that are about to be in the index.
func (x *index) remember(steps []*step, keep time.Duration) {
	for _, s := range steps {
		if s.keyHash != nil {
			x.keys.add(s.keyHash, s.at, keep)
		}
	}
}

// recall reads the keys that were in the index when it was opened, while everybody else works.
func (h *History) recall(ctx context.Context) error {
	x := h.index.Load()
	if x.keys.whole.Load() {
		return nil
	}
	rows, err := x.read.QueryContext(ctx, "SELECT key, at FROM idempotency WHERE at >= ?", millis(time.Now().Add(-h.cfg.KeepKeys)))
	if err != nil {
		return h.met(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err has told by then
	var key sql.RawBytes
	var at int64
	for rows.Next() {
		if err := rows.Scan(&key, &at); err != nil {
			return h.met(err)
		}
		x.keys.add(key, moment(at), h.cfg.KeepKeys)
	}
	if err := rows.Err(); err != nil {
		return h.met(err)
	}
	x.keys.whole.Store(true)
	return nil
}
