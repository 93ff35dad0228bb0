// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

// Outlier says when an endpoint is ejected for being worse than its peers,
// though its breaker would bear it. The zero value is the documented default.
type Outlier struct {
	// Off leaves the ejecting to the breaker, and lets a probe take as long as it likes.
	Disabled bool
	// MinEndpoints is how many endpoints must have MinOutcomes within ten
	// seconds before their success rates are compared; 0 means 5, and 100
	// (Envoy's success_rate_minimum_hosts and success_rate_request_volume).
	MinEndpoints, MinOutcomes int
	// Deviations is how many standard deviations below the mean of all a
	// success rate must lie; 0 means 1.9 (Envoy's success_rate_stdev_factor).
	StdevFactor float64
	// MinFailures is the share of failures that is always borne; 0 means 0.1.
	// Envoy has no such floor and ejects one failure in a thousand where the
	// peers have none. Some tokens find no answer on some of Apple's addresses;
	// the others must not lose those addresses for it.
	MinFailureRate float64
	// SlowFactor ejects an endpoint whose median answer takes so many times
	// the median of its peers, and SlowBy longer, twice in a row; 0 means 4,
	// and 100 ms. Slow is a failure too (Huang et al., Gray Failure, HotOS
	// 2017); Envoy has no such rule.
	SlowFactor float64
	SlowBy     time.Duration
}

const (
	rateWindowSeconds = 10 // Envoy sweeps every ten seconds; here the ten seconds slide
	minLatencyPeers   = 3  // with two, nobody can say which is the slow one
	minLatencySamples = 10 // answers that make a median
	slowSweepsToEject = 2  // sweeps in a row before slow is believed
)

func (o *Outlier) validate() error {
	switch {
	case o.MinEndpoints < 0 || o.MinOutcomes < 0 || o.StdevFactor < 0 || o.SlowBy < 0:
		return errors.New("no value of Outlier may be negative (0 means the default)")
	case o.MinFailureRate < 0 || o.MinFailureRate > 1:
		return fmt.Errorf("field Outlier.MinFailures is %g: must be a share up to 1, or 0 for 0.1", o.MinFailureRate)
	case o.SlowFactor != 0 && o.SlowFactor <= 1:
		return fmt.Errorf("field Outlier.SlowFactor is %g: must be above 1, or 0 for 4", o.SlowFactor)
	}
	return nil
}

func (o *Outlier) setDefaults() {
	o.MinEndpoints = cmp.Or(o.MinEndpoints, 5)
	o.MinOutcomes = cmp.Or(o.MinOutcomes, 100)
	o.StdevFactor = cmp.Or(o.StdevFactor, 1.9)
	o.MinFailureRate = cmp.Or(o.MinFailureRate, 0.1)
	o.SlowFactor = cmp.Or(o.SlowFactor, 4)
	o.SlowBy = cmp.Or(o.SlowBy, 100*time.Millisecond)
}

// endpointStats is how one endpoint did lately, for the comparison.
type endpointStats struct {
	succeeded, failed int           // in the last ten seconds
	median            time.Duration // of its answers; 0 while there are too few
}

func (s endpointStats) successRate() float64 {
	return float64(s.succeeded) / float64(s.succeeded+s.failed)
}

// successRateOutlier compares success rates, and returns the endpoint that is furthest
// below its peers, if that is too far, and why; else -1.
func (o *Outlier) successRateOutlier(all []endpointStats) (worst int, why string) {
	var rates []float64
	worst = -1
	for i, s := range all {
		if s.succeeded+s.failed < o.MinOutcomes {
			continue
		}
		rates = append(rates, s.successRate())
		if worst < 0 || s.successRate() < all[worst].successRate() {
			worst = i
		}
	}
	if len(rates) < o.MinEndpoints {
		return -1, ""
	}
	mean, deviation := meanAndStdev(rates)
	rate := all[worst].successRate()
	if rate >= mean-o.StdevFactor*deviation || 1-rate <= o.MinFailureRate {
		return -1, ""
	}
	return worst, fmt.Sprintf("%.1f%% of %d succeeded within %ds, of all %.1f%%",
		100*rate, all[worst].succeeded+all[worst].failed, rateWindowSeconds, 100*mean)
}

// meanAndStdev returns mean and population deviation, as Envoy computes them.
func meanAndStdev(values []float64) (mean, deviation float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		deviation += (v - mean) * (v - mean) / float64(len(values))
	}
	return mean, math.Sqrt(deviation)
}

