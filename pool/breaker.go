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

// Breaker says when the breaker of an endpoint opens, and for how long that
// ejects it. The zero value is the documented default.
type Breaker struct {
	// Consecutive is how many failures in a row open it, however far apart;
	// 0 means 5 (Envoy's consecutive_5xx, Finagle's failure accrual).
	ConsecutiveFailures int
	// FailureRate opens it when more than this share of the outcomes in Window
	// failed; 0 means 0.5 (Armeria's circuit breaker).
	FailureRate float64
	// MinOutcomes is how many outcomes Window must hold before FailureRate
	// speaks; 0 means 10 (Armeria).
	MinOutcomes int
	// Window is how far FailureRate looks back; 0 means 5 seconds. It rolls by
	// Bucket, 0 meaning 1 second, and must be longer than it. Outcomes count
	// when they are known, so a window shorter than a timeout is no trap.
	Window, Bucket time.Duration
	// Ejection is how long the first ejection lasts; 0 means 10 seconds. Each
	// further one doubles it up to MaxEjection, 0 meaning 5 minutes, and each
	// further Ejection spent in health takes one doubling back (Envoy's
	// base_ejection_time, max_ejection_time and its multiplier).
	BaseEjectionTime, MaxEjectionTime time.Duration
	// Trial is how long the one probe after an ejection may take before it
	// counts as failed; 0 means 10 seconds. Keep it above the attempt timeout.
	ProbeTimeout time.Duration
}

func (b *Breaker) validate() error {
	window, bucket := cmp.Or(b.Window, 5*time.Second), cmp.Or(b.Bucket, time.Second)
	switch {
	case b.ConsecutiveFailures < 0 || b.MinOutcomes < 0:
		return errors.New("neither Breaker.Consecutive nor MinOutcomes may be negative (0 means the default)")
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

// ejectionTime is how long the level'th ejection in a row lasts.
func (b *Breaker) ejectionTime(level int) time.Duration {
	d := b.BaseEjectionTime
	for ; level > 1 && d < b.MaxEjectionTime; level-- {
		d *= 2
	}
	return min(d, b.MaxEjectionTime)
}

// circuitBreaker is the breaker of one endpoint. gobreaker's two-step breaker holds
// closed, open and half-open, and the rolling window; what it lacks stands
// beside it, and the traps that it has are walked around:
//
//   - its open time is fixed at birth, so every ejection gets a breaker of its
//     own that is born open (tripped);
//   - a half-open trial whose end is never told would block it for ever, so a
//     trial has a deadline (beat);
//   - OnStateChange runs under its lock, so it is not used: State is asked
//     after each call that can have changed it;
//   - Counts is stale until State or Allow is called, so State comes first;
//   - it forgets a streak of failures as its window rolls, so that one failure
//     every two seconds would never open it: the streak is counted here;
//   - it books an outcome in the bucket of its Allow, which for a timeout as
//     long as the window is gone by then: outside of trials, Allow is called
//     when the outcome is known. The ticket's generation keeps out what began
//     before the last change of state.
type circuitBreaker struct {
	cfg        *Breaker
	state      atomic.Int32  // gobreaker.State, for readers without the lock
	generation atomic.Uint32 // grows with each change of state
	probing    atomic.Bool   // the one trial is under way
	successes  atomic.Uint64 // successes so far
	suspect    atomic.Bool   // more than half of the row of failures that opens it is there

	mu            sync.Mutex // guards the fields below
	inner         *gobreaker.TwoStepCircuitBreaker[struct{}]
	consecutive   int
	reason        string        // why it opened, or is about to
	cause         EjectionCause // the same in one word
	tripNow       bool          // the next failure opens it
	ejections     int           // ejections in a row, less those that health took back
	since         time.Time
	ejectedUntil  time.Time
	probeDone     func(error)
	probeDeadline time.Time
}

// ticket ties an outcome to the state of the circuit that it began in.
type ticket struct {
	generation uint32
	successes  uint64
	probe      bool
}

// transition is what an outcome did to a circuit.
type transition uint8

const (
	unchanged transition = iota
	opened               // closed before: it is ejected now
	reopened             // its probe failed
	recovered            // its probe succeeded
)

// verdict of an outcome, as gobreaker's error.
var (
	errFailed   = errors.New("failed")
	errNoAnswer = errors.New("silent")   // failed, for want of an answer
	errExcluded = errors.New("excluded") // says nothing about the endpoint
)

func (c *circuitBreaker) init(rules *Breaker) {
	c.cfg = rules
	c.since = time.Now()
	c.inner = c.newBreaker(rules.BaseEjectionTime)
}

func (c *circuitBreaker) newBreaker(open time.Duration) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  1, // one trial at a time, and one success closes
		Interval:     c.cfg.Window,
		BucketPeriod: c.cfg.Bucket,
		Timeout:      open,
		ReadyToTrip:  c.readyToTrip,
		IsExcluded:   func(err error) bool { return errors.Is(err, errExcluded) },
	})
}

