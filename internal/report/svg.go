// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// The drawings' measures, in CSS pixels. All time charts share one axis, so that what happened at one time stands in one line.
const (
	width  = 1040.0
	left   = 132.0
	right  = 70.0
	top    = 10.0
	bottom = 26.0
)

// scale maps a value to a place.
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

// ticks are round values along the scale, about n of them.
func (s scale) ticks(n int) (found []float64) {
	if s.log {
		return s.logTicks()
	}
	step := niceStep((s.max - s.min) / float64(n))
	for v := math.Ceil(s.min/step) * step; v <= s.max+step*1e-9; v += step {
		found = append(found, v)
	}
	return found
}

// logTicks are the powers of ten, and what lies between them if there are few.
func (s scale) logTicks() (found []float64) {
	between := []float64{1}
	if s.max/s.min <= 1000 {
		between = []float64{1, 2, 5}
	}
	for e := math.Floor(math.Log10(s.min)); e <= math.Log10(s.max); e++ {
		for _, b := range between {
			if v := b * math.Pow(10, e); v >= s.min*0.999 && v <= s.max*1.001 {
				found = append(found, v)
			}
		}
	}
	return found
}

// niceStep is the least of 1, 2 and 5 times a power of ten that is no less than step.
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

// svg is an SVG that grows.
type svg struct {
	strings.Builder
	height float64
}

func newSVG(height float64, label string) *svg {
	d := &svg{height: height}
	d.printf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, width, height, template.HTMLEscapeString(label))
	return d
}

// printf appends a piece. What comes from outside is escaped by whoever adds it.
func (d *svg) printf(format string, args ...any) { _, _ = fmt.Fprintf(d, format, args...) }

func (d *svg) text(x, y float64, class, text string) {
	d.printf(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, template.HTMLEscapeString(text))
}

func (d *svg) html() template.HTML {
	d.printf("</svg>")
	return template.HTML(d.String())
}

// points are the corners of a line.
type points [][2]float64

// line draws through the points, and leaves a gap where a value is missing (NaN).
func (d *svg) line(class string, p points) {
	d.printf(`<path class="%s" d="`, class)
	pen := "M"
	for _, xy := range p {
		if math.IsNaN(xy[1]) {
			pen = "M"
			continue
		}
		d.printf("%s%.1f %.1f", pen, xy[0], xy[1])
		pen = "L"
	}
	d.printf(`"/>`)
}

// area fills what lies between two lines.
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

// timeAxis is the common axis of the time charts.
func (r *Report) timeAxis() scale {
	last := r.Seconds
	if steps := r.visibleSteps(); len(steps) > 0 {
		last = max(last, steps[len(steps)-1].Start+r.Step)
	}
	return scale{min: 0, max: max(last, r.Step, 0.1), from: left, to: width - right}
}

// visibleSteps are those that are drawn: without the one after the end, if all that it holds is the last few answers.
func (r *Report) visibleSteps() []TimelineStep {
	n := len(r.Timeline)
	if n > 1 && r.Timeline[n-1].Start >= r.Seconds-r.Step/20 && r.Timeline[n-1].Offered < r.Offered/100+1 && r.Timeline[n-1].Answered < r.Answered/100+1 {
		n--
	}
	return r.Timeline[:n]
}

// drawGrid draws the grid, the axes and, behind everything, the faults.
func (r *Report) drawGrid(d *svg, x, y scale, name func(float64) string) {
	r.drawFaults(d, x)
	for _, v := range y.ticks(4) {
		d.printf(`<path class="grid" d="M%.1f %.1fH%.1f"/>`, left, y.position(v), width-right)
		d.text(left-10, y.position(v)+4, "tick end", name(v))
	}
	d.drawTimeAxis(x)
}

// drawFaults marks the times of the faults.
func (r *Report) drawFaults(d *svg, x scale) {
	for _, f := range r.Faults {
		from, until := f.clip(x.max)
		d.printf(`<rect class="fault" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x.position(from), top, max(x.position(until)-x.position(from), 1.5), d.height-bottom-top)
	}
}

// drawTimeAxis labels the time axis.
func (d *svg) drawTimeAxis(x scale) {
	d.printf(`<path class="axis" d="M%.1f %.1fH%.1f"/>`, x.from, d.height-bottom, x.to)
	for _, v := range x.ticks(10) {
		d.text(x.position(v), d.height-bottom+18, "tick middle", fmt.Sprintf("%g s", math.Round(v*100)/100))
	}
}

// clip is when a fault was in force, as far as the run goes.
func (f Fault) clip(end float64) (from, until float64) {
	until = f.Until
	if until == 0 {
		until = end
	}
	return min(f.From, end), min(until, end)
}

// drawLabels writes the names of lines at their right ends, and moves apart what would cover each other.
func (d *svg) drawLabels(x float64, names []label) {
	last := -100.0
	for _, l := range names { // from the top down
		y := max(l.y, last+14)
		d.printf(`<text x="%.1f" y="%.1f" class="name %s">%s</text>`, x+8, y+4, l.class, template.HTMLEscapeString(l.text))
		last = y
	}
}

type label struct {
	y           float64
	class, text string
}
