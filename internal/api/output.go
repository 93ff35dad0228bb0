// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluice-push/sluice/internal/panics"
)

// maxPendingBytes limits what is buffered for a client that writes but does not read. It is enough
// for thousands of receipts: many clients read only after they have written the whole batch, and
// must not block.
const maxPendingBytes = 2 << 20

// output writes the receipts of a batch. Receipts that end during a write are written together by
// the next one.
type output struct {
	w            http.ResponseWriter
	log          *slog.Logger
	status       int // of the response; 0 means 200
	control      *http.ResponseController
	writeTimeout time.Duration
	wakeup       chan struct{} // capacity 1: something is pending, or finished is set

	mu       sync.Mutex
	notFull  sync.Cond // pending shrank, or the output failed
	pending  *bytes.Buffer
	held     slotCounts // of the lines in pending
	finished bool       // nothing more will be added
	failed   bool       // the client does not read any more
}

// slotCounts are slots that are released when lines are written or discarded, by their semaphore.
type slotCounts map[*semaphore.Weighted]int64

func (c slotCounts) release() {
	for slots, count := range c {
		slots.Release(count)
	}
	clear(c)
}

func newOutput(w http.ResponseWriter, writeTimeout time.Duration, log *slog.Logger) *output {
	o := &output{
		w: w, log: log, control: http.NewResponseController(w), writeTimeout: writeTimeout,
		wakeup: make(chan struct{}, 1), pending: bufferPool.Get().(*bytes.Buffer), held: slotCounts{},
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

// addWithSlots passes lines to run and does not block: count of the slots, which are free only when the
// lines are written, bound what is pending.
func (o *output) addWithSlots(lines []byte, slots *semaphore.Weighted, count int) {
	o.mu.Lock()
	failed := o.failed
	if !failed {
		o.pending.Write(lines)
		o.held[slots] += int64(count)
	}
	o.mu.Unlock()
	if failed {
		slots.Release(int64(count))
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
	buf, held := bufferPool.Get().(*bytes.Buffer), slotCounts{}
	defer func() { putBuffer(buf) }()
	for range o.wakeup {
		runtime.Gosched() // lets other goroutines add their lines first: one write costs more than many lines
		var finished bool
		buf, held, finished = o.take(buf, held)
		err := panics.Recover(o.log, "response of a batch", func() error { return o.write(buf.Bytes()) })
		held.release()
		if err != nil {
			o.fail()
			return err
		}
		buf.Reset()
		if finished {
			return nil
		}
	}
	return nil
}

// take replaces the pending buffer and its slots with empty ones.
func (o *output) take(empty *bytes.Buffer, none slotCounts) (buf *bytes.Buffer, held slotCounts, finished bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	buf, o.pending = o.pending, empty
	held, o.held = o.held, none
	o.notFull.Broadcast()
	return buf, held, o.finished
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

// fail discards what is pending, and all that is added later.
func (o *output) fail() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = true
	o.held.release()
	o.notFull.Broadcast()
}
