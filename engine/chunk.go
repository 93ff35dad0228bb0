// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"iter"
)

// A chunk holds at most so much, unless its writer says otherwise. It is what is written at once, and so what one fsync
// pays for.
const (
	maxItems = 100
	maxBytes = 64 << 10
)

// chunk is items of one subject on their way: one JSON text a line.
type chunk struct {
	subject string
	body    []byte
	items   int
	id      string // by which a cluster knows a second copy; empty in this process

	done chan struct{} // closed when it is written, or is not
	seq  uint64
	err  error
}

// takes reports whether there is room for another item among so many at most. One item fits always.
func (c *chunk) takes(item []byte, most int) bool {
	return c.items == 0 || c.items < most && len(c.body)+len(item) < maxBytes
}

func (c *chunk) add(item []byte) (index int) {
	c.body = append(append(c.body, item...), '\n')
	c.items++
	return c.items - 1
}

// Items returns the items of a chunk, each with its index in it.
func Items(chunk []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		index := 0
		for item := range bytes.Lines(chunk) {
			if !yield(index, bytes.TrimSuffix(item, []byte{'\n'})) {
				return
			}
			index++
		}
	}
}
