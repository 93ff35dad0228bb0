// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// Chart dimensions in CSS pixels. All time charts share one axis so that simultaneous events align.
const (
	width  = 1040.0
	left   = 132.0
	right  = 70.0
	top    = 10.0
	bottom = 26.0
)

// scale maps a value to a pixel position, linearly or logarithmically.
type scale struct {
	min, max float64
	from, to float64
	log      bool
}

func (s scale) position(v float64) float64 {
	lo, hi := s.min, s.max
	if s.log {
		v, lo, hi = math.Log10(max(v, s.min)), math.Log10(lo), math.Log10(hi)
	}
	if hi == lo {
		return s.from
	}
	return s.from + (s.to-s.from)*(min(max(v, lo), hi)-lo)/(hi-lo)
}

// ticks returns about n round values along the scale.
func (s scale) ticks(n int) (ticks []float64) {
	if s.log {
		return s.logTicks()
	}
	step := niceStep((s.max - s.min) / float64(n))
	for v := math.Ceil(s.min/step) * step; v <= s.max+step*1e-9; v += step {
		ticks = append(ticks, v)
	}
	return ticks
}

// logTicks returns the powers of ten along the scale, and multiples of 2 and 5 if there are few.
func (s scale) logTicks() (ticks []float64) {
	factors := []float64{1}
	if s.max/s.min <= 1000 {
		factors = []float64{1, 2, 5}
	}
	for e := math.Floor(math.Log10(s.min)); e <= math.Log10(s.max); e++ {
		for _, factor := range factors {
			if v := factor * math.Pow(10, e); v >= s.min*0.999 && v <= s.max*1.001 {
				ticks = append(ticks, v)
			}
		}
	}
	return ticks
}

// niceStep rounds step up to 1, 2 or 5 times a power of ten.
func niceStep(step float64) float64 {
	if step <= 0 {
		return 1
	}
	base := math.Pow(10, math.Floor(math.Log10(step)))
	for _, f := range []float64{1, 2, 5} {
		if f*base >= step*0.999 {
			return f * base
		}
	}
	return 10 * base
}

// svg builds an SVG document.
type svg struct {
	strings.Builder
	height float64
}

func newSVG(height float64, label string) *svg {
	d := &svg{height: height}
	d.printf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, width, height, template.HTMLEscapeString(label))
	return d
}

// printf appends markup. The caller escapes untrusted input.
func (d *svg) printf(format string, args ...any) { _, _ = fmt.Fprintf(d, format, args...) }

func (d *svg) text(x, y float64, class, text string) {
	d.printf(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, template.HTMLEscapeString(text))
}

func (d *svg) html() template.HTML {
	d.printf("</svg>")
	return template.HTML(d.String())
}

// points are the vertices of a line.
type points [][2]float64

// line draws a line through the points, with a gap where y is NaN.
func (d *svg) line(class string, p points) {
	d.printf(`<path class="%s" d="`, class)
	command := "M"
	for _, xy := range p {
		if math.IsNaN(xy[1]) {
			command = "M"
			continue
		}
		d.printf("%s%.1f %.1f", command, xy[0], xy[1])
		command = "L"
	}
	d.printf(`"/>`)
}

// area fills the area between two lines.
func (d *svg) area(class string, upper, lower points) {
	d.printf(`<path class="%s" d="M`, class)
	for _, xy := range upper {
		d.printf("%.1f %.1f ", xy[0], xy[1])
	}
	for i := len(lower) - 1; i >= 0; i-- {
		d.printf("%.1f %.1f ", lower[i][0], lower[i][1])
	}
	d.printf(`Z"/>`)
}

// timeAxis returns the x axis that all time charts share.
func (r *Report) timeAxis() scale {
	last := r.Seconds
	if steps := r.visibleSteps(); len(steps) > 0 {
		last = max(last, steps[len(steps)-1].Start+r.Step)
	}
	return scale{min: 0, max: max(last, r.Step, 0.1), from: left, to: width - right}
}

// visibleSteps returns the steps to draw. It omits a last step after the end of the load that holds
// only a few answers.
func (r *Report) visibleSteps() []TimelineStep {
	n := len(r.Timeline)
	if n > 1 && r.Timeline[n-1].Start >= r.Seconds-r.Step/20 && r.Timeline[n-1].Offered < r.Offered/100+1 && r.Timeline[n-1].Answered < r.Answered/100+1 {
		n--
	}
	return r.Timeline[:n]
}

// drawGrid draws the fault intervals, then the grid and the axes.
func (r *Report) drawGrid(d *svg, x, y scale, format func(float64) string) {
	r.drawFaults(d, x)
	for _, v := range y.ticks(4) {
		d.printf(`<path class="grid" d="M%.1f %.1fH%.1f"/>`, left, y.position(v), width-right)
		d.text(left-10, y.position(v)+4, "tick end", format(v))
	}
	d.drawTimeAxis(x)
}

// drawFaults shades the fault intervals.
func (r *Report) drawFaults(d *svg, x scale) {
	for _, f := range r.Faults {
		from, until := f.clip(x.max)
		d.printf(`<rect class="fault" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x.position(from), top, max(x.position(until)-x.position(from), 1.5), d.height-bottom-top)
	}
}

// drawTimeAxis draws the time axis and its labels.
func (d *svg) drawTimeAxis(x scale) {
	d.printf(`<path class="axis" d="M%.1f %.1fH%.1f"/>`, x.from, d.height-bottom, x.to)
	for _, v := range x.ticks(10) {
		d.text(x.position(v), d.height-bottom+18, "tick middle", fmt.Sprintf("%g s", math.Round(v*100)/100))
	}
}

// clip returns the interval in which the fault was active, limited to the end of the run.
func (f Fault) clip(end float64) (from, until float64) {
	until = f.Until
	if until == 0 {
		until = end
	}
	return min(f.From, end), min(until, end)
}

// drawLabels writes the names of lines to the right of them and moves overlapping names apart.
func (d *svg) drawLabels(x float64, names []label) {
	last := -100.0
	for _, l := range names { // in order from top to bottom
		y := max(l.y, last+14)
		d.printf(`<text x="%.1f" y="%.1f" class="name %s">%s</text>`, x+8, y+4, l.class, template.HTMLEscapeString(l.text))
		last = y
	}
}

type label struct {
	y           float64
	class, text string
}
