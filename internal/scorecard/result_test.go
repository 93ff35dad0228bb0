// SPDX-License-Identifier: Apache-2.0

package scorecard

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

// rowResult is the result of one row.
type rowResult struct {
	ID      string   `json:"id"`
	Fault   string   `json:"fault"`
	Result  outcome  `json:"result"`
	Figures []figure `json:"figures,omitempty"`
	// Notes explain the figures or say why the row did not finish.
	Notes []string `json:"notes,omitempty"`
	TookS float64  `json:"took_s"`
}

// figure is a measured value and its bound.
type figure struct {
	Name     string `json:"name"`
	Measured string `json:"measured"`
	Bound    string `json:"bound,omitempty"`
	Pass     bool   `json:"pass"`
}

// String returns the line of the row.
func (r rowResult) String() string {
	word := map[outcome]string{outcomePassed: "pass", outcomeFailed: "FAIL", outcomeNotImplemented: "not implemented"}[r.Result]
	line := []string{fmt.Sprintf("%-4s %-15s", r.ID, word)}
	for _, f := range r.Figures {
		line = append(line, f.String())
	}
	if r.Result == outcomeFailed {
		line = append(line, r.Notes...)
	}
	if r.Result == outcomeNotImplemented {
		line = append(line, r.Fault)
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

// atMost records a figure that must not exceed limit.
func atMost[T cmp.Ordered](c *rowResult, name string, got, limit T) {
	c.Figures = append(c.Figures, figure{name, format(got), "<= " + format(limit), got <= limit})
}

// atLeast records a figure that must be at least limit.
func atLeast[T cmp.Ordered](c *rowResult, name string, got, limit T) {
	c.Figures = append(c.Figures, figure{name, format(got), ">= " + format(limit), got >= limit})
}

// expectMaxIncrease records the increase of a latency over the fault-free value. It must not exceed
// limit.
func (r *rowResult) expectMaxIncrease(name string, before, after, limit time.Duration) {
	increase := max(after-before, -before)
	sign := "+"
	if increase < 0 {
		sign = "-"
	}
	r.Figures = append(r.Figures, figure{name, sign + format(max(increase, -increase)), "<= " + format(limit), increase <= limit})
}

// expectMaxChange records the relative change of a latency from the fault-free value. It must not
// exceed limit in either direction.
func (r *rowResult) expectMaxChange(name string, before, after time.Duration, limit fraction) {
	change := fraction(float64(after-before) / float64(max(before, 1)))
	r.Figures = append(r.Figures, figure{name, fmt.Sprintf("%+.1f%%", 100*change), "within " + format(limit), change.within(limit)})
}

// expectZero records a count that must be 0.
func (r *rowResult) expectZero(name string, n int) {
	r.Figures = append(r.Figures, figure{Name: name, Measured: fmt.Sprint(n), Pass: n == 0})
}

// expect records a figure that passes if pass is true.
func (r *rowResult) expect(name, measured string, pass bool) {
	r.Figures = append(r.Figures, figure{Name: name, Measured: measured, Pass: pass})
}

// fraction is a part of a whole. It is printed in percent.
type fraction float64

// within reports whether the absolute value of f is at most limit.
func (f fraction) within(limit fraction) bool { return -limit <= f && f <= limit }

func fractionOf(part, total int) fraction { return fraction(float64(part) / float64(max(total, 1))) }

// format formats a figure for people.
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

// trimZeros removes trailing zeros after the decimal point.
func trimZeros(number string) string {
	total, part, _ := strings.Cut(number, ".")
	if part = strings.TrimRight(part, "0"); part == "" {
		return total
	}
	return total + "." + part
}
