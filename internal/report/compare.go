// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Comparison compares report B with report A, the baseline.
type Comparison struct {
	A, B         *Report
	NameA, NameB string
}

// trend says whether a lower or a higher value of a figure is better.
type trend uint8

const (
	lowerIsBetter trend = iota
	higherIsBetter
	neutral
)

// comparisonRow is one figure of both reports.
type comparisonRow struct {
	name   string
	a, b   float64
	format func(float64) string
	better trend
}

// ratio returns b/a, or 0 if a is 0.
func (r comparisonRow) ratio() float64 {
	if r.a == 0 {
		return 0
	}
	return r.b / r.a
}

// class returns "better" or "worse", or "" if the difference is below 5 % or the figure is neutral.
func (r comparisonRow) class() string {
	switch q := r.ratio(); {
	case r.better == neutral || q == 0 || q > 0.95 && q < 1.05:
		return ""
	case (q > 1) == (r.better == higherIsBetter):
		return "better"
	default:
		return "worse"
	}
}

// describe formats the ratio and its class.
func (r comparisonRow) describe() string {
	switch {
	case r.a == 0 && r.b == 0:
		return "–"
	case r.a == 0:
		return "new"
	default:
		return strings.TrimSpace(fmt.Sprintf("× %.2f %s", r.ratio(), r.class()))
	}
}

// rows returns the compared figures.
func (c Comparison) rows() []comparisonRow {
	count := func(n float64) string { return FormatCount(n) }
	percent := func(n float64) string { return fmt.Sprintf("%.2f %%", n) }
	seconds := func(n float64) string { return fmt.Sprintf("%.2f s", n) }
	mib := func(n float64) string { return fmt.Sprintf("%.0f MiB", n) }
	rows := []comparisonRow{
		{"offered per second", c.A.OfferedRate, c.B.OfferedRate, count, neutral},
		{"answered per second", c.A.Rate, c.B.Rate, count, higherIsBetter},
		{"accepted", c.A.acceptedPercent(), c.B.acceptedPercent(), percent, higherIsBetter},
		{"latency p50", c.A.Latency.P50, c.B.Latency.P50, FormatMillis, lowerIsBetter},
		{"latency p90", c.A.Latency.P90, c.B.Latency.P90, FormatMillis, lowerIsBetter},
		{"latency p99", c.A.Latency.P99, c.B.Latency.P99, FormatMillis, lowerIsBetter},
		{"latency p99.9", c.A.Latency.P999, c.B.Latency.P999, FormatMillis, lowerIsBetter},
		{"latency max", c.A.Latency.Max, c.B.Latency.Max, FormatMillis, lowerIsBetter},
	}
	if c.A.Overhead != nil && c.B.Overhead != nil {
		rows = append(rows, comparisonRow{"overhead p99", c.A.Overhead.P99, c.B.Overhead.P99, FormatMillis, lowerIsBetter})
	}
	for _, a := range c.A.Processes {
		for _, b := range c.B.Processes {
			if a.Name == b.Name {
				rows = append(rows, comparisonRow{a.Name + " CPU per 100,000", a.CPUPer100k, b.CPUPer100k, seconds, lowerIsBetter},
					comparisonRow{a.Name + " memory", a.RSS, b.RSS, mib, lowerIsBetter})
			}
		}
	}
	return rows
}

// acceptedPercent returns the accepted notifications in percent of those offered.
func (r *Report) acceptedPercent() float64 {
	return 100 * float64(r.Verdicts["accepted"]) / float64(max(r.Offered, 1))
}

// Text writes the comparison as a table for a terminal.
func (c Comparison) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintf(t, "\t%s\t%s\t\t\n", c.NameA, c.NameB)
	for _, r := range c.rows() {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", r.name, r.format(r.a), r.format(r.b), r.describe())
	}
	return t.Flush()
}