// readyToTrip is gobreaker's question after each failure. It is called with
// gobreaker's lock and ours held, and calls nobody.
func (c *circuitBreaker) readyToTrip(counts gobreaker.Counts) bool {
	outcomes := counts.TotalSuccesses + counts.TotalFailures // Requests would count what is in flight, too
	switch {
	case c.tripNow:
	case c.consecutive >= c.cfg.ConsecutiveFailures:
		c.cause, c.reason = CauseConsecutiveFailures, fmt.Sprintf("%d failures in a row", c.consecutive)
	case outcomes >= uint32(c.cfg.MinOutcomes) && float64(counts.TotalFailures) > c.cfg.FailureRate*float64(outcomes):
		c.cause, c.reason = CauseFailureRate, fmt.Sprintf("%d of %d failed within %s", counts.TotalFailures, outcomes, c.cfg.Window)
	default:
		return false
	}
	return true
}

// inState reports the state without a lock; an ejection that is over stays open
// until the next beat.
func (c *circuitBreaker) inState(state gobreaker.State) bool { return c.state.Load() == int32(state) }

func (c *circuitBreaker) healthy() bool { return c.inState(gobreaker.StateClosed) }

func (c *circuitBreaker) ejected() bool { return c.inState(gobreaker.StateOpen) }

// needsProbe reports whether the next request may be the one that tells.
func (c *circuitBreaker) needsProbe() bool {
	return c.inState(gobreaker.StateHalfOpen) && !c.probing.Load()
}

// admit returns the ticket of a request that is about to be sent, and makes it
// the trial if one is wanted.
func (c *circuitBreaker) admit() ticket {
	t := ticket{generation: c.generation.Load(), successes: c.successes.Load()}
	if !c.needsProbe() {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probeDone != nil || !c.inState(gobreaker.StateHalfOpen) {
		return t
	}
	trial, err := c.inner.Allow()
	if err != nil {
		return t
	}
	c.probeDone, c.probeDeadline = trial, time.Now().Add(c.cfg.ProbeTimeout)
	c.probing.Store(true)
	return ticket{generation: c.generation.Load(), probe: true}
}

// record books the outcome of a request that entered with t: nil, errFailed,
// errSilent or errExcluded. An outcome from before the last change of state is passed over,
// and so is that of a request that an ejected endpoint was lent in panic.
func (c *circuitBreaker) record(t ticket, outcome error, why string) transition {
	if outcome == errExcluded && !t.probe {
		return unchanged
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.generation != c.generation.Load():
		return unchanged
	case t.probe:
		return c.endProbe(outcome, why)
	case c.healthy():
		return c.recordClosed(t, outcome, why)
	default:
		return unchanged
	}
}

// recordClosed is called under mu, closed. A silence counts for the row only if the
// endpoint has answered nobody since it began: some devices' tokens find no
// answer on some of Apple's addresses, and as they pile up in flight they are
// most of what ends there, though it answers all others.
func (c *circuitBreaker) recordClosed(t ticket, outcome error, why string) transition {
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
	if why != "" {
		c.reason += ", the last " + why
	}
	c.eject()
	return opened
}

// endProbe is called under mu, half-open, with a trial under way.
func (c *circuitBreaker) endProbe(outcome error, why string) transition {
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
		c.cause, c.reason = CauseProbe, "the probe failed: "+why
		c.eject()
		return reopened
	default: // excluded: the next request is the trial
		return unchanged
	}
}

// forceEject opens a closed circuit for what its own outcomes do not show.
func (c *circuitBreaker) forceEject(cause EjectionCause, why string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.healthy() {
		return false
	}
	c.cause, c.reason = cause, why
	c.eject()
	return true
}

// eject puts a breaker in place that is born open. It is called under mu.
func (c *circuitBreaker) eject() {
	c.ejections++
	open := c.cfg.ejectionTime(c.ejections)
	c.inner = c.newBreaker(open)
	c.tripNow = true
	if done, err := c.inner.Allow(); err == nil {
		done(errFailed)
	}
	c.tripNow, c.consecutive, c.probeDone = false, 0, nil
	c.suspect.Store(false)
	c.probing.Store(false)
	c.ejectedUntil = time.Now().Add(open)
	c.setState(gobreaker.StateOpen)
}

func (c *circuitBreaker) setState(state gobreaker.State) {
	c.since = time.Now()
	c.generation.Add(1)
	c.state.Store(int32(state))
}

// tick does what only time does: it ends an ejection, fails a trial that is
// lost, and lets health take back one doubling.
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

// snapshot is the circuit as Status shows it.
func (c *circuitBreaker) snapshot() (state gobreaker.State, verdict string, until time.Time, counts gobreaker.Counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state = gobreaker.State(c.state.Load())
	if state == gobreaker.StateClosed {
		c.inner.State() // rolls the window; an open one it could only half open too early
		return state, "", time.Time{}, c.inner.Counts()
	}
	return state, c.reason, c.ejectedUntil, gobreaker.Counts{}
}

// ejectionReason returns the cause of the last ejection, in a word and in words.
func (c *circuitBreaker) ejectionReason() (cause EjectionCause, words string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause, fmt.Sprintf("%s; ejected for %s", c.reason, c.cfg.ejectionTime(c.ejections))
}
