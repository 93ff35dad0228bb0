// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"bytes"
	"net/http"
	"runtime"
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
	status   int // of the answer; 0 is 200
	control  *http.ResponseController
	patience time.Duration
	ready    chan struct{} // holds one: there is something pending, or it is over

	mu      sync.Mutex
	room    sync.Cond // pending has shrunk, or the output is broken
	pending *bytes.Buffer
	over    bool // no more will be added
	broken  bool // the caller does not read any more
}

func newOutput(w http.ResponseWriter, patience time.Duration) *output {
	o := &output{
		to: w, control: http.NewResponseController(w), patience: patience,
		ready: make(chan struct{}, 1), pending: buffers.Get().(*bytes.Buffer),
	}
	o.room.L = &o.mu
	return o
}

// add hands a line to run. It waits while too much is pending.
func (o *output) add(line []byte) {
	o.mu.Lock()
	for o.pending.Len() > maxPending && !o.broken {
		o.room.Wait()
	}
	if !o.broken {
		o.pending.Write(line)
	}
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
	chunk := buffers.Get().(*bytes.Buffer)
	defer func() { release(chunk) }()
	for range o.ready {
		runtime.Gosched() // whoever has a line ready adds it first: a write costs more than many lines
		var over bool
		chunk, over = o.take(chunk)
		if err := o.write(chunk.Bytes()); err != nil {
			o.abandon()
			return err
		}
		chunk.Reset()
		if over {
			return nil
		}
	}
	return nil
}

// take swaps what is pending for an empty buffer.
func (o *output) take(empty *bytes.Buffer) (chunk *bytes.Buffer, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	chunk, o.pending = o.pending, empty
	o.room.Broadcast()
	return chunk, o.over
}

func (o *output) write(chunk []byte) error {
	if len(chunk) == 0 {
		return nil
	}
	_ = o.control.SetWriteDeadline(time.Now().Add(o.patience))
	if o.status != 0 {
		o.to.WriteHeader(o.status)
		o.status = 0
	}
	if _, err := o.to.Write(chunk); err != nil {
		return err
	}
	return o.control.Flush()
}

func (o *output) abandon() {
	o.mu.Lock()
	o.broken = true
	o.mu.Unlock()
	o.room.Broadcast()
}
