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

	"github.com/sluice-push/sluice/internal/report"
)

// maxLatency is the latency beyond which one is as bad as the other.
const maxLatency = 10 * time.Minute

// recorder keeps the figures. Times are counted from when the measured time began: what was due before is the warm-up.
type recorder struct {
	start      time.Time
	stepLength time.Duration

	mu             sync.Mutex
	seconds        float64 // that were measured
	totalAccepted  int
	totalUncertain int // lost or unknown: the provider may have taken it
	inFlight       int
	totals         counts
	latency        *hdrhistogram.Histogram
	overhead       *hdrhistogram.Histogram
	sendDelay      *hdrhistogram.Histogram
	steps          []timeStep
	endpoints      map[string]*report.Endpoint
	reasons        map[string]int
	sinceSnapshot  counts // since the last snapshot
	recentLatency  *hdrhistogram.Histogram
	healthy        int
	unhealthy      map[string]string
	firstError     string
}

// counts are of notifications.
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

// newRecorder returns one whose timeline has about 120 steps.
func newRecorder(began time.Time, duration time.Duration) *recorder {
	return &recorder{
		start: began, stepLength: stepFor(duration), totals: newCounts(), sinceSnapshot: newCounts(), endpoints: map[string]*report.Endpoint{}, reasons: map[string]int{},
		latency: fineHistogram(), overhead: fineHistogram(), sendDelay: fineHistogram(), recentLatency: coarseHistogram(),
	}
}

// fineHistogram keeps three digits of microseconds, coarse two.
func fineHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), 3)
}
func coarseHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), 2)
}

func observe(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d, time.Microsecond), maxLatency).Microseconds()) // always within its bounds
}

// stepFor is the smallest round step that makes no more than 120 of d.
func stepFor(d time.Duration) time.Duration {
	for _, step := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
		10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour} {
		if d <= 120*step {
			return step
		}
	}
	return d / 100
}

// stepAt is the step that holds a time, which may lie beyond the schedule. mu is held.
func (b *recorder) stepAt(since time.Duration) *timeStep {
	i := max(int(since/b.stepLength), 0)
	for len(b.steps) <= i {
		b.steps = append(b.steps, timeStep{counts: newCounts(), latency: coarseHistogram(), endpoints: map[string]int{}})
	}
	return &b.steps[i]
}

// recordOffered books n notifications that are due.
func (b *recorder) recordOffered(due time.Duration, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sinceSnapshot.offered += n
	b.inFlight += n
	if due < 0 {
		return
	}
	b.totals.offered += n
	b.stepAt(due).offered += n
}

// recordSendDelay books how long after its time a call was sent.
func (b *recorder) recordSendDelay(by, due time.Duration) {
	if due < 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	observe(b.sendDelay, by)
}

// recordVerdict books a verdict that came now on a notification that was due then.
func (b *recorder) recordVerdict(due time.Duration, now time.Time, v *verdict, alone bool) {
	since := now.Sub(b.start)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
	switch v.status {
	case statusAccepted:
		b.totalAccepted++
	case "unknown":
		b.totalUncertain++
	}
	b.sinceSnapshot.answered++
	b.sinceSnapshot.verdicts[v.status]++
	observe(b.recentLatency, v.latency)
	if due < 0 {
		return
	}
	b.totals.answered++
	b.totals.verdicts[v.status]++
	b.countReason(v.status, v.reason, 1)
	observe(b.latency, v.latency)
	observe(b.stepAt(due).latency, v.latency)
	m := b.stepAt(since)
	m.answered++
	m.verdicts[v.status]++
	b.recordAttempts(m, v, alone)
}

// recordAttempts books the attempts, and what they leave of the latency. mu is held.
func (b *recorder) recordAttempts(m *timeStep, v *verdict, alone bool) {
	rest := v.sinceSent
	for _, a := range v.attempts {
		rest -= a.duration
		m.endpoints[a.endpoint]++
		e := b.endpoints[a.endpoint]
		if e == nil {
			e = &report.Endpoint{Address: a.endpoint}
			b.endpoints[a.endpoint] = e
		}
		e.Attempts++
		if a.accepted {
			e.Accepted++
		}
	}
	if alone && len(v.attempts) > 0 {
		observe(b.overhead, rest)
	}
}

func (b *recorder) countReason(status, reason string, n int) {
	if status == statusAccepted {
		return
	}
	if reason == "" {
		reason = "no reason given"
	}
	b.reasons[status+": "+reason] += n
}

// recordLost books n notifications without a verdict. Their latency counts as endless.
func (b *recorder) recordLost(due time.Duration, n int, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight -= n
	b.totalUncertain += n
	b.sinceSnapshot.lost += n
	if due < 0 {
		return
	}
	b.totals.lost += n
	b.totals.verdicts[statusLost] += n
	b.countReason(statusLost, reason, n)
	m := b.stepAt(due)
	m.lost += n
	m.verdicts[statusLost] += n
	for range n {
		observe(b.latency, maxLatency)
		observe(m.latency, maxLatency)
	}
}

// stop notes that nothing more will be offered.
func (b *recorder) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seconds = max(time.Since(b.start).Seconds(), 0)
}

// recordEndpoints books how the gateway sees its endpoints.
func (b *recorder) recordEndpoints(live int, troubled map[string]string) {
	since := time.Since(b.start)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.healthy, b.unhealthy = live, troubled
	if since >= 0 {
		m := b.stepAt(since)
		m.healthy, m.unhealthy = live, troubled
	}
}

// recordError keeps the first thing that went wrong with the test itself.
func (b *recorder) recordError(err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.firstError = cmp.Or(b.firstError, err.Error())
}

// report writes down what is in the book.
func (b *recorder) report() *report.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &report.Report{
		Start: b.start, Seconds: b.seconds, Offered: b.totals.offered, Answered: b.totals.answered, Lost: b.totals.lost,
		Verdicts: b.totals.verdicts, Reasons: b.reasons, Latency: latencySummary(b.latency), Distribution: buckets(b.latency), Step: b.stepLength.Seconds(),
		Overhead: optionalLatency(b.overhead), SendDelay: optionalLatency(b.sendDelay),
	}
	if b.firstError != "" {
		r.Notes = append(r.Notes, b.firstError)
	}
	if b.seconds > 0 {
		r.OfferedRate = float64(r.Offered) / b.seconds
	}
	if last := b.lastAnswerTime(); last > 0 {
		r.Rate = float64(r.Answered) / max(b.seconds, last)
	}
	for i := range b.steps {
		r.Timeline = append(r.Timeline, b.steps[i].report(float64(i)*b.stepLength.Seconds()))
	}
	for _, address := range slices.Sorted(maps.Keys(b.endpoints)) {
		r.Endpoints = append(r.Endpoints, *b.endpoints[address])
	}
	return r
}

// lastAnswerTime is when the step began in which the last answer came, in seconds.
func (b *recorder) lastAnswerTime() float64 {
	for i := len(b.steps) - 1; i >= 0; i-- {
		if b.steps[i].answered > 0 {
			return max(float64(i)*b.stepLength.Seconds(), b.stepLength.Seconds())
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

// bucketsPerDecade is how many classes of the distribution lie between a latency and ten times that.
const bucketsPerDecade = 20

// buckets adds a histogram up into classes of equal width on a logarithmic scale, without the empty ones at both ends.
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
