// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/internal/report"
)

// maxLatency is the highest latency that is recorded. Higher latencies count as maxLatency.
const maxLatency = 10 * time.Minute

// statusLost is the status in the report of a notification without a result.
const statusLost = "lost"

// recorder accumulates the figures of a run. Notifications that are due during the warm-up count only
// for the comparison with the ledger.
type recorder struct {
	start      time.Time     // of the measurement
	warmUp     time.Duration // before start; due times count from its beginning
	stepLength time.Duration

	mu             sync.Mutex
	seconds        float64 // length of the measurement
	totalAccepted  int     // including the warm-up
	totalUncertain int     // lost or unknown, including the warm-up; the provider may have accepted them
	inFlight       int     // including the warm-up
	totals         counts
	latency        *hdrhistogram.Histogram
	overhead       *hdrhistogram.Histogram
	sendDelay      *hdrhistogram.Histogram
	steps          []timeStep
	endpoints      map[string]*report.Endpoint
	reasons        map[string]int
	sinceSnapshot  counts
	recentLatency  *hdrhistogram.Histogram
	healthy        int
	unhealthy      map[string]string
	firstError     string
}

// counts are numbers of notifications.
type counts struct {
	offered, answered, lost int
	verdicts                map[string]int
}

func newCounts() counts { return counts{verdicts: map[string]int{}} }

// timeStep is one step of the timeline.
type timeStep struct {
	counts
	latency   *hdrhistogram.Histogram
	endpoints map[string]int
	unhealthy map[string]string
	healthy   int
}

// newRecorder returns a recorder for a measurement of the given duration that starts at start.
func newRecorder(start time.Time, duration time.Duration) *recorder {
	return &recorder{
		start: start, stepLength: stepFor(duration), totals: newCounts(), sinceSnapshot: newCounts(), endpoints: map[string]*report.Endpoint{}, reasons: map[string]int{},
		latency: fineHistogram(), overhead: fineHistogram(), sendDelay: fineHistogram(), recentLatency: coarseHistogram(),
	}
}

// fineHistogram returns a histogram with a precision of three significant digits.
func fineHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), 3)
}

// coarseHistogram returns a histogram with a precision of two significant digits.
func coarseHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), 2)
}

func observe(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d, time.Microsecond), maxLatency).Microseconds()) // the value is always within bounds
}

// stepFor returns the smallest round step that divides d into at most 120 steps.
func stepFor(d time.Duration) time.Duration {
	for _, step := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
		10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour} {
		if d <= 120*step {
			return step
		}
	}
	return d / 100
}

// stepAt returns the step that contains a time. The time may be after the end of the load. The
// caller holds mu.
func (rec *recorder) stepAt(since time.Duration) *timeStep {
	i := max(int(since/rec.stepLength), 0)
	for len(rec.steps) <= i {
		rec.steps = append(rec.steps, timeStep{counts: newCounts(), latency: coarseHistogram(), endpoints: map[string]int{}})
	}
	return &rec.steps[i]
}

var _ load.Recorder = (*recorder)(nil)

// Offered records n notifications that are due.
func (rec *recorder) Offered(_, n int, due time.Duration) {
	due -= rec.warmUp
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.sinceSnapshot.offered += n
	rec.inFlight += n
	if due < 0 {
		return
	}
	rec.totals.offered += n
	rec.stepAt(due).offered += n
}

// Sent records the time from the due time of a call to its sending.
func (rec *recorder) Sent(due, delay time.Duration) {
	if due < rec.warmUp {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	observe(rec.sendDelay, delay)
}

// Answered records a result that arrived at now.
func (rec *recorder) Answered(v *load.Result, now time.Time) error {
	due, since := v.Due-rec.warmUp, now.Sub(rec.start)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.inFlight--
	switch v.Status {
	case load.Accepted:
		rec.totalAccepted++
	case "unknown":
		rec.totalUncertain++
	}
	rec.sinceSnapshot.answered++
	rec.sinceSnapshot.verdicts[v.Status]++
	observe(rec.recentLatency, v.Latency)
	if due < 0 {
		return nil
	}
	rec.totals.answered++
	rec.totals.verdicts[v.Status]++
	rec.countReason(v.Status, v.Reason, 1)
	observe(rec.latency, v.Latency)
	observe(rec.stepAt(due).latency, v.Latency)
	m := rec.stepAt(since)
	m.answered++
	m.verdicts[v.Status]++
	rec.recordAttempts(m, v)
	return nil
}

// recordAttempts records the attempts and, for a single call, the overhead. The caller holds mu.
func (rec *recorder) recordAttempts(m *timeStep, v *load.Result) {
	overhead := v.SinceSent
	for _, a := range v.Attempts {
		overhead -= a.Took
		m.endpoints[a.Endpoint]++
		e := rec.endpoints[a.Endpoint]
		if e == nil {
			e = &report.Endpoint{Address: a.Endpoint}
			rec.endpoints[a.Endpoint] = e
		}
		e.Attempts++
		if a.Status == load.Accepted {
			e.Accepted++
		}
	}
	if v.Single && len(v.Attempts) > 0 {
		observe(rec.overhead, overhead)
	}
}

func (rec *recorder) countReason(status, reason string, n int) {
	if status == load.Accepted {
		return
	}
	if reason == "" {
		reason = "no reason given"
	}
	rec.reasons[status+": "+reason] += n
}

// Lost records n notifications without a result. Their latency counts as maxLatency.
func (rec *recorder) Lost(n int, due time.Duration, reason string) {
	due -= rec.warmUp
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.inFlight -= n
	rec.totalUncertain += n
	rec.sinceSnapshot.lost += n
	if due < 0 {
		return
	}
	rec.totals.lost += n
	rec.totals.verdicts[statusLost] += n
	rec.countReason(statusLost, reason, n)
	m := rec.stepAt(due)
	m.lost += n
	m.verdicts[statusLost] += n
	for range n {
		observe(rec.latency, maxLatency)
		observe(m.latency, maxLatency)
	}
}

// Ended ends the measurement. Results of calls in flight are still recorded.
func (rec *recorder) Ended() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.seconds = max(time.Since(rec.start).Seconds(), 0)
}

