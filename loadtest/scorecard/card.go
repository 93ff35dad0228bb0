// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// result is how a row ended.
type result string

const (
	passed   result = "pass"
	short    result = "falls short"
	notBuilt result = "not built"
)

// card is what one row measured.
type card struct {
	ID      string   `json:"id"`
	Fault   string   `json:"fault"`
	Result  result   `json:"result"`
	Figures []figure `json:"figures,omitempty"`
	// Notes say what a reader has to know of the figures, and why the row could not be run to its end.
	Notes []string `json:"notes,omitempty"`
	TookS float64  `json:"took_s"`
}

// figure is one thing that was measured, and what it must be.
type figure struct {
	Name     string `json:"name"`
	Measured string `json:"measured"`
	Bound    string `json:"bound,omitempty"`
	Pass     bool   `json:"pass"`
}

// String is the row's line.
func (c card) String() string {
	word := map[result]string{passed: "pass", short: "FALLS SHORT", notBuilt: "not built"}[c.Result]
	line := []string{fmt.Sprintf("%-4s %-11s", c.ID, word)}
	for _, f := range c.Figures {
		line = append(line, f.String())
	}
	if c.Result == short {
		line = append(line, c.Notes...)
	}
	if c.Result == notBuilt {
		line = append(line, c.Fault)
	}
	return strings.Join(line, "  ")
}

func (f figure) String() string {
	text := f.Name + " " + f.Measured
	if f.Bound != "" {
		text += " (" + f.Bound + ")"
	}
	if !f.Pass {
		text += " SHORT"
	}
	return text
}

// atMost enters a figure that must not exceed its bound.
func atMost[T cmp.Ordered](c *card, name string, got, most T) {
	c.Figures = append(c.Figures, figure{name, write(got), "<= " + write(most), got <= most})
}

// atLeast enters a figure that must reach its bound.
func atLeast[T cmp.Ordered](c *card, name string, got, least T) {
	c.Figures = append(c.Figures, figure{name, write(got), ">= " + write(least), got >= least})
}

// added enters by how much a latency has grown over that of the fault-free run.
func (c *card) added(name string, before, after, most time.Duration) {
	growth := max(after-before, -before)
	sign := "+"
	if growth < 0 {
		sign = "-"
	}
	c.Figures = append(c.Figures, figure{name, sign + write(max(growth, -growth)), "<= " + write(most), growth <= most})
}

// moved enters by which part a latency has changed since the fault-free run; neither way must it be more than the bound.
func (c *card) moved(name string, before, after time.Duration, most share) {
	by := share(float64(after-before) / float64(max(before, 1)))
	c.Figures = append(c.Figures, figure{name, fmt.Sprintf("%+.1f%%", 100*by), "within " + write(most), by.within(most)})
}

// none enters what must not have happened at all.
func (c *card) none(name string, n int) {
	c.Figures = append(c.Figures, figure{Name: name, Measured: fmt.Sprint(n), Pass: n == 0})
}

// must enters what is so or is not.
func (c *card) must(name, measured string, so bool) {
	c.Figures = append(c.Figures, figure{Name: name, Measured: measured, Pass: so})
}

// share is a part of a whole, written in per cent.
type share float64

// within says whether the share is at most the other, whichever way.
func (s share) within(most share) bool { return -most <= s && s <= most }

func shareOf(part, whole int) share { return share(float64(part) / float64(max(whole, 1))) }

// write writes a figure as people read it.
func write(v any) string {
	switch v := v.(type) {
	case share:
		return trimmed(fmt.Sprintf("%.3f", 100*v)) + "%"
	case float64:
		return fmt.Sprintf("%.3f", v)
	case time.Duration:
		switch {
		case v == never:
			return "never"
		case v < time.Second:
			return fmt.Sprintf("%dms", v.Round(time.Millisecond).Milliseconds())
		}
		return trimmed(fmt.Sprintf("%.2f", v.Seconds())) + "s"
	default:
		return fmt.Sprint(v)
	}
}

// trimmed drops the zeros behind the point, all but those of a whole number's first two.
func trimmed(number string) string {
	whole, part, _ := strings.Cut(number, ".")
	if part = strings.TrimRight(part, "0"); part == "" {
		return whole
	}
	return whole + "." + part
}
