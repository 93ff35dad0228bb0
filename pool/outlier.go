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
	Off bool
	// MinEndpoints is how many endpoints must have MinOutcomes within ten
	// seconds before their success rates are compared; 0 means 5, and 100
	// (Envoy's success_rate_minimum_hosts and success_rate_request_volume).
	MinEndpoints, MinOutcomes int
	// Deviations is how many standard deviations below the mean of all a
	// success rate must lie; 0 means 1.9 (Envoy's success_rate_stdev_factor).
	Deviations float64
	// MinFailures is the share of failures that is always borne; 0 means 0.1.
	// Envoy has no such floor and ejects one failure in a thousand where the
	// peers have none. Some tokens find no answer on some of Apple's addresses;
	// the others must not lose those addresses for it.
	MinFailures float64
	// SlowFactor ejects an endpoint whose median answer takes so many times
	// the median of its peers, and SlowBy longer, twice in a row; 0 means 4,
	// and 100 ms. Slow is a failure too (Huang et al., Gray Failure, HotOS
	// 2017); Envoy has no such rule.
	SlowFactor float64
	SlowBy     time.Duration
}

const (
	rateSeconds = 10 // Envoy sweeps every ten seconds; here the ten seconds slide
	slowPeers   = 3  // with two, nobody can say which is the slow one
	slowAnswers = 10 // answers that make a median
	slowSweeps  = 2  // sweeps in a row before slow is believed
)

func (o *Outlier) check() error {
	switch {
	case o.MinEndpoints < 0 || o.MinOutcomes < 0 || o.Deviations < 0 || o.SlowBy < 0:
		return errors.New("no value of Outlier may be negative (0 means the default)")
	case o.MinFailures < 0 || o.MinFailures > 1:
		return fmt.Errorf("field Outlier.MinFailures is %g: must be a share up to 1, or 0 for 0.1", o.MinFailures)
	case o.SlowFactor != 0 && o.SlowFactor <= 1:
		return fmt.Errorf("field Outlier.SlowFactor is %g: must be above 1, or 0 for 4", o.SlowFactor)
	}
	return nil
}

func (o *Outlier) fill() {
	o.MinEndpoints = cmp.Or(o.MinEndpoints, 5)
	o.MinOutcomes = cmp.Or(o.MinOutcomes, 100)
	o.Deviations = cmp.Or(o.Deviations, 1.9)
	o.MinFailures = cmp.Or(o.MinFailures, 0.1)
	o.SlowFactor = cmp.Or(o.SlowFactor, 4)
	o.SlowBy = cmp.Or(o.SlowBy, 100*time.Millisecond)
}

// standing is how one endpoint did lately, for the comparison.
type standing struct {
	succeeded, failed int           // in the last ten seconds
	median            time.Duration // of its answers; 0 while there are too few
}

func (s standing) rate() float64 { return float64(s.succeeded) / float64(s.succeeded+s.failed) }

// unlucky compares success rates, and returns the endpoint that is furthest
// below its peers, if that is too far, and why; else -1.
func (o *Outlier) unlucky(all []standing) (worst int, why string) {
	var rates []float64
	worst = -1
	for i, s := range all {
		if s.succeeded+s.failed < o.MinOutcomes {
			continue
		}
		rates = append(rates, s.rate())
		if worst < 0 || s.rate() < all[worst].rate() {
			worst = i
		}
	}
	if len(rates) < o.MinEndpoints {
		return -1, ""
	}
	mean, deviation := spreadOf(rates)
	rate := all[worst].rate()
	if rate >= mean-o.Deviations*deviation || 1-rate <= o.MinFailures {
		return -1, ""
	}
	return worst, fmt.Sprintf("%.1f%% of %d succeeded within %ds, of all %.1f%%",
		100*rate, all[worst].succeeded+all[worst].failed, rateSeconds, 100*mean)
}

// spreadOf returns mean and population deviation, as Envoy computes them.
func spreadOf(values []float64) (mean, deviation float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		deviation += (v - mean) * (v - mean) / float64(len(values))
	}
	return mean, math.Sqrt(deviation)
}

