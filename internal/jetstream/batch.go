// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"iter"
)

// Default limits of a batch. The server syncs the disk once per batch.
const (
	defaultMaxItems = 100
	maxBatchBytes   = 64 << 10
)

// batch is a list of items for one subject that is published as one message: one JSON text per
// line.
type batch struct {
	subject string
	body    []byte
	count   int
	msgID   string // by which a cluster drops duplicates; empty for the embedded server

	done chan struct{} // closed when seq or err is set
	seq  uint64
	err  error
}

// hasRoom reports whether the batch accepts another item. An empty batch accepts an item of any
// size.
func (b *batch) hasRoom(item []byte, limit int) bool {
	return b.count == 0 || b.count < limit && len(b.body)+len(item) < maxBatchBytes
}

func (b *batch) add(item []byte) (index int) {
	b.body = append(append(b.body, item...), '\n')
	b.count++
	return b.count - 1
}

// Items returns the items of a message with their indexes.
func Items(message []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		index := 0
		for item := range bytes.Lines(message) {
			if !yield(index, bytes.TrimSuffix(item, []byte{'\n'})) {
				return
			}
			index++
		}
	}
}
