// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
)

// faultTimeline draws one bar with a description for each fault.
func (r *Report) faultTimeline() template.HTML {
	if len(r.Faults) == 0 {
		return ""
	}
	const rowHeight = 22.0
	x := r.timeAxis()
	d := newSVG(float64(len(r.Faults))*rowHeight+2, "Injected faults")
	for i, f := range r.Faults {
		from, until := f.clip(x.max)
		y := float64(i) * rowHeight
		d.printf(`<rect class="lane" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="4"/>`, x.position(from), y, max(x.position(until)-x.position(from), 3), rowHeight-4)
		place, class := x.position(from)+8, "lanetext"
		if x.position(from) > width*0.6 {
			place, class = x.position(from)-8, "lanetext end"
		}
		d.text(place, y+13.5, class, f.Description)
	}
	return d.html()
}

// verdictClass returns the CSS class for the color of a verdict: v1 accepted, v2 safe to send
// again, v3 refused, v4 result unknown.
func verdictClass(status string) string {
	switch status {
	case "accepted":
		return "v1"
	case "throttled", "unavailable", "expired":
		return "v2"
	case "unknown", "lost":
		return "v4"
	default:
		return "v3"
	}
}

// rateChart draws the notifications offered and, stacked by verdict, those answered.
func (r *Report) rateChart() template.HTML {
	const height = 230.0
	maxRate := 0.0
	for _, m := range r.visibleSteps() {
		maxRate = max(maxRate, float64(max(m.Offered, m.Answered))/r.Step)
	}
	x, y := r.timeAxis(), scale{min: 0, max: max(maxRate*1.08, 1), from: height - bottom, to: top}
	d := newSVG(height, "Notifications offered and answered per second, over time")
	r.drawGrid(d, x, y, FormatCount)
	floor := r.series(x, func(TimelineStep) float64 { return y.position(0) })
	below := make([]float64, len(r.visibleSteps()))
	for _, status := range r.sortedStatuses() {
		i := -1
		line := r.series(x, func(m TimelineStep) float64 {
			i++
			below[i] += float64(m.Verdicts[status]) / r.Step
			return y.position(below[i])
		})
		d.area("area "+verdictClass(status), line, floor)
		floor = line
	}
	d.line("offered", r.series(x, func(m TimelineStep) float64 {
		if m.Start >= r.Seconds {
			return math.NaN() // no load after the end
		}
		return y.position(float64(m.Offered) / r.stepDuration(m))
	}))
	return d.html()
}

// stepDuration returns the seconds of load in a step. The last step may be shorter than the others.
func (r *Report) stepDuration(m TimelineStep) float64 {
	return max(min(r.Step, r.Seconds-m.Start), r.Step/10)
}

// sortedStatuses returns the verdicts by class and then by descending count. Accepted comes first,
// at the bottom of the chart.
func (r *Report) sortedStatuses() []string {
	all := keysByCount(r.Verdicts)
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Compare(verdictClass(a), verdictClass(b)) })
	return all
}

// series returns one point per step, at the middle of the step.
func (r *Report) series(x scale, value func(TimelineStep) float64) points {
	var p points
	for _, m := range r.visibleSteps() {
		p = append(p, [2]float64{x.position(m.Start + r.Step/2), value(m)})
	}
	return p
}

// percentiles are the lines of the latency chart, from the highest percentile to the lowest.
var percentiles = []struct {
	name, class string
	of          func(Latency) float64
}{
	{"p99.9", "p4", func(l Latency) float64 { return l.P999 }},
	{"p99", "p3", func(l Latency) float64 { return l.P99 }},
	{"p90", "p2", func(l Latency) float64 { return l.P90 }},
	{"p50", "p1", func(l Latency) float64 { return l.P50 }},
}

// latencyChart draws latency percentiles by due time.
func (r *Report) latencyChart() template.HTML {
	const height = 270.0
	x, y := r.timeAxis(), r.latencyScale()
	y.from, y.to = height-bottom, top
	d := newSVG(height, "Latency percentiles over time, on a logarithmic scale")
	r.drawGrid(d, x, y, formatTick)
	var names []label
	for _, p := range percentiles {
		line := r.series(x, func(m TimelineStep) float64 {
			if v := p.of(m.Latency); v > 0 {
				return y.position(v)
			}
			return math.NaN()
		})
		d.line("line "+p.class, line)
		if end := lastPoint(line); end != nil {
			names = append(names, label{end[1], p.class, p.name})
		}
	}
	d.drawLabels(width-right, names)
	return d.html()
}

func lastPoint(p points) *[2]float64 {
	for i := len(p) - 1; i >= 0; i-- {
		if !math.IsNaN(p[i][1]) {
			return &p[i]
		}
	}
	return nil
}

