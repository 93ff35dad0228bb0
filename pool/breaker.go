// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Breaker configures the circuit breaker of each endpoint: when it opens, and for how long that
// ejects the endpoint. The zero value of a field means its default.
type Breaker struct {
	// ConsecutiveFailures is the number of consecutive failures that opens the breaker, no matter
	// how much time lies between them. 0 means 5 (Envoy's consecutive_5xx, Finagle's failure
	// accrual).
	ConsecutiveFailures int
	// FailureRate opens the breaker when more than this share of the outcomes in Window are
	// failures. 0 means 0.5 (Armeria's circuit breaker).
	FailureRate float64
	// MinOutcomes is how many outcomes Window must contain before FailureRate applies. 0 means 10
	// (Armeria).
	MinOutcomes int
	// Window is the period that FailureRate looks back; 0 means 5 seconds. The window slides in
	// steps of Bucket, which must be shorter; 0 means 1 second. An outcome counts at the time it is
	// known, so Window may be shorter than the request timeout.
	Window, Bucket time.Duration
	// BaseEjectionTime is how long the first ejection lasts; 0 means 10 seconds. Each further
	// ejection lasts twice as long, up to MaxEjectionTime; 0 means 5 minutes. For each
	// BaseEjectionTime that the endpoint stays healthy, one doubling is undone. (Envoy has
	// base_ejection_time, max_ejection_time and a multiplier.)
	BaseEjectionTime, MaxEjectionTime time.Duration
	// ProbeTimeout is how long the probe after an ejection may take before it counts as failed; 0
	// means 10 seconds. It should exceed the timeout of a request.
	ProbeTimeout time.Duration
}

func (b *Breaker) validate() error {
	window, bucket := cmp.Or(b.Window, 5*time.Second), cmp.Or(b.Bucket, time.Second)
	switch {
	case b.ConsecutiveFailures < 0 || b.MinOutcomes < 0:
		return errors.New("neither Breaker.ConsecutiveFailures nor MinOutcomes may be negative (0 means the default)")
	case b.FailureRate < 0 || b.FailureRate > 1:
		return fmt.Errorf("field Breaker.FailureRate is %g: must be a share up to 1, or 0 for 0.5", b.FailureRate)
	case b.Window < 0 || b.Bucket < 0 || b.BaseEjectionTime < 0 || b.MaxEjectionTime < 0 || b.ProbeTimeout < 0:
		return errors.New("no duration of Breaker may be negative (0 means the default)")
	case window <= bucket:
		return fmt.Errorf("field Breaker.Window is %s: must be longer than Bucket %s", window, bucket)
	}
	return nil
}

func (b *Breaker) setDefaults() {
	b.ConsecutiveFailures = cmp.Or(b.ConsecutiveFailures, 5)
	b.FailureRate = cmp.Or(b.FailureRate, 0.5)
	b.MinOutcomes = cmp.Or(b.MinOutcomes, 10)
	b.Window = cmp.Or(b.Window, 5*time.Second)
	b.Bucket = cmp.Or(b.Bucket, time.Second)
	b.BaseEjectionTime = cmp.Or(b.BaseEjectionTime, 10*time.Second)
	b.MaxEjectionTime = max(b.BaseEjectionTime, cmp.Or(b.MaxEjectionTime, 5*time.Minute))
	b.ProbeTimeout = cmp.Or(b.ProbeTimeout, 10*time.Second)
}

// ejectionTime returns the duration of an ejection; level 1 is the first.
func (b *Breaker) ejectionTime(level int) time.Duration {
	d := b.BaseEjectionTime
	for ; level > 1 && d < b.MaxEjectionTime; level-- {
		d *= 2
	}
	return min(d, b.MaxEjectionTime)
}

// breakerState is the state of a breaker.
type breakerState int32

const (
	closed   breakerState = iota
	open                  // ejected
	halfOpen              // the ejection has expired, and the next request is a probe
)

var stateNames = [...]string{"closed", "open", "half-open"}

// String returns the name in the status of the pool.
func (s breakerState) String() string { return stateNames[s] }

