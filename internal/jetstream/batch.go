// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"iter"
)

// A chunk holds at most so much, unless its writer says otherwise. It is what is written at once, and so what one fsync
// pays for.
const (
	defaultMaxItems = 100
	maxBatchBytes   = 64 << 10
)

// batch is items of one subject on their way: one JSON text a line.
type batch struct {
	subject string
	body    []byte
	count   int
	msgID   string // by which a cluster knows a second copy; empty in this process

	done chan struct{} // closed when it is written, or is not
	seq  uint64
	err  error
}

// hasRoom reports whether there is room for another item among so many at most. One item fits always.
func (c *batch) hasRoom(item []byte, most int) bool {
	return c.count == 0 || c.count < most && len(c.body)+len(item) < maxBatchBytes
}

func (c *batch) add(item []byte) (index int) {
	c.body = append(append(c.body, item...), '\n')
	c.count++
	return c.count - 1
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
