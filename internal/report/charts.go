// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	_ "embed"
	"slices"
)

//go:embed charts.js
var chartScript string

// chartedReport is what charts.js draws.
type chartedReport struct {
	Report   *Report        `json:"report"`
	Statuses []shownVerdict `json:"statuses"` // from the bottom of the chart to its top
	End      float64        `json:"end"`      // of the time axis
}

// shownVerdict is a verdict and the name of its color in style.css.
type shownVerdict struct {
	Name  string `json:"name"`
	Class string `json:"class"`
}

// charted returns the parts of the report that are drawn, without the steps after the load that
// hold only a few answers.
func (r *Report) charted() chartedReport {
	shown := &Report{
		Seconds: r.Seconds, Step: r.Step, Timeline: r.visibleSteps(), Faults: r.Faults, Endpoints: r.Endpoints, Distribution: r.Distribution, Latency: r.Latency,
	}
	c := chartedReport{Report: shown, Statuses: []shownVerdict{}, End: max(r.Seconds, r.Step, 0.1)}
	if n := len(shown.Timeline); n > 0 {
		c.End = max(c.End, shown.Timeline[n-1].Start+r.Step)
	}
	for _, status := range r.sortedStatuses() {
		c.Statuses = append(c.Statuses, shownVerdict{status, verdictClass(status)})
	}
	return c
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

// verdictClass returns the color of a verdict: v1 accepted, v2 safe to send again, v3 refused, v4
// result unknown.
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

// sortedStatuses returns the verdicts by class and then by descending count. Accepted comes first, at
// the bottom of the chart.
func (r *Report) sortedStatuses() []string {
	all := keysByCount(r.Verdicts)
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Compare(verdictClass(a), verdictClass(b)) })
	return all
}
