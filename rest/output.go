// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"
	"sync"
	"time"
)

// maxPending bounds what waits for a caller who writes but does not read. It holds the receipts of some thousands:
// clients that read only after their last byte is out are common, and must not come to a standstill.
const maxPending = 2 << 20

// output is the receipts of a batch on their way out. Receipts that end while a write is under way leave together
// with the next.
type output struct {
	to       http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	ready    chan struct{} // holds one: there is something pending, or it is over

	mu      sync.Mutex
	room    sync.Cond // pending has shrunk, or the output is broken
	pending []byte
	over    bool // no more will be added
	broken  bool // the caller does not read any more
}

func newOutput(w http.ResponseWriter, patience time.Duration) *output {
	o := &output{to: w, control: http.NewResponseController(w), patience: patience, ready: make(chan struct{}, 1)}
	o.room.L = &o.mu
	return o
}

// add hands a line to run. It waits while too much is pending.
func (o *output) add(line []byte) {
	o.mu.Lock()
	for len(o.pending) > maxPending && !o.broken {
		o.room.Wait()
	}
	o.pending = append(o.pending, line...)
	o.mu.Unlock()
	o.wake()
}

// finish says that no more will be added.
func (o *output) finish() {
	o.mu.Lock()
	o.over = true
	o.mu.Unlock()
	o.wake()
}

func (o *output) wake() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// run writes until finish was called and all is written, or the caller does not read.
func (o *output) run() error {
	var spare []byte
	for range o.ready {
		chunk, over := o.take(spare)
		if len(chunk) > 0 {
			if err := o.write(chunk); err != nil {
				o.abandon()
				return err
			}
		}
		if over {
			return nil
		}
		spare = chunk[:0]
	}
	return nil
}

// take swaps what is pending for an empty buffer.
func (o *output) take(empty []byte) (chunk []byte, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	chunk, o.pending = o.pending, empty
	o.room.Broadcast()
	return chunk, o.over
}

func (o *output) write(chunk []byte) error {
	_ = o.control.SetWriteDeadline(time.Now().Add(o.patience))
	if _, err := o.to.Write(chunk); err != nil {
		return err
	}
	return o.control.Flush()
}

func (o *output) abandon() {
	o.mu.Lock()
	o.broken, o.pending = true, nil
	o.mu.Unlock()
	o.room.Broadcast()
}
