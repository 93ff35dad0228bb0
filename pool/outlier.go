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

// Outlier configures outlier detection, which ejects endpoints that perform worse than their peers
// although their own breaker stays closed. The zero value of a field means its default.
type Outlier struct {
	// Disabled turns outlier detection off. The latency of probes is then not checked either.
	Disabled bool
	// MinEndpoints is how many endpoints must have at least MinOutcomes outcomes within ten seconds
	// before success rates are compared; 0 means 5 and 100 (Envoy's success_rate_minimum_hosts and
	// success_rate_request_volume).
	MinEndpoints, MinOutcomes int
	// StdevFactor is how many standard deviations below the mean the success rate of an outlier
	// must be; 0 means 1.9 (Envoy's success_rate_stdev_factor).
	StdevFactor float64
	// MinFailureRate is the share of failures that is always tolerated; 0 means 0.1. Envoy has no
	// such minimum: with faultless peers it ejects an endpoint for one failure in a thousand. APNs
	// never responds for particular device tokens on particular addresses; that must not eject
	// these addresses for all other tokens.
	MinFailureRate float64
	// SlowFactor and SlowBy define a slow endpoint: its median latency exceeds SlowFactor times the
	// median of its peers, and exceeds that median by SlowBy; 0 means 4 and 100 ms. An endpoint is
	// ejected when two consecutive checks find it slow. Envoy has no such rule. Slow responses are
	// failures too (Huang et al., Gray Failure, HotOS 2017).
	SlowFactor float64
	SlowBy     time.Duration
}

const (
	rateWindowSeconds = 10 // like Envoy's interval, but as a sliding window
	minLatencyPeers   = 3  // with two endpoints it is unclear which one is slow
	minLatencySamples = 10 // responses needed for a median
	slowSweepsToEject = 2  // consecutive slow checks before an ejection
)

