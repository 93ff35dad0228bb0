// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"github.com/sluice-push/sluice/internal/report/uplot"
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

// tile is a headline figure.
type tile struct{ Name, Value, More string }

// tableRow is a row of a table.
type tableRow struct {
	Class, Name string
	Values      []string
}

// page is the data of the templates.
type page struct {
	Style    template.CSS
	Title    string
	Report   *Report
	Tiles    []tile
	Verdicts []tableRow
	Reasons  []tableRow
	Latency  []tableRow
	Library  template.JS
	Script   template.JS
	Charts   chartedReport
	Rows     []shownRow // of the comparison
	A, B     string     // names of the compared reports
}

// Page writes the report as one self-contained HTML page.
func (r *Report) Page(w io.Writer) error {
	return pages.ExecuteTemplate(w, "page", page{
		Style: template.CSS(uplot.Style + styleText), Title: "Load test, " + r.Start.Format("2 January 2006 15:04"), Report: r, Tiles: r.tiles(),
		Verdicts: r.verdictLines(), Reasons: r.reasonLines(), Latency: r.latencyLines(),
		Library: template.JS(uplot.Script()), Script: template.JS(chartScript), Charts: r.charted(),
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
			tiles = append(tiles, tile{"gateway CPU", fmt.Sprintf("%.2f s", p.CPUPer100k), "per 100,000 notifications"})
		}
	}
	return tiles
}

func (r *Report) verdictLines() (rows []tableRow) {
	for _, status := range r.sortedStatuses() {
		rows = append(rows, tableRow{verdictClass(status), status, []string{FormatCount(float64(r.Verdicts[status])), FormatPercent(r.Verdicts[status], r.Offered)}})
	}
	return rows
}

func (r *Report) reasonLines() (rows []tableRow) {
	for i, reason := range keysByCount(r.Reasons) {
		if i == 12 {
			return append(rows, tableRow{Name: fmt.Sprintf("and %d more", len(r.Reasons)-i)})
		}
		rows = append(rows, tableRow{Name: reason, Values: []string{FormatCount(float64(r.Reasons[reason]))}})
	}
	return rows
}

func (r *Report) latencyLines() (rows []tableRow) {
	add := func(name string, l *Latency) {
		if l != nil {
			rows = append(rows, tableRow{Name: name, Values: []string{FormatMillis(l.P50), FormatMillis(l.P90), FormatMillis(l.P99), FormatMillis(l.P999), FormatMillis(l.Max)}})
		}
	}
	add("from due time", &r.Latency)
	add("of which overhead", r.Overhead)
	add("of which send delay", r.SendDelay)
	return rows
}

// shownRow is a row of the comparison, with a bar from the ratio 1 to its own on a logarithmic scale.
// Left and Width are in percent.
type shownRow struct {
	tableRow
	Ratio       string
	Left, Width float64
}

// Page writes the comparison as one self-contained HTML page.
func (c Comparison) Page(w io.Writer) error {
	p := page{Style: template.CSS(styleText), Title: "Comparison of two load tests", A: c.NameA, B: c.NameB}
	widest := math.Log(2)
	for _, r := range c.rows() {
		widest = max(widest, math.Abs(math.Log(cmp.Or(r.ratio(), 1))))
	}
	for _, r := range c.rows() {
		bar := 50 * math.Log(cmp.Or(r.ratio(), 1)) / widest
		p.Rows = append(p.Rows, shownRow{
			tableRow: tableRow{Name: r.name, Values: []string{r.format(r.a), r.format(r.b)}, Class: r.class()},
			Ratio:    r.describe(), Left: 50 + min(bar, 0), Width: math.Abs(bar),
		})
	}
	return pages.ExecuteTemplate(w, "comparison", p)
}
