// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// maxOpenLines limits the lines between the first line that is not done and the last that was read.
// It bounds memory for files of any length.
const maxOpenLines = 20_000

// line is a line of the file. Numbers start at 1; start and end are byte offsets.
type line struct {
	number     int
	start, end int64
	done       bool
}

// window holds the lines from the first that is not done to the last that was read. Each call sends
// the lines that are not done.
type window struct {
	mu      sync.Mutex
	changed sync.Cond // signals changes of the fields below
	first   line      // the first line that is not done, if open is empty; only number and start are set
	open    []line
	eof     bool // all lines have been read

	// State of the current call:
	sent       map[int]*sentLine // by index
	count      int
	halted     bool          // the call sends no further lines
	retryAfter time.Duration // requested by the gateway

	tally tally
}

// sentLine is a line in the current call.
type sentLine struct {
	number   int
	missing  int           // receipts; a line has one for each target
	receipts []lineReceipt // those that are not retryable
	retry    bool          // a receipt is retryable
}

// tally counts the lines that are done, and their receipts.
type tally struct {
	lines    int
	status   map[push.Status]int
	replayed int   // accepted by an earlier call
	refused  int   // refused permanently
	bytes    int64 // offset of the first line that is not done
}

func newWindow() *window {
	w := &window{first: line{number: 1}, tally: tally{status: map[push.Status]int{}}}
	w.changed.L = &w.mu
	return w
}

// begin resets the state of the call and returns the first line to send.
func (w *window) begin() line {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.count, w.halted, w.retryAfter, w.eof = map[int]*sentLine{}, 0, false, 0, false
	return w.firstOpen()
}

// firstOpen returns the first line that is not done. The caller holds w.mu.
func (w *window) firstOpen() line {
	if len(w.open) > 0 {
		return w.open[0]
	}
	return w.first
}

// halt stops the current call from sending further lines and wakes its writer.
func (w *window) halt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.halted = true
	w.changed.Broadcast()
}

// markEOF records that all lines have been read.
func (w *window) markEOF() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eof = true
}

// finished reports whether every line of the file is done.
func (w *window) finished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eof && len(w.open) == 0
}

// snapshot returns the number of the first line that is not done, the wait requested by the
// gateway, and a copy of the tally.
func (w *window) snapshot() (next int, wait time.Duration, t tally) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t = w.tally
	t.status = make(map[push.Status]int, len(w.tally.status))
	for status, n := range w.tally.status {
		t.status[status] = n
	}
	t.bytes = w.firstOpen().start
	return w.firstOpen().number, w.retryAfter, t
}

// admit waits until the window has room for l and records that l is sent to a number of targets. send is false if the line
// is done or blank. open is false if the call must not send further lines.
func (w *window) admit(l line, blank bool, targets int) (send, open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.halted && l.number-w.firstOpen().number >= maxOpenLines {
		w.changed.Wait()
	}
	if w.halted {
		return false, false
	}
	i := l.number - w.firstOpen().number
	if i == len(w.open) {
		w.open = append(w.open, l)
	}
	if blank && i >= 0 {
		w.markDone(l.number)
	}
	if blank || i < 0 || w.open[i].done {
		return false, true
	}
	w.sent[w.count] = &sentLine{number: l.number, missing: targets}
	w.count++
	return true, true
}

// markDone marks a line as done and advances the window. The caller holds w.mu.
func (w *window) markDone(number int) {
	w.open[number-w.open[0].number].done = true
	for len(w.open) > 0 && w.open[0].done {
		w.first = line{number: w.open[0].number + 1, start: w.open[0].end}
		w.open = w.open[1:]
	}
	w.changed.Broadcast()
}

// record records a receipt of the current call and returns the number of its line, or 0 if there is
// no such line. A retryable receipt halts the call. The line is done when it has all its receipts and
// none of them is retryable.
func (w *window) record(v lineReceipt) (number int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.sent[v.Index]
	if l == nil {
		return 0
	}
	if l.missing--; v.TargetIndex == nil {
		l.missing = 0 // the receipt is for the whole line
	}
	if v.retryable() {
		l.retry = true
		w.halted, w.retryAfter = true, max(w.retryAfter, time.Duration(v.RetryAfter*float64(time.Second)))
		w.changed.Broadcast()
	} else {
		l.receipts = append(l.receipts, v)
	}
	if l.missing > 0 {
		return l.number
	}
	delete(w.sent, v.Index)
	if !l.retry {
		w.tally.add(l)
		w.markDone(l.number)
	}
	return l.number
}

// add counts a line that is done.
func (t *tally) add(l *sentLine) {
	t.lines++
	for _, v := range l.receipts {
		t.status[v.Status]++
		if v.Replayed {
			t.replayed++
		}
		if v.Status == push.StatusRefused {
			t.refused++
		}
	}
}
