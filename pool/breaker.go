// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
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

// circuitBreaker is the breaker of one endpoint. A two-step breaker of gobreaker holds the state
// (closed, open, half-open) and the rolling window. This type adds what gobreaker lacks and works
// around its limitations:
//
//   - The open timeout of a gobreaker cannot change, so every ejection creates a new one and
//     opens it immediately (tripNow).
//   - A probe that never reports its outcome would block a gobreaker forever, so a probe has a
//     deadline (tick).
//   - OnStateChange runs under gobreaker's lock, so it is not used. State is called after every
//     call that may change it.
//   - Counts is stale until State or Allow is called, so State is called first.
//   - The count of consecutive failures is reset when the window rolls over, so failures two
//     seconds apart would never open the breaker. This type counts them itself.
//   - An outcome counts in the bucket of its Allow, which is already gone for a timeout as long as
//     the window. Except for probes, Allow is therefore called when the outcome is known. The
//     generation in the ticket excludes requests that began before the last state change.
type circuitBreaker struct {
	cfg        *Breaker
	changes    *atomic.Uint64 // Pool.changes
	state      atomic.Int32   // a gobreaker.State, readable without the lock
	generation atomic.Uint32  // incremented at each state change
	probing    atomic.Bool    // a probe is in flight
	successes  atomic.Uint64  // number of successes so far
	suspect    atomic.Bool    // consecutive failures exceed half of what opens the breaker

	mu            sync.Mutex // guards the fields below
	inner         *gobreaker.TwoStepCircuitBreaker[struct{}]
	consecutive   int
	reason        string        // why it opened or is about to open, in words
	cause         EjectionCause // the same as a code
	tripNow       bool          // makes the next failure open inner
	ejections     int           // consecutive ejections, minus those undone by healthy time
	since         time.Time
	ejectedUntil  time.Time
	probeDone     func(error)
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

// Kinds of outcome, as the error that gobreaker expects. nil is a success.
var (
	errFailed   = errors.New("failed")
	errNoAnswer = errors.New("no response") // a failure without a response
	errExcluded = errors.New("excluded")    // says nothing about the endpoint
)

func (c *circuitBreaker) init(cfg *Breaker, changes *atomic.Uint64) {
	c.cfg, c.changes = cfg, changes
	c.since = time.Now()
	c.inner = c.newBreaker(cfg.BaseEjectionTime)
}

func (c *circuitBreaker) newBreaker(timeout time.Duration) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  1, // one probe at a time, and one success closes
		Interval:     c.cfg.Window,
		BucketPeriod: c.cfg.Bucket,
		Timeout:      timeout,
		ReadyToTrip:  c.readyToTrip,
		IsExcluded:   func(err error) bool { return errors.Is(err, errExcluded) },
	})
}

// readyToTrip is gobreaker's callback after each failure. It runs under gobreaker's lock and under
// mu, and must not call gobreaker.
func (c *circuitBreaker) readyToTrip(counts gobreaker.Counts) bool {
	outcomes := counts.TotalSuccesses + counts.TotalFailures // Requests would include those in flight
	switch {
	case c.tripNow:
	case c.consecutive >= c.cfg.ConsecutiveFailures:
		c.cause, c.reason = CauseConsecutiveFailures, fmt.Sprintf("%d consecutive failures", c.consecutive)
	case outcomes >= uint32(c.cfg.MinOutcomes) && float64(counts.TotalFailures) > c.cfg.FailureRate*float64(outcomes):
		c.cause, c.reason = CauseFailureRate, fmt.Sprintf("%d of %d failed within %s", counts.TotalFailures, outcomes, c.cfg.Window)
	default:
		return false
	}
	return true
}

// inState reports the state without taking the lock. An ejection that has expired still counts as
// open until the next tick.
func (c *circuitBreaker) inState(state gobreaker.State) bool { return c.state.Load() == int32(state) }

func (c *circuitBreaker) healthy() bool { return c.inState(gobreaker.StateClosed) }

func (c *circuitBreaker) ejected() bool { return c.inState(gobreaker.StateOpen) }

// halfOpen reports whether the ejection has expired and no probe has succeeded yet.
func (c *circuitBreaker) halfOpen() bool { return c.inState(gobreaker.StateHalfOpen) }

// needsProbe reports whether the next request may be the probe.
func (c *circuitBreaker) needsProbe() bool { return c.halfOpen() && !c.probing.Load() }

