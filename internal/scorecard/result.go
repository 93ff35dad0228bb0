// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// outcome is how a row ended.
type outcome string

const (
	outcomePassed         outcome = "pass"
	outcomeFailed         outcome = "fail"
	outcomeNotImplemented outcome = "not implemented"
)

// rowResult is what one row measured.
type rowResult struct {
	ID      string   `json:"id"`
	Fault   string   `json:"fault"`
	Result  outcome  `json:"result"`
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
func (c rowResult) String() string {
	word := map[outcome]string{outcomePassed: "pass", outcomeFailed: "FAIL", outcomeNotImplemented: "not implemented"}[c.Result]
	line := []string{fmt.Sprintf("%-4s %-15s", c.ID, word)}
	for _, f := range c.Figures {
		line = append(line, f.String())
	}
	if c.Result == outcomeFailed {
		line = append(line, c.Notes...)
	}
	if c.Result == outcomeNotImplemented {
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
		text += " FAIL"
	}
	return text
}

// atMost enters a figure that must not exceed its bound.
func atMost[T cmp.Ordered](c *rowResult, name string, got, most T) {
	c.Figures = append(c.Figures, figure{name, format(got), "<= " + format(most), got <= most})
}

// atLeast enters a figure that must reach its bound.
func atLeast[T cmp.Ordered](c *rowResult, name string, got, least T) {
	c.Figures = append(c.Figures, figure{name, format(got), ">= " + format(least), got >= least})
}

// expectMaxIncrease enters by how much a latency has grown over that of the fault-free run.
func (c *rowResult) expectMaxIncrease(name string, before, after, most time.Duration) {
	growth := max(after-before, -before)
	sign := "+"
	if growth < 0 {
		sign = "-"
	}
	c.Figures = append(c.Figures, figure{name, sign + format(max(growth, -growth)), "<= " + format(most), growth <= most})
}

// expectMaxChange enters by which part a latency has changed since the fault-free run; neither way must it be more than the bound.
func (c *rowResult) expectMaxChange(name string, before, after time.Duration, most fraction) {
	by := fraction(float64(after-before) / float64(max(before, 1)))
	c.Figures = append(c.Figures, figure{name, fmt.Sprintf("%+.1f%%", 100*by), "within " + format(most), by.within(most)})
}

// expectZero enters what must not have happened at all.
func (c *rowResult) expectZero(name string, n int) {
	c.Figures = append(c.Figures, figure{Name: name, Measured: fmt.Sprint(n), Pass: n == 0})
}

// expect enters what is so or is not.
func (c *rowResult) expect(name, measured string, so bool) {
	c.Figures = append(c.Figures, figure{Name: name, Measured: measured, Pass: so})
}

// fraction is a part of a whole, written in per cent.
type fraction float64

// within says whether the share is at most the other, whichever way.
func (s fraction) within(most fraction) bool { return -most <= s && s <= most }

func fractionOf(part, whole int) fraction { return fraction(float64(part) / float64(max(whole, 1))) }

// format writes a figure as people read it.
func format(v any) string {
	switch v := v.(type) {
	case fraction:
		return trimZeros(fmt.Sprintf("%.3f", 100*v)) + "%"
	case float64:
		return fmt.Sprintf("%.3f", v)
	case time.Duration:
		switch {
		case v == never:
			return "never"
		case v < time.Second:
			return fmt.Sprintf("%dms", v.Round(time.Millisecond).Milliseconds())
		}
		return trimZeros(fmt.Sprintf("%.2f", v.Seconds())) + "s"
	default:
		return fmt.Sprint(v)
	}
}

// trimZeros drops the zeros behind the point, all but those of a whole number's first two.
func trimZeros(number string) string {
	whole, part, _ := strings.Cut(number, ".")
	if part = strings.TrimRight(part, "0"); part == "" {
		return whole
	}
	return whole + "." + part
}