// circuitBreaker is the breaker of one endpoint. An outcome counts when it is known. The generation in
// the ticket excludes requests that began before the last state change.
type circuitBreaker struct {
	cfg        *Breaker
	changes    *atomic.Uint64 // Pool.changes
	state      atomic.Int32   // a breakerState, readable without the lock
	generation atomic.Uint32  // incremented at each state change
	probing    atomic.Bool    // a probe is in flight
	successes  atomic.Uint64  // number of successes so far
	suspect    atomic.Bool    // consecutive failures exceed half of what opens the breaker

	mu            sync.Mutex // guards the fields below
	window        rollingCounts
	consecutive   int
	reason        string        // why it opened last, in words
	cause         EjectionCause // the same as a code
	ejections     int           // consecutive ejections, minus those undone by healthy time
	since         time.Time
	ejectedUntil  time.Time
	probeDeadline time.Time
}

// ticket ties an outcome to the state of the breaker at the start of the request.
type ticket struct {
	successes  uint64
	generation uint32
	probe      bool
}

// transition is how an outcome changed the state of a breaker.
type transition uint8

const (
	unchanged transition = iota
	opened               // was closed, is ejected now
	reopened             // the probe failed
	recovered            // the probe succeeded
)

// outcome is what an attempt says about its endpoint.
type outcome uint8

const (
	succeeded outcome = iota
	failed
	noResponse // a failure without a response
	excluded   // says nothing about the endpoint
)

func (c *circuitBreaker) init(cfg *Breaker, changes *atomic.Uint64) {
	c.cfg, c.changes = cfg, changes
	c.since = time.Now()
	c.window.init(c.since, cfg.Window, cfg.Bucket)
}

// inState reports the state without taking the lock. An ejection that has expired still counts as
// open until the next tick.
func (c *circuitBreaker) inState(state breakerState) bool { return c.state.Load() == int32(state) }

func (c *circuitBreaker) healthy() bool { return c.inState(closed) }

func (c *circuitBreaker) ejected() bool { return c.inState(open) }

// needsProbe reports whether the next request may be the probe.
func (c *circuitBreaker) needsProbe() bool { return c.inState(halfOpen) && !c.probing.Load() }