// admit returns the ticket of a request that is about to be sent. The request becomes the probe if
// one is needed.
func (c *circuitBreaker) admit() ticket {
	t := ticket{generation: c.generation.Load(), successes: c.successes.Load()}
	if !c.needsProbe() {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probeDone != nil || !c.halfOpen() {
		return t
	}
	done, err := c.inner.Allow()
	if err != nil {
		return t
	}
	c.probeDone, c.probeDeadline = done, time.Now().Add(c.cfg.ProbeTimeout)
	c.probing.Store(true)
	return ticket{generation: c.generation.Load(), probe: true}
}

// record records that n requests with ticket t ended with the same outcome: nil, errFailed,
// errNoAnswer or errExcluded. Each of them counts. Outcomes of requests that began before the last
// state change are ignored, and so are those of requests that an open breaker let through in panic
// mode.
func (c *circuitBreaker) record(t ticket, n int, outcome error, reason string) (change transition) {
	if outcome == errExcluded && !t.probe {
		return unchanged
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.generation != c.generation.Load():
		return unchanged
	case t.probe:
		return c.endProbe(outcome, reason)
	}
	for ; n > 0 && c.healthy(); n-- {
		change = c.recordClosed(t, outcome, reason)
	}
	return change
}

// recordClosed records an outcome while the breaker is closed. It is called under mu. A request
// without a response counts as a consecutive failure only if no other request has succeeded since
// it began: APNs sometimes never responds for particular device tokens on particular addresses, and
// as these requests accumulate they would eject an endpoint that responds to all others.
func (c *circuitBreaker) recordClosed(t ticket, outcome error, reason string) transition {
	done, err := c.inner.Allow()
	if err != nil {
		return unchanged
	}
	if outcome == nil {
		c.consecutive = 0
		c.suspect.Store(false)
		c.successes.Add(1)
		done(nil)
		return unchanged
	}
	if outcome != errNoAnswer || t.successes == c.successes.Load() {
		c.consecutive++
		c.suspect.Store(2*c.consecutive > c.cfg.ConsecutiveFailures)
	}
	done(outcome)
	if c.inner.State() != gobreaker.StateOpen {
		return unchanged
	}
	if reason != "" {
		c.reason += ", the last " + reason
	}
	c.eject()
	return opened
}

// endProbe records the outcome of the probe. It is called under mu.
func (c *circuitBreaker) endProbe(outcome error, reason string) transition {
	if c.probeDone == nil {
		return unchanged
	}
	c.probeDone(outcome)
	c.probeDone = nil
	c.probing.Store(false)
	switch c.inner.State() {
	case gobreaker.StateClosed:
		c.setState(gobreaker.StateClosed)
		return recovered
	case gobreaker.StateOpen:
		c.cause, c.reason = CauseProbe, "probe failed: "+reason
		c.eject()
		return reopened
	default: // excluded: the next request is the probe
		return unchanged
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

// eject replaces inner with a breaker that is open. It is called under mu.
func (c *circuitBreaker) eject() {
	c.ejections++
	ejectionTime := c.cfg.ejectionTime(c.ejections)
	c.inner = c.newBreaker(ejectionTime)
	c.tripNow = true
	if done, err := c.inner.Allow(); err == nil {
		done(errFailed)
	}
	c.tripNow, c.consecutive, c.probeDone = false, 0, nil
	c.suspect.Store(false)
	c.probing.Store(false)
	c.ejectedUntil = time.Now().Add(ejectionTime)
	c.setState(gobreaker.StateOpen)
}

func (c *circuitBreaker) setState(state gobreaker.State) {
	c.since = time.Now()
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
	case c.ejected() && now.After(c.ejectedUntil) && c.inner.State() == gobreaker.StateHalfOpen:
		c.setState(gobreaker.StateHalfOpen)
	case c.probeDone != nil && !now.Before(c.probeDeadline):
		return c.endProbe(errFailed, "no outcome within "+c.cfg.ProbeTimeout.String())
	case c.healthy() && c.ejections > 0 && now.Sub(c.since) >= c.cfg.BaseEjectionTime:
		c.ejections--
		c.since = now
	}
	return unchanged
}

// snapshot returns the state for Status.
func (c *circuitBreaker) snapshot() (state gobreaker.State, reason string, ejectedUntil time.Time, counts gobreaker.Counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state = gobreaker.State(c.state.Load())
	if state == gobreaker.StateClosed {
		// State rolls the window. It is not called in the open state, because it could end the
		// ejection early.
		c.inner.State()
		return state, "", time.Time{}, c.inner.Counts()
	}
	return state, c.reason, c.ejectedUntil, gobreaker.Counts{}
}

// ejectionReason returns why the endpoint was last ejected, as a code and in words.
func (c *circuitBreaker) ejectionReason() (cause EjectionCause, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause, fmt.Sprintf("%s; ejected for %s", c.reason, c.cfg.ejectionTime(c.ejections))
}
