// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// maxPendingBytes bounds what waits for a caller who writes but does not read. It holds the receipts of some thousands:
// clients that read only after their last byte is out are common, and must not come to a standstill.
const maxPendingBytes = 2 << 20

// output is the receipts of a batch on their way out. Receipts that end while a write is under way leave together
// with the next.
type output struct {
	w            http.ResponseWriter
	status       int // of the answer; 0 is 200
	control      *http.ResponseController
	writeTimeout time.Duration
	wakeup       chan struct{} // holds one: there is something pending, or it is over

	mu       sync.Mutex
	notFull  sync.Cond // pending has shrunk, or the output is broken
	pending  *bytes.Buffer
	finished bool // no more will be added
	failed   bool // the caller does not read any more
}

func newOutput(w http.ResponseWriter, patience time.Duration) *output {
	o := &output{
		w: w, control: http.NewResponseController(w), writeTimeout: patience,
		wakeup: make(chan struct{}, 1), pending: bufferPool.Get().(*bytes.Buffer),
	}
	o.notFull.L = &o.mu
	return o
}

// add hands a line to run. It waits while too much is pending.
func (o *output) add(line []byte) {
	o.mu.Lock()
	for o.pending.Len() > maxPendingBytes && !o.failed {
		o.notFull.Wait()
	}
	if !o.failed {
		o.pending.Write(line)
	}
	o.mu.Unlock()
	o.notify()
}

// finish says that no more will be added.
func (o *output) finish() {
	o.mu.Lock()
	o.finished = true
	o.mu.Unlock()
	o.notify()
}

func (o *output) notify() {
	select {
	case o.wakeup <- struct{}{}:
	default:
	}
}

// run writes until finish was called and all is written, or the caller does not read.
func (o *output) run() error {
	chunk := bufferPool.Get().(*bytes.Buffer)
	defer func() { putBuffer(chunk) }()
	for range o.wakeup {
		runtime.Gosched() // whoever has a line ready adds it first: a write costs more than many lines
		var over bool
		chunk, over = o.take(chunk)
		if err := o.write(chunk.Bytes()); err != nil {
			o.fail()
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
	o.notFull.Broadcast()
	return chunk, o.finished
}

func (o *output) write(chunk []byte) error {
	if len(chunk) == 0 {
		return nil
	}
	_ = o.control.SetWriteDeadline(time.Now().Add(o.writeTimeout))
	if o.status != 0 {
		o.w.WriteHeader(o.status)
		o.status = 0
	}
	if _, err := o.w.Write(chunk); err != nil {
		return err
	}
	return o.control.Flush()
}

func (o *output) fail() {
	o.mu.Lock()
	o.failed = true
	o.mu.Unlock()
	o.notFull.Broadcast()
}
