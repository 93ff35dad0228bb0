// SPDX-License-Identifier: Apache-2.0

// Package asyncwriter writes a log to a destination that may stall or disappear, without blocking
// those who write to the log.
package asyncwriter

import (
	"io"
	"sync"
	"time"
)

// Writer passes writes on to its destination in the background, in order. While the destination
// stalls, it keeps at most size bytes; it drops and counts the writes that exceed them, and those
// that the destination refuses.
type Writer struct {
	destination io.Writer
	size        int
	wake        chan struct{} // receives a value when pending has become non-empty; closed by Close
	done        chan struct{} // closed when everything has been written after Close

	mu      sync.Mutex // guards the fields below
	pending []byte
	writes  int // number of writes in pending
	dropped int
	closed  bool
}

// New returns a Writer that keeps up to size bytes. Close stops its goroutine.
func New(destination io.Writer, size int) *Writer {
	w := &Writer{destination: destination, size: size, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write keeps p or drops it as a whole. It never blocks and returns no error.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.pending)+len(p) > w.size {
		w.dropped++
		return len(p), nil
	}
	w.pending = append(w.pending, p...)
	w.writes++
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// Dropped returns the number of writes that were dropped or refused.
func (w *Writer) Dropped() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

// Close drops further writes, and waits up to timeout until the destination has all earlier ones.
// It reports whether that succeeded.
func (w *Writer) Close(timeout time.Duration) bool {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.wake)
	}
	w.mu.Unlock()
	select {
	case <-w.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

// run writes until Close is called and nothing is pending.
func (w *Writer) run() {
	defer close(w.done)
	var spare []byte
	for range w.wake {
		w.mu.Lock()
		batch, writes := w.pending, w.writes
		w.pending, w.writes = spare[:0], 0
		w.mu.Unlock()
		if _, err := w.destination.Write(batch); err != nil {
			w.mu.Lock()
			w.dropped += writes
			w.mu.Unlock()
		}
		spare = batch
	}
}
