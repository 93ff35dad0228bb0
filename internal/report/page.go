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
	"count": FormatCount, "millis": FormatMillis, "share": FormatPercent, "class": verdictClass,
	"whole": func(n int) string { return FormatCount(float64(n)) },
	"trim": func(url string) string {
		_, rest, _ := strings.Cut(url, "://")
		return rest
	},
}).Parse(pageText))

// tile is a figure that is seen first.
type tile struct{ Name, Value, More string }

// tableRow is a row of a table.
type tableRow struct {
	Class, Name string
	Values      []string
}

// page is what the template is given.
type page struct {
	Style    template.CSS
	Title    string
	Report   *Report
	Tiles    []tile
	Verdicts []tableRow
	Reasons  []tableRow
	Latency  []tableRow
	Hover    any // what the script shows under the pointer
	Faults, Rate, LatencyChart, Endpoints, Distribution,
	Compare template.HTML
	Rows []tableRow
	A, B string
}

// Page writes one page of HTML that loads nothing from anywhere.
func (r *Report) Page(to io.Writer) error {
	return pages.ExecuteTemplate(to, "page", page{
		Style: template.CSS(styleText), Title: "Load test, " + r.Start.Format("2 January 2006 15:04"), Report: r, Tiles: r.tiles(),
		Verdicts: r.verdictLines(), Reasons: r.reasonLines(), Latency: r.latencyLines(), Hover: r.tooltips(),
		Faults: r.faultTimeline(), Rate: r.rateChart(), LatencyChart: r.latencyChart(), Endpoints: r.endpointChart(), Distribution: r.distributionChart(),
	})
}

func (r *Report) tiles() []tile {
	tiles := []tile{
		{"answered", FormatCount(r.Rate) + "/s", "of " + FormatCount(r.OfferedRate) + "/s offered"},
		{"accepted", FormatPercent(r.Verdicts["accepted"], r.Offered), "of " + FormatCount(float64(r.Offered))},
		{"p50", FormatMillis(r.Latency.P50), "half are faster"},
		{"p99", FormatMillis(r.Latency.P99), "1 in 100 is slower"},
		{"p99.9", FormatMillis(r.Latency.P999), "1 in 1,000 is slower"},
	}
	for _, p := range r.Processes {
		if p.Name == "gateway" {
			tiles = append(tiles, tile{"gateway CPU", fmt.Sprintf("%.2f s", p.PerHundredThousand), "for 100,000"})
		}
	}
	return tiles
}

func (r *Report) verdictLines() (found []tableRow) {
	for _, status := range r.statusesByFrequency() {
		found = append(found, tableRow{verdictClass(status), status, []string{FormatCount(float64(r.Verdicts[status])), FormatPercent(r.Verdicts[status], r.Offered)}})
	}
	return found
}

func (r *Report) reasonLines() (found []tableRow) {
	for i, reason := range keysByCount(r.Reasons) {
		if i == 12 {
			return append(found, tableRow{Name: fmt.Sprintf("and %d more", len(r.Reasons)-i)})
		}
		found = append(found, tableRow{Name: reason, Values: []string{FormatCount(float64(r.Reasons[reason]))}})
	}
	return found
}

func (r *Report) latencyLines() (found []tableRow) {
	add := func(name string, l *Latency) {
		if l != nil {
			found = append(found, tableRow{Name: name, Values: []string{FormatMillis(l.P50), FormatMillis(l.P90), FormatMillis(l.P99), FormatMillis(l.P999), FormatMillis(l.Max)}})
		}
	}
	add("from when it was due", &r.Latency)
	add("of it outside attempts", r.Overhead)
	add("of it before this program sent", r.SendDelay)
	return found
}

// tooltips is what is shown of each step when the pointer is there.
func (r *Report) tooltips() any {
	type step struct {
		At    float64  `json:"at"`
		Lines []string `json:"lines"`
	}
	x := r.timeAxis()
	steps := []step{}
	for _, m := range r.visibleSteps() {
		lines := []string{fmt.Sprintf("%g s", m.Start), fmt.Sprintf("%s/s offered, %s/s answered", FormatCount(float64(m.Offered)/r.stepDuration(m)), FormatCount(float64(m.Answered)/r.Step))}
		if l := m.Latency; l.P50 > 0 {
			lines = append(lines, fmt.Sprintf("p50 %s  p99 %s", FormatMillis(l.P50), FormatMillis(l.P99)), "p99.9 "+FormatMillis(l.P999)+"  max "+FormatMillis(l.Max))
		}
		for _, status := range keysByCount(m.Verdicts) {
			lines = append(lines, FormatCount(float64(m.Verdicts[status]))+" "+status)
		}
		steps = append(steps, step{x.position(m.Start + r.Step/2), lines})
	}
	return map[string]any{"width": width, "steps": steps}
}

// Page writes one page that shows both.
func (c Comparison) Page(to io.Writer) error {
	p := page{Style: template.CSS(styleText), Title: "Two load tests compared", Report: c.B, A: c.NameA, B: c.NameB, Compare: c.chart()}
	for _, r := range c.rows() {
		p.Rows = append(p.Rows, tableRow{Name: r.name, Values: []string{r.format(r.a), r.format(r.b), r.describe()}, Class: r.class()})
	}
	return pages.ExecuteTemplate(to, "comparison", p)
}
