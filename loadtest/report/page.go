// SPDX-License-Identifier: Apache-2.0

package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed page.html
var pageText string

//go:embed style.css
var styleText string

var pages = template.Must(template.New("page").Funcs(template.FuncMap{
	"count": Count, "millis": Millis, "share": Share, "class": verdictClass,
	"whole": func(n int) string { return Count(float64(n)) },
	"trim": func(url string) string {
		_, rest, _ := strings.Cut(url, "://")
		return rest
	},
}).Parse(pageText))

// tile is a figure that is seen first.
type tile struct{ Name, Value, More string }

// line is a row of a table.
type line struct {
	Class, Name string
	Values      []string
}

// page is what the template is given.
type page struct {
	Style    template.CSS
	Title    string
	Report   *Report
	Tiles    []tile
	Verdicts []line
	Reasons  []line
	Latency  []line
	Hover    any // what the script shows under the pointer
	Faults, Rate, LatencyChart, Endpoints, Distribution,
	Compare template.HTML
	Rows []line
	A, B string
}

// Page writes one page of HTML that loads nothing from anywhere.
func (r *Report) Page(to io.Writer) error {
	return pages.ExecuteTemplate(to, "page", page{
		Style: template.CSS(styleText), Title: "Load test, " + r.Began.Format("2 January 2006 15:04"), Report: r, Tiles: r.tiles(),
		Verdicts: r.verdictLines(), Reasons: r.reasonLines(), Latency: r.latencyLines(), Hover: r.hover(),
		Faults: r.faultLane(), Rate: r.rateChart(), LatencyChart: r.latencyChart(), Endpoints: r.endpointChart(), Distribution: r.distributionChart(),
	})
}

func (r *Report) tiles() []tile {
	tiles := []tile{
		{"answered", Count(r.Rate) + "/s", "of " + Count(r.OfferedRate) + "/s offered"},
		{"accepted", Share(r.Verdicts["accepted"], r.Offered), "of " + Count(float64(r.Offered))},
		{"p50", Millis(r.Latency.P50), "half are faster"},
		{"p99", Millis(r.Latency.P99), "1 in 100 is slower"},
		{"p99.9", Millis(r.Latency.P999), "1 in 1,000 is slower"},
	}
	for _, p := range r.Processes {
		if p.Name == "gateway" {
			tiles = append(tiles, tile{"gateway CPU", fmt.Sprintf("%.2f s", p.PerHundredThousand), "for 100,000"})
		}
	}
	return tiles
}

func (r *Report) verdictLines() (found []line) {
	for _, status := range r.statuses() {
		found = append(found, line{verdictClass(status), status, []string{Count(float64(r.Verdicts[status])), Share(r.Verdicts[status], r.Offered)}})
	}
	return found
}

func (r *Report) reasonLines() (found []line) {
	for i, reason := range byCount(r.Reasons) {
		if i == 12 {
			return append(found, line{Name: fmt.Sprintf("and %d more", len(r.Reasons)-i)})
		}
		found = append(found, line{Name: reason, Values: []string{Count(float64(r.Reasons[reason]))}})
	}
	return found
}

func (r *Report) latencyLines() (found []line) {
	add := func(name string, l *Latency) {
		if l != nil {
			found = append(found, line{Name: name, Values: []string{Millis(l.P50), Millis(l.P90), Millis(l.P99), Millis(l.P999), Millis(l.Max)}})
		}
	}
	add("from when it was due", &r.Latency)
	add("of it outside attempts", r.Own)
	add("of it before this program sent", r.Late)
	return found
}

// hover is what is shown of each step when the pointer is there.
func (r *Report) hover() any {
	type step struct {
		At    float64  `json:"at"`
		Lines []string `json:"lines"`
	}
	x := r.timeAxis()
	steps := []step{}
	for _, m := range r.steps() {
		lines := []string{fmt.Sprintf("%g s", m.At), fmt.Sprintf("%s/s offered, %s/s answered", Count(float64(m.Offered)/r.lengthOf(m)), Count(float64(m.Answered)/r.Step))}
		if l := m.Latency; l.P50 > 0 {
			lines = append(lines, fmt.Sprintf("p50 %s  p99 %s", Millis(l.P50), Millis(l.P99)), "p99.9 "+Millis(l.P999)+"  max "+Millis(l.Max))
		}
		for _, status := range byCount(m.Verdicts) {
			lines = append(lines, Count(float64(m.Verdicts[status]))+" "+status)
		}
		steps = append(steps, step{x.at(m.At + r.Step/2), lines})
	}
	return map[string]any{"width": width, "steps": steps}
}

// Page writes one page that shows both.
func (c Comparison) Page(to io.Writer) error {
	p := page{Style: template.CSS(styleText), Title: "Two load tests compared", Report: c.B, A: c.NameA, B: c.NameB, Compare: c.chart()}
	for _, r := range c.rows() {
		p.Rows = append(p.Rows, line{Name: r.name, Values: []string{r.write(r.a), r.write(r.b), r.words()}, Class: r.class()})
	}
	return pages.ExecuteTemplate(to, "comparison", p)
}