// latencyLimit returns the duration beyond which a median is slow, 0 while there
// are too few peers to tell.
func (o *Outlier) latencyLimit(all []endpointStats) time.Duration {
	var medians []time.Duration
	for _, s := range all {
		if s.median > 0 {
			medians = append(medians, s.median)
		}
	}
	if len(medians) < minLatencyPeers {
		return 0
	}
	slices.Sort(medians)
	median := medians[(len(medians)-1)/2]
	return max(time.Duration(o.SlowFactor*float64(median)), median+o.SlowBy)
}

// detectOutliers compares the healthy members with each other and ejects those that are
// far behind, but never so many that more than MaxEjected are.
func (p *Pool) detectOutliers(now time.Time) (out []*Endpoint) {
	var peers []*Endpoint
	var all []endpointStats
	live := 0
	for _, e := range *p.members.Load() {
		if !e.live() {
			continue
		}
		live++
		s := e.window.roll(&e.outcomes, now)
		if e.breaker.healthy() {
			peers, all = append(peers, e), append(all, s)
		} else {
			e.window.reset()
		}
	}
	if p.cfg.Outlier.Disabled {
		return nil
	}
	limit := p.cfg.Outlier.latencyLimit(all)
	p.probeLatencyLimit.Store(int64(limit))
	spare := int(p.cfg.MaxEjected*float64(live)) - (live - len(peers))
	for i, e := range peers {
		if slow := e.window.isSlow(all[i].median, limit); slow && spare > 0 {
			why := fmt.Sprintf("its median answer takes %s, its peers' at most %s", all[i].median, limit)
			if e.breaker.forceEject(CauseLatency, why) {
				out, spare = append(out, e), spare-1
			}
		}
	}
	if worst, why := p.cfg.Outlier.successRateOutlier(all); worst >= 0 && spare > 0 && peers[worst].breaker.forceEject(CauseSuccessRate, why) {
		out = append(out, peers[worst])
	}
	return out
}

// outcomeCounter counts what the leases bring since the last sweep.
type outcomeCounter struct {
	failed    atomic.Uint32
	latencies [128]atomic.Uint32 // answers by duration, see bucket
}

func (t *outcomeCounter) addSuccess(d time.Duration) { t.latencies[latencyBucket(d)].Add(1) }

// outcomeWindow is what the keeper makes of tallies.
type outcomeWindow struct {
	seconds    [rateWindowSeconds]struct{ succeeded, failed int }
	second     int
	latencies  [128]int
	answers    int
	median     time.Duration // the last that there was, for Status
	slowSweeps int           // sweeps in a row that found it slow
}

// roll takes the tally over and returns how the endpoint stands.
func (r *outcomeWindow) roll(t *outcomeCounter, now time.Time) endpointStats {
	r.second = (r.second + 1) % rateWindowSeconds
	s := &r.seconds[r.second]
	s.succeeded, s.failed = 0, int(t.failed.Swap(0))
	for i := range t.latencies {
		if t.latencies[i].Load() > 0 {
			n := int(t.latencies[i].Swap(0))
			r.latencies[i] += n
			s.succeeded += n
		}
	}
	r.answers += s.succeeded
	var all endpointStats
	for _, s := range r.seconds {
		all.succeeded += s.succeeded
		all.failed += s.failed
	}
	if r.answers >= minLatencySamples {
		all.median = r.medianLatency()
		r.median = all.median
		r.latencies, r.answers = [128]int{}, 0
	}
	return all
}

// isSlow counts the sweeps in a row in which the median was over the limit. A
// sweep without enough answers says nothing.
func (r *outcomeWindow) isSlow(median, limit time.Duration) bool {
	switch {
	case median == 0 || limit == 0:
		return false
	case median <= limit:
		r.slowSweeps = 0
		return false
	}
	r.slowSweeps++
	return r.slowSweeps >= slowSweepsToEject
}

// reset begins a new record: what was before an ejection is settled.
func (r *outcomeWindow) reset() { *r = outcomeWindow{median: r.median} }

func (r *outcomeWindow) medianLatency() time.Duration {
	left := (r.answers + 1) / 2
	for i, n := range r.latencies {
		if left -= n; left <= 0 {
			return bucketMidpoint(i)
		}
	}
	return 0
}

// latencyBucket sorts durations into four buckets an octave, from a microsecond up,
// so that a median is known within a tenth.
func latencyBucket(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 4 {
		return int(us)
	}
	n := bits.Len64(us)
	return min((n-2)*4+int(us>>(n-3)&3), 127)
}

func bucketMidpoint(i int) time.Duration {
	if i < 4 {
		return time.Duration(i)*time.Microsecond + time.Microsecond/2
	}
	width := time.Duration(1<<(i/4-1)) * time.Microsecond
	return time.Duration(4+i%4)*width + width/2
}