// slowLimit returns the duration beyond which a median is slow, 0 while there
// are too few peers to tell.
func (o *Outlier) slowLimit(all []standing) time.Duration {
	var medians []time.Duration
	for _, s := range all {
		if s.median > 0 {
			medians = append(medians, s.median)
		}
	}
	if len(medians) < slowPeers {
		return 0
	}
	slices.Sort(medians)
	median := medians[(len(medians)-1)/2]
	return max(time.Duration(o.SlowFactor*float64(median)), median+o.SlowBy)
}

// sweep compares the healthy members with each other and ejects those that are
// far behind, but never so many that more than MaxEjected are.
func (p *Pool) sweep(now time.Time) (out []*Endpoint) {
	var peers []*Endpoint
	var all []standing
	live := 0
	for _, e := range *p.members.Load() {
		if !e.live() {
			continue
		}
		live++
		s := e.record.turn(&e.tally, now)
		if e.circuit.healthy() {
			peers, all = append(peers, e), append(all, s)
		} else {
			e.record.forget()
		}
	}
	if p.cfg.Outlier.Off {
		return nil
	}
	limit := p.cfg.Outlier.slowLimit(all)
	p.slowProbe.Store(int64(limit))
	spare := int(p.cfg.MaxEjected*float64(live)) - (live - len(peers))
	for i, e := range peers {
		if slow := e.record.slowFor(all[i].median, limit); slow && spare > 0 {
			why := fmt.Sprintf("its median answer takes %s, its peers' at most %s", all[i].median, limit)
			if e.circuit.force(BySlowness, why) {
				out, spare = append(out, e), spare-1
			}
		}
	}
	if worst, why := p.cfg.Outlier.unlucky(all); worst >= 0 && spare > 0 && peers[worst].circuit.force(ByPeers, why) {
		out = append(out, peers[worst])
	}
	return out
}

// tally counts what the leases bring since the last sweep.
type tally struct {
	failed atomic.Uint32
	took   [128]atomic.Uint32 // answers by duration, see bucket
}

func (t *tally) answered(d time.Duration) { t.took[bucket(d)].Add(1) }

// record is what the keeper makes of tallies.
type record struct {
	seconds [rateSeconds]struct{ succeeded, failed int }
	second  int
	took    [128]int
	answers int
	median  time.Duration // the last that there was, for Status
	slow    int           // sweeps in a row that found it slow
}

// turn takes the tally over and returns how the endpoint stands.
func (r *record) turn(t *tally, now time.Time) standing {
	r.second = (r.second + 1) % rateSeconds
	s := &r.seconds[r.second]
	s.succeeded, s.failed = 0, int(t.failed.Swap(0))
	for i := range t.took {
		if t.took[i].Load() > 0 {
			n := int(t.took[i].Swap(0))
			r.took[i] += n
			s.succeeded += n
		}
	}
	r.answers += s.succeeded
	var all standing
	for _, s := range r.seconds {
		all.succeeded += s.succeeded
		all.failed += s.failed
	}
	if r.answers >= slowAnswers {
		all.median = r.middle()
		r.median = all.median
		r.took, r.answers = [128]int{}, 0
	}
	return all
}

// slowFor counts the sweeps in a row in which the median was over the limit. A
// sweep without enough answers says nothing.
func (r *record) slowFor(median, limit time.Duration) bool {
	switch {
	case median == 0 || limit == 0:
		return false
	case median <= limit:
		r.slow = 0
		return false
	}
	r.slow++
	return r.slow >= slowSweeps
}

// forget begins a new record: what was before an ejection is settled.
func (r *record) forget() { *r = record{median: r.median} }

func (r *record) middle() time.Duration {
	left := (r.answers + 1) / 2
	for i, n := range r.took {
		if left -= n; left <= 0 {
			return bucketMiddle(i)
		}
	}
	return 0
}

// bucket sorts durations into four buckets an octave, from a microsecond up,
// so that a median is known within a tenth.
func bucket(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 4 {
		return int(us)
	}
	n := bits.Len64(us)
	return min((n-2)*4+int(us>>(n-3)&3), 127)
}

func bucketMiddle(i int) time.Duration {
	if i < 4 {
		return time.Duration(i)*time.Microsecond + time.Microsecond/2
	}
	width := time.Duration(1<<(i/4-1)) * time.Microsecond
	return time.Duration(4+i%4)*width + width/2
}
