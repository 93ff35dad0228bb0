// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// maxOpenLines is how many lines are on their way at a time. It bounds memory, whatever the length of the file.
const maxOpenLines = 20_000

// line is a line of the file, by its number from 1 and where it begins and ends.
type line struct {
	number     int
	start, end int64
	done       bool
}

// window is the lines from the first that is not done to the last that was read. Each is written again, call by call, until
// it is done.
type window struct {
	mu      sync.Mutex
	changed sync.Cond // something below has changed
	first   line      // the first line that is not done, if open is empty; only number and at
	open    []line
	eof     bool // all lines were read

	// Of the call under way:
	sent       map[int]int // index -> line number
	count      int
	halted     bool          // nothing more is to be written
	retryAfter time.Duration // that the gateway asked for

	tally tally
}

// tally is what became of the lines that are done.
type tally struct {
	lines    int
	status   map[push.Status]int
	replayed int   // had been taken by an earlier call
	refused  int   // for good
	bytes    int64 // of the file up to the first line that is not done
}

func newWindow() *window {
	w := &window{first: line{number: 1}, tally: tally{status: map[push.Status]int{}}}
	w.changed.L = &w.mu
	return w
}

// begin forgets what was on its way in the call before, and returns the line to begin with.
func (w *window) begin() line {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.count, w.halted, w.retryAfter, w.eof = map[int]int{}, 0, false, 0, false
	return w.firstOpen()
}

// firstOpen is the first line that is not done. w.mu is held.
func (w *window) firstOpen() line {
	if len(w.open) > 0 {
		return w.open[0]
	}
	return w.first
}

// halt lets nothing more be written in this call, and wakes its writer.
func (w *window) halt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.halted = true
	w.changed.Broadcast()
}

// markEOF notes that there are no more lines.
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

// snapshot returns the number of the first line that is not done, how long the gateway asked to wait, and the tally.
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

// admit waits for room and notes that l is about to be written. It is not wanted if it is done or blank; open is false once
// nothing more is to be written.
func (w *window) admit(l line, blank bool) (wanted, open bool) {
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
	w.sent[w.count] = l.number
	w.count++
	return true, true
}

// markDone marks a line as done. w.mu is held.
func (w *window) markDone(number int) {
	w.open[number-w.open[0].number].done = true
	for len(w.open) > 0 && w.open[0].done {
		w.first = line{number: w.open[0].number + 1, start: w.open[0].end}
		w.open = w.open[1:]
	}
	w.changed.Broadcast()
}

// record notes what became of a line of this call, and returns its number; 0 if there is no such line.
func (w *window) record(v lineReceipt) (number int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	number = w.sent[v.Index]
	if number == 0 {
		return 0
	}
	delete(w.sent, v.Index)
	if v.retryable() {
		w.halted, w.retryAfter = true, max(w.retryAfter, time.Duration(v.RetryAfter*float64(time.Second)))
		w.changed.Broadcast()
		return number
	}
	w.tally.lines++
	w.tally.status[v.Status]++
	if v.Replayed {
		w.tally.replayed++
	}
	if v.Status == push.StatusRefused {
		w.tally.refused++
	}
	w.markDone(number)
	return number
}
