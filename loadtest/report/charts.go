// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
)

// faultLane says above the charts what went wrong, and when.
func (r *Report) faultLane() template.HTML {
	if len(r.Faults) == 0 {
		return ""
	}
	const rowHeight = 22.0
	x := r.timeAxis()
	d := newDrawing(float64(len(r.Faults))*rowHeight+2, "The faults that were played")
	for i, f := range r.Faults {
		from, until := f.within(x.max)
		y := float64(i) * rowHeight
		d.add(`<rect class="lane" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="4"/>`, x.at(from), y, max(x.at(until)-x.at(from), 3), rowHeight-4)
		place, class := x.at(from)+8, "lanetext"
		if x.at(from) > width*0.6 {
			place, class = x.at(from)-8, "lanetext end"
		}
		d.text(place, y+13.5, class, f.Words)
	}
	return d.end()
}

// verdictClass is the colour of a verdict: one for what went well, one for what the caller can send again, one for a no,
// and one for what nobody knows.
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

// rateChart draws what was offered, and what was answered by verdict.
func (r *Report) rateChart() template.HTML {
	const height = 230.0
	most := 0.0
	for _, m := range r.steps() {
		most = max(most, float64(max(m.Offered, m.Answered))/r.Step)
	}
	x, y := r.timeAxis(), scale{min: 0, max: max(most*1.08, 1), from: height - bottom, to: top}
	d := newDrawing(height, "Notifications offered and answered a second, over time")
	r.frame(d, x, y, Count)
	floor := r.along(x, func(Moment) float64 { return y.at(0) })
	below := make([]float64, len(r.steps()))
	for _, status := range r.statuses() {
		i := -1
		line := r.along(x, func(m Moment) float64 {
			i++
			below[i] += float64(m.Verdicts[status]) / r.Step
			return y.at(below[i])
		})
		d.area("area "+verdictClass(status), line, floor)
		floor = line
	}
	d.line("offered", r.along(x, func(m Moment) float64 {
		if m.At >= r.Seconds {
			return math.NaN() // nothing was offered any more
		}
		return y.at(float64(m.Offered) / r.lengthOf(m))
	}))
	return d.end()
}

// lengthOf is how long a step took: the last one may have been cut short.
func (r *Report) lengthOf(m Moment) float64 { return max(min(r.Step, r.Seconds-m.At), r.Step/10) }

// statuses lists the verdicts, the most frequent first; accepted ones are at the bottom of the chart.
func (r *Report) statuses() []string {
	all := byCount(r.Verdicts)
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Compare(verdictClass(a), verdictClass(b)) })
	return all
}

// along draws a value of every step at its middle.
func (r *Report) along(x scale, value func(Moment) float64) points {
	var p points
	for _, m := range r.steps() {
		p = append(p, [2]float64{x.at(m.At + r.Step/2), value(m)})
	}
	return p
}

// percentiles are the lines of the latency chart, the slowest first.
var percentiles = []struct {
	name, class string
	of          func(Latency) float64
}{
	{"p99.9", "p4", func(l Latency) float64 { return l.P999 }},
	{"p99", "p3", func(l Latency) float64 { return l.P99 }},
	{"p90", "p2", func(l Latency) float64 { return l.P90 }},
	{"p50", "p1", func(l Latency) float64 { return l.P50 }},
}

// latencyChart draws how long took what was due at each time.
func (r *Report) latencyChart() template.HTML {
	const height = 270.0
	x, y := r.timeAxis(), r.latencyScale()
	y.from, y.to = height-bottom, top
	d := newDrawing(height, "Percentiles of the latency, on a logarithmic scale, over time")
	r.frame(d, x, y, tickMillis)
	var names []label
	for _, p := range percentiles {
		line := r.along(x, func(m Moment) float64 {
			if v := p.of(m.Latency); v > 0 {
				return y.at(v)
			}
			return math.NaN()
		})
		d.line("line "+p.class, line)
		if end := lastOf(line); end != nil {
			names = append(names, label{end[1], p.class, p.name})
		}
	}
	d.labels(width-right, names)
	return d.end()
}

func lastOf(p points) *[2]float64 {
	for i := len(p) - 1; i >= 0; i-- {
		if !math.IsNaN(p[i][1]) {
			return &p[i]
		}
	}
	return nil
}

