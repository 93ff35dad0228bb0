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

	"github.com/sluice-push/sluice/loadtest/report"
)

// slowest is the latency beyond which one is as bad as the other.
const slowest = 10 * time.Minute

// book keeps the figures. Times are counted from when the measured time began: what was due before is the warm-up.
type book struct {
	began time.Time
	step  time.Duration

	mu           sync.Mutex
	seconds      float64 // that were measured
	everAccepted int
	everUnsure   int // lost or unknown: the provider may have taken it
	everInFlight int
	count        counts
	latency      *hdrhistogram.Histogram
	own          *hdrhistogram.Histogram
	lateness     *hdrhistogram.Histogram
	moments      []moment
	endpoints    map[string]*report.Endpoint
	reasons      map[string]int
	recent       counts // since the last snapshot
	newest       *hdrhistogram.Histogram
	live         int
	troubled     map[string]string
	noted        string
}

// counts are of notifications.
type counts struct {
	offered, answered, lost int
	verdicts                map[string]int
}

func newCounts() counts { return counts{verdicts: map[string]int{}} }

// moment is one step of the timeline.
type moment struct {
	counts
	latency   *hdrhistogram.Histogram
	endpoints map[string]int
	troubled  map[string]string
	live      int
}

// newBook returns one whose timeline has about 120 steps.
func newBook(began time.Time, duration time.Duration) *book {
	return &book{
		began: began, step: stepOf(duration), count: newCounts(), recent: newCounts(), endpoints: map[string]*report.Endpoint{}, reasons: map[string]int{},
		latency: fine(), own: fine(), lateness: fine(), newest: coarse(),
	}
}

// fine keeps three digits of microseconds, coarse two.
func fine() *hdrhistogram.Histogram   { return hdrhistogram.New(1, slowest.Microseconds(), 3) }
func coarse() *hdrhistogram.Histogram { return hdrhistogram.New(1, slowest.Microseconds(), 2) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d, time.Microsecond), slowest).Microseconds()) // always within its bounds
}

// stepOf is the smallest round step that makes no more than 120 of d.
func stepOf(d time.Duration) time.Duration {
	for _, step := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
		10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour} {
		if d <= 120*step {
			return step
		}
	}
	return d / 100
}

// at is the step that holds a time, which may lie beyond the schedule. mu is held.
func (b *book) at(since time.Duration) *moment {
	i := max(int(since/b.step), 0)
	for len(b.moments) <= i {
		b.moments = append(b.moments, moment{counts: newCounts(), latency: coarse(), endpoints: map[string]int{}})
	}
	return &b.moments[i]
}

// offer books n notifications that are due.
func (b *book) offer(due time.Duration, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent.offered += n
	b.everInFlight += n
	if due < 0 {
		return
	}
	b.count.offered += n
	b.at(due).offered += n
}

// late books how long after its time a call was sent.
func (b *book) late(by, due time.Duration) {
	if due < 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	record(b.lateness, by)
}

// answer books a verdict that came now on a notification that was due then.
func (b *book) answer(due time.Duration, now time.Time, v *verdict, alone bool) {
	since := now.Sub(b.began)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.everInFlight--
	switch v.status {
	case accepted:
		b.everAccepted++
	case "unknown":
		b.everUnsure++
	}
	b.recent.answered++
	b.recent.verdicts[v.status]++
	record(b.newest, v.latency)
	if due < 0 {
		return
	}
	b.count.answered++
	b.count.verdicts[v.status]++
	b.why(v.status, v.reason, 1)
	record(b.latency, v.latency)
	record(b.at(due).latency, v.latency)
	m := b.at(since)
	m.answered++
	m.verdicts[v.status]++
	b.visits(m, v, alone)
}

// visits books the attempts, and what they leave of the latency. mu is held.
func (b *book) visits(m *moment, v *verdict, alone bool) {
	rest := v.sent
	for _, a := range v.attempts {
		rest -= a.took
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
		record(b.own, rest)
	}
}

func (b *book) why(status, reason string, n int) {
	if status == accepted {
		return
	}
	if reason == "" {
		reason = "no reason given"
	}
	b.reasons[status+": "+reason] += n
}

