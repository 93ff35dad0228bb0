// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// maxPendingBytes limits what is buffered for a client that writes but does not read. It is enough
// for thousands of receipts: many clients read only after they have written the whole batch, and
// must not block.
const maxPendingBytes = 2 << 20

// output writes the receipts of a batch. Receipts that end during a write are written together by
// the next one.
type output struct {
	w            http.ResponseWriter
	status       int // of the response; 0 means 200
	control      *http.ResponseController
	writeTimeout time.Duration
	wakeup       chan struct{}     // capacity 1: something is pending, or finished is set
	written      func(slots int64) // called with the slots of lines that are written or discarded

	mu       sync.Mutex
	notFull  sync.Cond // pending shrank, or the output failed
	pending  *bytes.Buffer
	slots    int  // of the lines in pending
	finished bool // nothing more will be added
	failed   bool // the client does not read any more
}

func newOutput(w http.ResponseWriter, writeTimeout time.Duration) *output {
	o := &output{
		w: w, control: http.NewResponseController(w), writeTimeout: writeTimeout,
		wakeup: make(chan struct{}, 1), pending: bufferPool.Get().(*bytes.Buffer),
	}
	o.notFull.L = &o.mu
	return o
}

// add passes a line to run. It blocks while too much is pending.
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

// addWithSlots passes lines to run and does not block: their slots, which are free only when the lines
// are written, bound what is pending.
func (o *output) addWithSlots(lines []byte, slots int) {
	o.mu.Lock()
	failed := o.failed
	if !failed {
		o.pending.Write(lines)
		o.slots += slots
	}
	o.mu.Unlock()
	if failed {
		o.written(int64(slots))
		return
	}
	o.notify()
}

// finish declares that nothing more will be added.
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

// run writes until everything is written after finish, or until a write fails.
func (o *output) run() error {
	buf := bufferPool.Get().(*bytes.Buffer)
	defer func() { putBuffer(buf) }()
	for range o.wakeup {
		runtime.Gosched() // lets other goroutines add their lines first: one write costs more than many lines
		taken, slots, finished := o.take(buf)
		buf = taken
		err := o.write(buf.Bytes())
		if err != nil {
			slots += o.fail()
		}
		o.written(int64(slots))
		if err != nil {
			return err
		}
		buf.Reset()
		if finished {
			return nil
		}
	}
	return nil
}

// take replaces the pending buffer with an empty one. slots are those of its lines.
func (o *output) take(empty *bytes.Buffer) (buf *bytes.Buffer, slots int, finished bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	buf, o.pending = o.pending, empty
	slots, o.slots = o.slots, 0
	o.notFull.Broadcast()
	return buf, slots, o.finished
}

func (o *output) write(buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	_ = o.control.SetWriteDeadline(time.Now().Add(o.writeTimeout))
	if o.status != 0 {
		o.w.WriteHeader(o.status)
		o.status = 0
	}
	if _, err := o.w.Write(buf); err != nil {
		return err
	}
	return o.control.Flush()
}

// fail discards what is pending, and all that is added later. It returns the slots of what it
// discards.
func (o *output) fail() (slots int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = true
	slots, o.slots = o.slots, 0
	o.notFull.Broadcast()
	return slots
}
