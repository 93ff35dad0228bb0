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
	to    io.Writer
	bar   bool
	size  int64
	began time.Time
	shown time.Time
}

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 10 * time.Second
	barWidth  = 30
)

func newProgress(to io.Writer, size int64) *progress {
	now := time.Now()
	return &progress{to: to, bar: terminal(to), size: size, began: now, shown: now}
}

// show shows how far it is, if it is time to.
func (p *progress) show(w *window) {
	every := lineEvery
	if p.bar {
		every = barEvery
	}
	if time.Since(p.shown) < every {
		return
	}
	p.shown = time.Now()
	_, _, t := w.standing()
	if p.bar {
		full := int(barWidth * t.bytes / max(p.size, 1))
		say(p.to, "\r[%s%s] %s\x1b[K", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), p.words(t))
		return
	}
	say(p.to, "send: %s\n", p.words(t))
}

func (p *progress) words(t tally) string {
	return fmt.Sprintf("%d %%, %s, %d refused, %.0f/s", 100*t.bytes/max(p.size, 1), lines(t.lines), t.refused, p.rate(t))
}

func (p *progress) rate(t tally) float64 {
	return float64(t.lines) / max(time.Since(p.began), time.Millisecond).Seconds()
}

func lines(n int) string {
	if n == 1 {
		return "1 line"
	}
	return fmt.Sprintf("%d lines", n)
}

// pause says why it goes on only after a while.
func (p *progress) pause(next int, wait time.Duration, err error) {
	p.clear()
	say(p.to, "send: %v; going on at line %d in %s\n", err, next, wait.Round(time.Millisecond))
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.bar {
		say(p.to, "\r\x1b[K")
	}
}

// end says what became of the lines.
func (p *progress) end(w *window) tally {
	p.clear()
	_, _, t := w.standing()
	var parts []string
	for status, n := range t.status {
		parts = append(parts, fmt.Sprintf("%d %s", n, status))
	}
	slices.Sort(parts)
	if t.replayed > 0 {
		parts = append(parts, fmt.Sprintf("%d of them taken before", t.replayed))
	}
	say(p.to, "send: %s in %s (%.0f/s)", lines(t.lines), time.Since(p.began).Round(time.Millisecond), p.rate(t))
	if len(parts) > 0 {
		say(p.to, ": %s", strings.Join(parts, ", "))
	}
	say(p.to, "\n")
	return t
}
