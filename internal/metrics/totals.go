// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// RouteTotals are the counters of one route since the start.
type RouteTotals struct {
	App, Platform string
	// Ended counts notifications by the status of their receipt.
	Ended map[string]float64
	// Counts are the notifications that took at most as long as the bound with the same index, in
	// seconds. Each includes those before it; Count is that of all.
	Bounds []float64
	Counts []uint64
	Count  uint64
}

// RouteTotals returns the counters of the routes that have sent something, in no particular order. It
// reads only them, so that the console can call it every second.
func (m *Metrics) RouteTotals() []*RouteTotals {
	type key struct{ app, platform string }
	found := map[key]*RouteTotals{}
	get := func(out *dto.Metric) *RouteTotals {
		k := key{labelValue(out, "app"), labelValue(out, "platform")}
		if found[k] == nil {
			found[k] = &RouteTotals{App: k.app, Platform: k.platform, Ended: map[string]float64{}}
		}
		return found[k]
	}
	read(m.routes.notifications, func(out *dto.Metric) {
		get(out).Ended[labelValue(out, "status")] += out.GetCounter().GetValue()
	})
	read(m.routes.duration, func(out *dto.Metric) {
		r, h := get(out), out.GetHistogram()
		r.Count = h.GetSampleCount()
		for _, b := range h.GetBucket() {
			r.Bounds, r.Counts = append(r.Bounds, b.GetUpperBound()), append(r.Counts, b.GetCumulativeCount())
		}
	})
	all := make([]*RouteTotals, 0, len(found))
	for _, r := range found {
		all = append(all, r)
	}
	return all
}

// read calls each for every series of a collector.
func read(from prometheus.Collector, each func(*dto.Metric)) {
	series := make(chan prometheus.Metric)
	go func() {
		defer close(series)
		from.Collect(series)
	}()
	for s := range series {
		out := new(dto.Metric)
		if s.Write(out) == nil {
			each(out)
		}
	}
}

func labelValue(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