// admit returns the ticket of a request that is about to be sent. The request becomes the probe if
// one is needed.
func (c *circuitBreaker) admit() ticket {
	t := ticket{generation: c.generation.Load(), successes: c.successes.Load()}
	if !c.needsProbe() {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.needsProbe() {
		return t
	}
	c.probeDeadline = time.Now().Add(c.cfg.ProbeTimeout)
	c.probing.Store(true)
	return ticket{generation: c.generation.Load(), probe: true}
}

// record records that n requests with ticket t had the same outcome. Each of them counts. Outcomes
// of requests that began before the last state change are ignored, and so are those of requests that
// an open breaker let through in panic mode.
func (c *circuitBreaker) record(t ticket, n int, o outcome, reason string) transition {
	if o == excluded && !t.probe {
		return unchanged
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.generation != c.generation.Load():
		return unchanged
	case t.probe:
		return c.endProbe(o, reason)
	case !c.healthy():
		return unchanged
	case o == succeeded:
		c.consecutive = 0
		c.suspect.Store(false)
		c.successes.Add(uint64(n))
		c.window.at(time.Now()).succeeded += n
		return unchanged
	default:
		return c.recordFailures(t, n, o, reason)
	}
}

// recordFailures records failures while the breaker is closed. It is called under mu. A request
// without a response counts as a consecutive failure only if no other request has succeeded since
// it began: APNs sometimes never responds for particular device tokens on particular addresses, and
// as these requests accumulate they would eject an endpoint that responds to all others.
func (c *circuitBreaker) recordFailures(t ticket, n int, o outcome, reason string) transition {
	if o == failed || t.successes == c.successes.Load() {
		c.consecutive += n
		c.suspect.Store(2*c.consecutive > c.cfg.ConsecutiveFailures)
	}
	c.window.at(time.Now()).failed += n
	total := c.window.sum()
	outcomes := total.succeeded + total.failed
	switch {
	case c.consecutive >= c.cfg.ConsecutiveFailures:
		c.cause, c.reason = CauseConsecutiveFailures, fmt.Sprintf("%d consecutive failures", c.consecutive)
	case outcomes >= c.cfg.MinOutcomes && float64(total.failed) > c.cfg.FailureRate*float64(outcomes):
		c.cause, c.reason = CauseFailureRate, fmt.Sprintf("%d of %d failed within %s", total.failed, outcomes, c.cfg.Window)
	default:
		return unchanged
	}
	if reason != "" {
		c.reason += ", the last " + reason
	}
	c.eject()
	return opened
}

// endProbe records the outcome of the probe. It is called under mu.
func (c *circuitBreaker) endProbe(o outcome, reason string) transition {
	if !c.probing.Swap(false) {
		return unchanged
	}
	switch o {
	case succeeded:
		c.setState(closed)
		return recovered
	case excluded: // the next request is the probe
		return unchanged
	default:
		c.cause, c.reason = CauseProbe, "probe failed: "+reason
		c.eject()
		return reopened
	}
}

// forceEject opens a closed breaker for a reason that its own outcomes do not show. It reports
// whether it did.
func (c *circuitBreaker) forceEject(cause EjectionCause, reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.healthy() {
		return false
	}
	c.cause, c.reason = cause, reason
	c.eject()
	return true
}

// eject opens the breaker. It is called under mu.
func (c *circuitBreaker) eject() {
	c.ejections++
	c.setState(open)
	c.ejectedUntil = c.since.Add(c.cfg.ejectionTime(c.ejections))
}

// setState starts a new generation, in which nothing has been counted yet. It is called under mu.
func (c *circuitBreaker) setState(state breakerState) {
	c.since, c.consecutive = time.Now(), 0
	c.window.init(c.since, c.cfg.Window, c.cfg.Bucket)
	c.suspect.Store(false)
	c.probing.Store(false)
	c.generation.Add(1)
	c.state.Store(int32(state))
	c.changes.Add(1)
}

// tick handles what depends only on time: it ends an expired ejection, fails a probe that missed
// its deadline, and undoes one doubling after healthy time.
func (c *circuitBreaker) tick(now time.Time) transition {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ejected() && now.After(c.ejectedUntil):
		c.setState(halfOpen)
	case c.probing.Load() && !now.Before(c.probeDeadline):
		return c.endProbe(failed, "no outcome within "+c.cfg.ProbeTimeout.String())
	case c.healthy() && c.ejections > 0 && now.Sub(c.since) >= c.cfg.BaseEjectionTime:
		c.ejections--
		c.since = now
	}
	return unchanged
}

// snapshot returns the state for Status.
func (c *circuitBreaker) snapshot() (state breakerState, reason string, ejectedUntil time.Time, total counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state = breakerState(c.state.Load())
	if state != closed {
		return state, c.reason, c.ejectedUntil, counts{}
	}
	c.window.at(time.Now())
	return state, "", time.Time{}, c.window.sum()
}

// ejectionReason returns why the endpoint was last ejected, as a code and in words.
func (c *circuitBreaker) ejectionReason() (cause EjectionCause, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause, fmt.Sprintf("%s; ejected for %s", c.reason, c.cfg.ejectionTime(c.ejections))
}

// rollingCounts counts outcomes in a window that slides in steps of a bucket.
type rollingCounts struct {
	start   time.Time
	bucket  time.Duration
	current int // index of the latest bucket since start
	buckets []counts
}

type counts struct{ succeeded, failed int }

// init starts an empty window. The window is a multiple of the bucket, at least as long as given.
func (r *rollingCounts) init(start time.Time, window, bucket time.Duration) {
	*r = rollingCounts{start: start, bucket: bucket, buckets: make([]counts, (window+bucket-1)/bucket)}
}

// at moves the window to now and returns the latest bucket.
func (r *rollingCounts) at(now time.Time) *counts {
	latest := max(r.current, int(now.Sub(r.start)/r.bucket))
	for i := max(r.current+1, latest-len(r.buckets)+1); i <= latest; i++ {
		r.buckets[i%len(r.buckets)] = counts{}
	}
	r.current = latest
	return &r.buckets[latest%len(r.buckets)]
}

// sum returns the counts of the window.
func (r *rollingCounts) sum() (total counts) {
	for _, c := range r.buckets {
		total.succeeded += c.succeeded
		total.failed += c.failed
	}
	return total
}