// latencyScale holds every percentile of every step.
func (r *Report) latencyScale() scale {
	least, most := math.Inf(1), 0.0
	for _, m := range r.steps() {
		if m.Latency.P50 > 0 {
			least, most = min(least, m.Latency.P50), max(most, m.Latency.P999)
		}
	}
	if most == 0 {
		return scale{min: 1, max: 10, log: true}
	}
	return scale{min: least / 1.6, max: most * 1.4, log: true}
}

// endpointChart draws a row for each endpoint, the darker the more attempts were made there.
func (r *Report) endpointChart() template.HTML {
	if len(r.Endpoints) == 0 {
		return ""
	}
	const rowHeight = 19.0
	x := r.timeAxis()
	height := top + rowHeight*float64(len(r.Endpoints)) + bottom
	d := newDrawing(height, "Attempts at each endpoint, over time")
	most := 1
	for _, m := range r.steps() {
		for _, n := range m.Endpoints {
			most = max(most, n)
		}
	}
	r.shade(d, x)
	for i, e := range r.Endpoints {
		y := top + rowHeight*float64(i)
		d.text(x.from-10, y+13, "tick end", e.Address)
		r.endpointRow(d, x, y, rowHeight, e.Address, most)
		d.text(x.to+8, y+13, "tick", Share(e.Attempts, r.attempts()))
	}
	d.seconds(x)
	return d.end()
}

// endpointRow draws one endpoint: its attempts, and when the gateway thought that it was not well.
func (r *Report) endpointRow(d *drawing, x scale, y, height float64, address string, most int) {
	for _, m := range r.steps() {
		from, until := x.at(m.At), x.at(m.At+r.Step)
		words := fmt.Sprintf("%s at %g s: %s attempts", address, m.At, Count(float64(m.Endpoints[address])))
		class := "cell"
		if trouble := m.Troubled[address]; trouble != "" {
			class, words = "cell ill", words+", "+trouble
		}
		share := float64(m.Endpoints[address]) / float64(most)
		d.add(`<rect class="%s" x="%.1f" y="%.1f" width="%.2f" height="%.1f"><title>%s</title></rect>`, class, from, y, until-from+0.3, height-3,
			template.HTMLEscapeString(words))
		if share > 0 && class == "cell" {
			d.add(`<rect class="heat" x="%.1f" y="%.1f" width="%.2f" height="%.1f" opacity="%.2f"/>`, from, y, until-from+0.3, height-3, 0.12+0.88*share)
		}
	}
}

// distributionChart draws how many took how long.
func (r *Report) distributionChart() template.HTML {
	if len(r.Distribution) == 0 {
		return ""
	}
	const height = 230.0
	most, widen := 0, math.Pow(10, 1.0/20)
	for _, c := range r.Distribution {
		most = max(most, c.Count)
	}
	first, last := r.Distribution[0].UpTo/widen, r.Distribution[len(r.Distribution)-1].UpTo
	x := scale{min: first, max: max(last, first*10), from: left, to: width - right, log: true}
	y := scale{min: 0, max: float64(most) * 1.12, from: height - bottom, to: top + 22}
	d := newDrawing(height, "How many notifications took how long")
	for _, v := range y.ticks(3) {
		d.add(`<path class="grid" d="M%.1f %.1fH%.1f"/>`, left, y.at(v), width-right)
		d.text(left-10, y.at(v)+4, "tick end", Count(v))
	}
	for _, c := range r.Distribution {
		from, until := x.at(c.UpTo/widen), x.at(c.UpTo)
		d.add(`<rect class="bar" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, from+0.75, y.at(float64(c.Count)),
			max(until-from-1.5, 0.5), height-bottom-y.at(float64(c.Count)), template.HTMLEscapeString(fmt.Sprintf("up to %s: %s", Millis(c.UpTo), Count(float64(c.Count)))))
	}
	d.add(`<path class="axis" d="M%.1f %.1fH%.1f"/>`, left, height-bottom, width-right)
	for _, v := range x.ticks(0) {
		d.text(x.at(v), height-bottom+18, "tick middle", tickMillis(v))
	}
	r.marks(d, x, height)
	return d.end()
}

// marks shows where the percentiles lie in the distribution.
func (r *Report) marks(d *drawing, x scale, height float64) {
	last := -100.0
	for i := len(percentiles) - 1; i >= 0; i-- {
		p := percentiles[i]
		at := x.at(p.of(r.Latency))
		d.add(`<path class="mark" d="M%.1f %.1fV%.1f"/>`, at, top+16, height-bottom)
		if at-last > 34 {
			d.text(at, top+10, "tick middle", p.name)
			last = at
		}
	}
}