// recordEndpoints records the state of the gateway's endpoints.
func (rec *recorder) recordEndpoints(healthy int, unhealthy map[string]string) {
	since := time.Since(rec.start)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.healthy, rec.unhealthy = healthy, unhealthy
	if since >= 0 {
		m := rec.stepAt(since)
		m.healthy, m.unhealthy = healthy, unhealthy
	}
}

// recordError keeps the first error of the test itself.
func (rec *recorder) recordError(err error) {
	if err == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.firstError = cmp.Or(rec.firstError, err.Error())
}

// report returns the report of everything recorded.
func (rec *recorder) report() *report.Report {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	r := &report.Report{
		Start: rec.start, Seconds: rec.seconds, Offered: rec.totals.offered, Answered: rec.totals.answered, Lost: rec.totals.lost,
		Verdicts: rec.totals.verdicts, Reasons: rec.reasons, Latency: latencySummary(rec.latency), Distribution: buckets(rec.latency), Step: rec.stepLength.Seconds(),
		Overhead: optionalLatency(rec.overhead), SendDelay: optionalLatency(rec.sendDelay),
	}
	if rec.firstError != "" {
		r.Notes = append(r.Notes, rec.firstError)
	}
	if rec.seconds > 0 {
		r.OfferedRate = float64(r.Offered) / rec.seconds
	}
	if last := rec.lastAnswerTime(); last > 0 {
		r.Rate = float64(r.Answered) / max(rec.seconds, last)
	}
	for i := range rec.steps {
		r.Timeline = append(r.Timeline, rec.steps[i].report(float64(i)*rec.stepLength.Seconds()))
	}
	for _, address := range slices.Sorted(maps.Keys(rec.endpoints)) {
		r.Endpoints = append(r.Endpoints, *rec.endpoints[address])
	}
	return r
}

// lastAnswerTime returns the start of the step with the last verdict in seconds, but at least one
// step length. Without verdicts it returns 0.
func (rec *recorder) lastAnswerTime() float64 {
	for i := len(rec.steps) - 1; i >= 0; i-- {
		if rec.steps[i].answered > 0 {
			return max(float64(i)*rec.stepLength.Seconds(), rec.stepLength.Seconds())
		}
	}
	return 0
}

func (m *timeStep) report(at float64) report.TimelineStep {
	return report.TimelineStep{
		Start: at, Offered: m.offered, Answered: m.answered, Verdicts: m.verdicts, Latency: latencySummary(m.latency), Endpoints: m.endpoints,
		Unhealthy: m.unhealthy, Healthy: m.healthy,
	}
}

func latencySummary(h *hdrhistogram.Histogram) report.Latency {
	if h.TotalCount() == 0 {
		return report.Latency{}
	}
	ms := func(us int64) float64 { return math.Round(float64(us)) / 1000 }
	q := h.ValueAtPercentilesSlice([]float64{50, 90, 99, 99.9})
	return report.Latency{P50: ms(q[0]), P90: ms(q[1]), P99: ms(q[2]), P999: ms(q[3]), Max: ms(h.Max()), Mean: math.Round(h.Mean()) / 1000}
}

func optionalLatency(h *hdrhistogram.Histogram) *report.Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	l := latencySummary(h)
	return &l
}

// bucketsPerDecade is the number of distribution buckets per power of ten.
const bucketsPerDecade = 20

// buckets converts a histogram to buckets of equal width on a logarithmic scale. It omits empty
// buckets at both ends.
func buckets(h *hdrhistogram.Histogram) (found []report.Bucket) {
	counts := map[int]int{}
	for _, bar := range h.Distribution() {
		if bar.Count > 0 {
			counts[int(math.Ceil(math.Log10(float64(bar.To))*bucketsPerDecade-1e-9))] += int(bar.Count)
		}
	}
	if len(counts) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(counts))
	for k := keys[0]; k <= keys[len(keys)-1]; k++ {
		found = append(found, report.Bucket{UpTo: math.Pow(10, float64(k)/bucketsPerDecade) / 1000, Count: counts[k]})
	}
	return found
}