func (o *Outlier) validate() error {
	switch {
	case o.MinEndpoints < 0 || o.MinOutcomes < 0 || o.StdevFactor < 0 || o.SlowBy < 0:
		return errors.New("no value of Outlier may be negative (0 means the default)")
	case o.MinFailureRate < 0 || o.MinFailureRate > 1:
		return fmt.Errorf("field Outlier.MinFailureRate is %g: must be a share up to 1, or 0 for 0.1", o.MinFailureRate)
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

// endpointStats are the recent statistics of one endpoint.
type endpointStats struct {
	succeeded, failed int           // in the last ten seconds
	median            time.Duration // latency; 0 if there are too few responses
}

func (s endpointStats) successRate() float64 {
	return float64(s.succeeded) / float64(s.succeeded+s.failed)
}

// successRateOutlier returns the index of the endpoint whose success rate is lowest, if it is too
// far below the mean, and the reason. Otherwise it returns -1.
func (o *Outlier) successRateOutlier(stats []endpointStats) (worst int, reason string) {
	var rates []float64
	worst = -1
	for i, s := range stats {
		if s.succeeded+s.failed < o.MinOutcomes {
			continue
		}
		rates = append(rates, s.successRate())
		if worst < 0 || s.successRate() < stats[worst].successRate() {
			worst = i
		}
	}
	if len(rates) < o.MinEndpoints {
		return -1, ""
	}
	mean, stdev := meanAndStdev(rates)
	rate := stats[worst].successRate()
	if rate >= mean-o.StdevFactor*stdev || 1-rate <= o.MinFailureRate {
		return -1, ""
	}
	return worst, fmt.Sprintf("success rate %.1f%% of %d within %ds, mean of all %.1f%%",
		100*rate, stats[worst].succeeded+stats[worst].failed, rateWindowSeconds, 100*mean)
}

// meanAndStdev returns the mean and the population standard deviation.
func meanAndStdev(values []float64) (mean, stdev float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		stdev += (v - mean) * (v - mean) / float64(len(values))
	}
	return mean, math.Sqrt(stdev)
}

// latencyLimit returns the median latency above which an endpoint is slow, or 0 if there are too
// few peers to compare.
func (o *Outlier) latencyLimit(stats []endpointStats) time.Duration {
	var medians []time.Duration
	for _, s := range stats {
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

// detectOutliers compares the healthy members and ejects outliers, as long as the share of ejected
// members stays within MaxEjected.
func (p *Pool) detectOutliers(now time.Time) (outliers []*Endpoint) {
	var peers []*Endpoint
	var stats []endpointStats
	live, _ := p.liveMembers()
	for _, e := range live {
		s := e.window.roll(&e.outcomes, now)
		if e.breaker.healthy() {
			peers, stats = append(peers, e), append(stats, s)
		} else {
			e.window.reset()
		}
	}
	if p.cfg.Outlier.Disabled {
		return nil
	}
	limit := p.cfg.Outlier.latencyLimit(stats)
	p.probeLatencyLimit.Store(int64(limit))
	allowed := int(p.cfg.MaxEjected*float64(len(live))) - (len(live) - len(peers))
	for i, e := range peers {
		if slow := e.window.isSlow(stats[i].median, limit); slow && allowed > 0 {
			reason := fmt.Sprintf("median latency %s, limit by its peers %s", stats[i].median, limit)
			if e.breaker.forceEject(CauseLatency, reason) {
				outliers, allowed = append(outliers, e), allowed-1
			}
		}
	}
	if worst, reason := p.cfg.Outlier.successRateOutlier(stats); worst >= 0 && allowed > 0 && peers[worst].breaker.forceEject(CauseSuccessRate, reason) {
		outliers = append(outliers, peers[worst])
	}
	return outliers
}

// outcomeCounter counts outcomes since the last tick.
type outcomeCounter struct {
	failed    atomic.Uint32
	latencies [128]atomic.Uint32 // successes by latency bucket
}

func (c *outcomeCounter) addSuccesses(n int, d time.Duration) {
	c.latencies[latencyBucket(d)].Add(uint32(n))
}

// outcomeWindow accumulates outcome counters. Only the maintainer uses it.
type outcomeWindow struct {
	seconds    [rateWindowSeconds]struct{ succeeded, failed int }
	second     int
	latencies  [128]int
	samples    int           // responses in latencies
	median     time.Duration // last known median, for Status
	slowSweeps int           // consecutive checks that found the endpoint slow
}

// roll moves the counts into the window and returns the current statistics.
func (w *outcomeWindow) roll(c *outcomeCounter, now time.Time) endpointStats {
	w.second = (w.second + 1) % rateWindowSeconds
	s := &w.seconds[w.second]
	s.succeeded, s.failed = 0, int(c.failed.Swap(0))
	for i := range c.latencies {
		if c.latencies[i].Load() > 0 {
			n := int(c.latencies[i].Swap(0))
			w.latencies[i] += n
			s.succeeded += n
		}
	}
	w.samples += s.succeeded
	var stats endpointStats
	for _, s := range w.seconds {
		stats.succeeded += s.succeeded
		stats.failed += s.failed
	}
	if w.samples >= minLatencySamples {
		stats.median = w.medianLatency()
		w.median = stats.median
		w.latencies, w.samples = [128]int{}, 0
	}
	return stats
}

// isSlow counts consecutive checks with a median above the limit. A check without enough responses
// changes nothing.
func (w *outcomeWindow) isSlow(median, limit time.Duration) bool {
	switch {
	case median == 0 || limit == 0:
		return false
	case median <= limit:
		w.slowSweeps = 0
		return false
	}
	w.slowSweeps++
	return w.slowSweeps >= slowSweepsToEject
}

// reset clears the window, so that outcomes before an ejection do not count after it.
func (w *outcomeWindow) reset() { *w = outcomeWindow{median: w.median} }

func (w *outcomeWindow) medianLatency() time.Duration {
	remaining := (w.samples + 1) / 2
	for i, n := range w.latencies {
		if remaining -= n; remaining <= 0 {
			return bucketMidpoint(i)
		}
	}
	return 0
}

// latencyBucket maps a latency to one of 128 buckets: four per power of two, starting at one
// microsecond. A median is therefore accurate to about a tenth.
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
