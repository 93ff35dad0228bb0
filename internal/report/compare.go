// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html/template"
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

// chart draws each ratio as a bar that starts at 1, on a logarithmic scale.
func (c Comparison) chart() template.HTML {
	const rowHeight, nameWidth = 26.0, 190.0
	var rows []comparisonRow
	lowest, highest := 0.5, 2.0
	for _, r := range c.rows() {
		if q := r.ratio(); q > 0 {
			rows = append(rows, r)
			lowest, highest = min(lowest, q), max(highest, q)
		}
	}
	height := top + rowHeight*float64(len(rows)) + bottom
	x := scale{min: lowest / 1.1, max: highest * 1.1, from: nameWidth, to: width - right, log: true}
	d := newSVG(height, "Ratios of the second run to the first")
	for _, v := range []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100} {
		if v >= x.min && v <= x.max {
			d.printf(`<path class="%s" d="M%.1f %.1fV%.1f"/>`, map[bool]string{true: "axis", false: "grid"}[v == 1], x.position(v), top, height-bottom)
			d.text(x.position(v), height-bottom+18, "tick middle", fmt.Sprintf("× %g", v))
		}
	}
	for i, r := range rows {
		y, from, until := top+rowHeight*float64(i)+4, x.position(min(r.ratio(), 1)), x.position(max(r.ratio(), 1))
		d.text(nameWidth-16, y+13, "tick end", r.name)
		d.printf(`<rect class="ratio %s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2"/>`, r.class(), from, y, max(until-from, 2), rowHeight-9)
		d.text(width-right+10, y+13, "tick", fmt.Sprintf("× %.2f", r.ratio()))
	}
	return d.html()
}