// lose books n notifications without a verdict. Their latency counts as endless.
func (b *book) lose(due time.Duration, n int, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.everInFlight -= n
	b.everUnsure += n
	b.recent.lost += n
	if due < 0 {
		return
	}
	b.count.lost += n
	b.count.verdicts[lost] += n
	b.why(lost, reason, n)
	m := b.at(due)
	m.lost += n
	m.verdicts[lost] += n
	for range n {
		record(b.latency, slowest)
		record(m.latency, slowest)
	}
}

// close notes that nothing more will be offered.
func (b *book) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seconds = max(time.Since(b.began).Seconds(), 0)
}

// watch books how the gateway sees its endpoints.
func (b *book) watch(live int, troubled map[string]string) {
	since := time.Since(b.began)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live, b.troubled = live, troubled
	if since >= 0 {
		m := b.at(since)
		m.live, m.troubled = live, troubled
	}
}

// note keeps the first thing that went wrong with the test itself.
func (b *book) note(err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noted = cmp.Or(b.noted, err.Error())
}

// report writes down what is in the book.
func (b *book) report() *report.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &report.Report{
		Began: b.began, Seconds: b.seconds, Offered: b.count.offered, Answered: b.count.answered, Lost: b.count.lost,
		Verdicts: b.count.verdicts, Reasons: b.reasons, Latency: latencyOf(b.latency), Distribution: classes(b.latency), Step: b.step.Seconds(),
		Own: ifAny(b.own), Late: ifAny(b.lateness),
	}
	if b.noted != "" {
		r.Notes = append(r.Notes, b.noted)
	}
	if b.seconds > 0 {
		r.OfferedRate = float64(r.Offered) / b.seconds
	}
	if last := b.lastAnswer(); last > 0 {
		r.Rate = float64(r.Answered) / max(b.seconds, last)
	}
	for i := range b.moments {
		r.Timeline = append(r.Timeline, b.moments[i].report(float64(i)*b.step.Seconds()))
	}
	for _, address := range slices.Sorted(maps.Keys(b.endpoints)) {
		r.Endpoints = append(r.Endpoints, *b.endpoints[address])
	}
	return r
}

// lastAnswer is when the step began in which the last answer came, in seconds.
func (b *book) lastAnswer() float64 {
	for i := len(b.moments) - 1; i >= 0; i-- {
		if b.moments[i].answered > 0 {
			return max(float64(i)*b.step.Seconds(), b.step.Seconds())
		}
	}
	return 0
}

func (m *moment) report(at float64) report.Moment {
	return report.Moment{
		At: at, Offered: m.offered, Answered: m.answered, Verdicts: m.verdicts, Latency: latencyOf(m.latency), Endpoints: m.endpoints,
		Troubled: m.troubled, Live: m.live,
	}
}

func latencyOf(h *hdrhistogram.Histogram) report.Latency {
	if h.TotalCount() == 0 {
		return report.Latency{}
	}
	ms := func(us int64) float64 { return math.Round(float64(us)) / 1000 }
	q := h.ValueAtPercentilesSlice([]float64{50, 90, 99, 99.9})
	return report.Latency{P50: ms(q[0]), P90: ms(q[1]), P99: ms(q[2]), P999: ms(q[3]), Max: ms(h.Max()), Mean: math.Round(h.Mean()) / 1000}
}

func ifAny(h *hdrhistogram.Histogram) *report.Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	l := latencyOf(h)
	return &l
}

// perDecade is how many classes of the distribution lie between a latency and ten times that.
const perDecade = 20

// classes adds a histogram up into classes of equal width on a logarithmic scale, without the empty ones at both ends.
func classes(h *hdrhistogram.Histogram) (found []report.Class) {
	counts := map[int]int{}
	for _, bar := range h.Distribution() {
		if bar.Count > 0 {
			counts[int(math.Ceil(math.Log10(float64(bar.To))*perDecade-1e-9))] += int(bar.Count)
		}
	}
	if len(counts) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(counts))
	for k := keys[0]; k <= keys[len(keys)-1]; k++ {
		found = append(found, report.Class{UpTo: math.Pow(10, float64(k)/perDecade) / 1000, Count: counts[k]})
	}
	return found
}
