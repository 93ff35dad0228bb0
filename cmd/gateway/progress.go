// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// progress shows the progress of sending a file, as a bar on a terminal and otherwise as a line
// every few seconds.
type progress struct {
	output     io.Writer
	isTerminal bool
	size       int64
	start      time.Time
	lastShown  time.Time
}

const (
	barInterval  = 100 * time.Millisecond
	lineInterval = 10 * time.Second
	barWidth     = 30
)

func newProgress(w io.Writer, size int64) *progress {
	now := time.Now()
	return &progress{output: w, isTerminal: isTerminal(w), size: size, start: now, lastShown: now}
}

// show shows the progress if the interval has passed.
func (p *progress) show(w *window) {
	interval := lineInterval
	if p.isTerminal {
		interval = barInterval
	}
	if time.Since(p.lastShown) < interval {
		return
	}
	p.lastShown = time.Now()
	_, _, t := w.snapshot()
	if p.isTerminal {
		printf(p.output, "\r[%s] %s\x1b[K", bar(t.bytes, p.size), p.describe(t))
		return
	}
	printf(p.output, "send: %s\n", p.describe(t))
}

func (p *progress) describe(t tally) string {
	return fmt.Sprintf("%d %%, %s, %d refused, %.0f/s", 100*t.bytes/max(p.size, 1), countLines(t.lines), t.refused, p.rate(t))
}

func (p *progress) rate(t tally) float64 {
	return float64(t.lines) / max(time.Since(p.start), time.Millisecond).Seconds()
}

func countLines(n int) string {
	if n == 1 {
		return "1 line"
	}
	return fmt.Sprintf("%d lines", n)
}

// showPause shows why sending pauses and where it continues.
func (p *progress) showPause(next int, wait time.Duration, err error) {
	p.clear()
	printf(p.output, "send: %v; continuing at line %d in %s\n", err, next, wait.Round(time.Millisecond))
}

// clear erases the bar.
func (p *progress) clear() {
	if p.isTerminal {
		printf(p.output, "\r\x1b[K")
	}
}

// finish shows the final tally and returns it.
func (p *progress) finish(w *window) tally {
	p.clear()
	_, _, t := w.snapshot()
	var parts []string
	for status, n := range t.status {
		parts = append(parts, fmt.Sprintf("%d %s", n, status))
	}
	slices.Sort(parts)
	if t.replayed > 0 {
		parts = append(parts, fmt.Sprintf("%d already accepted before", t.replayed))
	}
	printf(p.output, "send: %s in %s (%.0f/s)", countLines(t.lines), time.Since(p.start).Round(time.Millisecond), p.rate(t))
	if len(parts) > 0 {
		printf(p.output, ": %s", strings.Join(parts, ", "))
	}
	printf(p.output, "\n")
	return t
}