// latencyScale returns a scale that covers the percentiles of all steps.
func (r *Report) latencyScale() scale {
	lowest, highest := math.Inf(1), 0.0
	for _, m := range r.visibleSteps() {
		if m.Latency.P50 > 0 {
			lowest, highest = min(lowest, m.Latency.P50), max(highest, m.Latency.P999)
		}
	}
	if highest == 0 {
		return scale{min: 1, max: 10, log: true}
	}
	return scale{min: lowest / 1.6, max: highest * 1.4, log: true}
}

// endpointChart draws a heat map of attempts with one row per endpoint.
func (r *Report) endpointChart() template.HTML {
	if len(r.Endpoints) == 0 {
		return ""
	}
	const rowHeight = 19.0
	x := r.timeAxis()
	height := top + rowHeight*float64(len(r.Endpoints)) + bottom
	d := newSVG(height, "Attempts per endpoint over time")
	maxAttempts := 1
	for _, m := range r.visibleSteps() {
		for _, n := range m.Endpoints {
			maxAttempts = max(maxAttempts, n)
		}
	}
	r.drawFaults(d, x)
	for i, e := range r.Endpoints {
		y := top + rowHeight*float64(i)
		d.text(x.from-10, y+13, "tick end", e.Address)
		r.drawEndpointRow(d, x, y, rowHeight, e.Address, maxAttempts)
		d.text(x.to+8, y+13, "tick", FormatPercent(e.Attempts, r.attempts()))
	}
	d.drawTimeAxis(x)
	return d.html()
}

// drawEndpointRow draws the attempts on one endpoint and marks the steps in which it was unhealthy.
func (r *Report) drawEndpointRow(d *svg, x scale, y, height float64, address string, maxAttempts int) {
	for _, m := range r.visibleSteps() {
		from, until := x.position(m.Start), x.position(m.Start+r.Step)
		title := fmt.Sprintf("%s at %g s: %s attempts", address, m.Start, FormatCount(float64(m.Endpoints[address])))
		class := "cell"
		if state := m.Unhealthy[address]; state != "" {
			class, title = "cell unhealthy", title+", "+state
		}
		share := float64(m.Endpoints[address]) / float64(maxAttempts)
		d.printf(`<rect class="%s" x="%.1f" y="%.1f" width="%.2f" height="%.1f"><title>%s</title></rect>`, class, from, y, until-from+0.3, height-3,
			template.HTMLEscapeString(title))
		if share > 0 && class == "cell" {
			d.printf(`<rect class="heat" x="%.1f" y="%.1f" width="%.2f" height="%.1f" opacity="%.2f"/>`, from, y, until-from+0.3, height-3, 0.12+0.88*share)
		}
	}
}

// distributionChart draws the latency histogram.
func (r *Report) distributionChart() template.HTML {
	if len(r.Distribution) == 0 {
		return ""
	}
	const height = 230.0
	maxCount, bucketRatio := 0, math.Pow(10, 1.0/20)
	for _, c := range r.Distribution {
		maxCount = max(maxCount, c.Count)
	}
	first, last := r.Distribution[0].UpTo/bucketRatio, r.Distribution[len(r.Distribution)-1].UpTo
	x := scale{min: first, max: max(last, first*10), from: left, to: width - right, log: true}
	y := scale{min: 0, max: float64(maxCount) * 1.12, from: height - bottom, to: top + 22}
	d := newSVG(height, "Latency distribution")
	for _, v := range y.ticks(3) {
		d.printf(`<path class="grid" d="M%.1f %.1fH%.1f"/>`, left, y.position(v), width-right)
		d.text(left-10, y.position(v)+4, "tick end", FormatCount(v))
	}
	for _, c := range r.Distribution {
		from, until := x.position(c.UpTo/bucketRatio), x.position(c.UpTo)
		d.printf(`<rect class="bar" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, from+0.75, y.position(float64(c.Count)),
			max(until-from-1.5, 0.5), height-bottom-y.position(float64(c.Count)), template.HTMLEscapeString(fmt.Sprintf("up to %s: %s", FormatMillis(c.UpTo), FormatCount(float64(c.Count)))))
	}
	d.printf(`<path class="axis" d="M%.1f %.1fH%.1f"/>`, left, height-bottom, width-right)
	for _, v := range x.ticks(0) {
		d.text(x.position(v), height-bottom+18, "tick middle", formatTick(v))
	}
	r.drawPercentiles(d, x, height)
	return d.html()
}

// drawPercentiles marks the percentiles in the distribution chart.
func (r *Report) drawPercentiles(d *svg, x scale, height float64) {
	last := -100.0
	for i := len(percentiles) - 1; i >= 0; i-- {
		p := percentiles[i]
		at := x.position(p.of(r.Latency))
		d.printf(`<path class="mark" d="M%.1f %.1fV%.1f"/>`, at, top+16, height-bottom)
		if at-last > 34 {
			d.text(at, top+10, "tick middle", p.name)
			last = at
		}
	}
}
