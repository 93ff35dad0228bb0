// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// progress shows people how far a file is: a bar on a terminal, else a line now and then.
type progress struct {
	output     io.Writer
	isTerminal bool
	size       int64
	start      time.Time
	lastShown  time.Time
}

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 10 * time.Second
	barWidth  = 30
)

func newProgress(to io.Writer, size int64) *progress {
	now := time.Now()
	return &progress{output: to, isTerminal: isTerminal(to), size: size, start: now, lastShown: now}
}

// show shows how far it is, if it is time to.
func (p *progress) show(w *window) {
	every := lineEvery
	if p.isTerminal {
		every = barEvery
	}
	if time.Since(p.lastShown) < every {
		return
	}
	p.lastShown = time.Now()
	_, _, t := w.snapshot()
	if p.isTerminal {
		full := int(barWidth * t.bytes / max(p.size, 1))
		printf(p.output, "\r[%s%s] %s\x1b[K", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), p.describe(t))
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

// showPause says why it goes on only after a while.
func (p *progress) showPause(next int, wait time.Duration, err error) {
	p.clear()
	printf(p.output, "send: %v; going on at line %d in %s\n", err, next, wait.Round(time.Millisecond))
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.isTerminal {
		printf(p.output, "\r\x1b[K")
	}
}

// finish says what became of the lines.
func (p *progress) finish(w *window) tally {
	p.clear()
	_, _, t := w.snapshot()
	var parts []string
	for status, n := range t.status {
		parts = append(parts, fmt.Sprintf("%d %s", n, status))
	}
	slices.Sort(parts)
	if t.replayed > 0 {
		parts = append(parts, fmt.Sprintf("%d of them taken before", t.replayed))
	}
	printf(p.output, "send: %s in %s (%.0f/s)", countLines(t.lines), time.Since(p.start).Round(time.Millisecond), p.rate(t))
	if len(parts) > 0 {
		printf(p.output, ": %s", strings.Join(parts, ", "))
	}
	printf(p.output, "\n")
	return t
}
