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
	Consecutive int
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
	Ejection, MaxEjection time.Duration
	// Trial is how long the one probe after an ejection may take before it
	// counts as failed; 0 means 10 seconds. Keep it above the attempt timeout.
	Trial time.Duration
}

func (b *Breaker) check() error {
	window, bucket := cmp.Or(b.Window, 5*time.Second), cmp.Or(b.Bucket, time.Second)
	switch {
	case b.Consecutive < 0 || b.MinOutcomes < 0:
		return errors.New("neither Breaker.Consecutive nor MinOutcomes may be negative (0 means the default)")
	case b.FailureRate < 0 || b.FailureRate > 1:
		return fmt.Errorf("field Breaker.FailureRate is %g: must be a share up to 1, or 0 for 0.5", b.FailureRate)
	case b.Window < 0 || b.Bucket < 0 || b.Ejection < 0 || b.MaxEjection < 0 || b.Trial < 0:
		return errors.New("no duration of Breaker may be negative (0 means the default)")
	case window <= bucket:
		return fmt.Errorf("field Breaker.Window is %s: must be longer than Bucket %s", window, bucket)
	}
	return nil
}

func (b *Breaker) fill() {
	b.Consecutive = cmp.Or(b.Consecutive, 5)
	b.FailureRate = cmp.Or(b.FailureRate, 0.5)
	b.MinOutcomes = cmp.Or(b.MinOutcomes, 10)
	b.Window = cmp.Or(b.Window, 5*time.Second)
	b.Bucket = cmp.Or(b.Bucket, time.Second)
	b.Ejection = cmp.Or(b.Ejection, 10*time.Second)
	b.MaxEjection = max(b.Ejection, cmp.Or(b.MaxEjection, 5*time.Minute))
	b.Trial = cmp.Or(b.Trial, 10*time.Second)
}

// ejection is how long the level'th ejection in a row lasts.
func (b *Breaker) ejection(level int) time.Duration {
	d := b.Ejection
	for ; level > 1 && d < b.MaxEjection; level-- {
		d *= 2
	}
	return min(d, b.MaxEjection)
}

// circuit is the breaker of one endpoint. gobreaker's two-step breaker holds
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
type circuit struct {
	rules      *Breaker
	state      atomic.Int32  // gobreaker.State, for readers without the lock
	generation atomic.Uint32 // grows with each change of state
	probing    atomic.Bool   // the one trial is under way
	answers    atomic.Uint64 // successes so far
	doubtful   atomic.Bool   // more than half of the row of failures that opens it is there

	mu       sync.Mutex // guards the fields below
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	streak   int
	verdict  string // why it opened, or is about to
	cause    Cause  // the same in one word
	forced   bool   // the next failure opens it
	level    int    // ejections in a row, less those that health took back
	since    time.Time
	until    time.Time
	trial    func(error)
	trialEnd time.Time
}

// ticket ties an outcome to the state of the circuit that it began in.
type ticket struct {
	generation uint32
	answers    uint64
	trial      bool
}

// change is what an outcome did to a circuit.
type change uint8

const (
	unchanged change = iota
	opened           // closed before: it is ejected now
	reopened         // its probe failed
	healed           // its probe succeeded
)

// verdict of an outcome, as gobreaker's error.
var (
	errFailed   = errors.New("failed")
	errSilent   = errors.New("silent")   // failed, for want of an answer
	errExcluded = errors.New("excluded") // says nothing about the endpoint
)

func (c *circuit) init(rules *Breaker) {
	c.rules = rules
	c.since = time.Now()
	c.breaker = c.newBreaker(rules.Ejection)
}

func (c *circuit) newBreaker(open time.Duration) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  1, // one trial at a time, and one success closes
		Interval:     c.rules.Window,
		BucketPeriod: c.rules.Bucket,
		Timeout:      open,
		ReadyToTrip:  c.readyToTrip,
		IsExcluded:   func(err error) bool { return errors.Is(err, errExcluded) },
	})
}

// readyToTrip is gobreaker's question after each failure. It is called with
// gobreaker's lock and ours held, and calls nobody.
func (c *circuit) readyToTrip(counts gobreaker.Counts) bool {
	outcomes := counts.TotalSuccesses + counts.TotalFailures // Requests would count what is in flight, too
	switch {
	case c.forced:
	case c.streak >= c.rules.Consecutive:
		c.cause, c.verdict = ByStreak, fmt.Sprintf("%d failures in a row", c.streak)
	case outcomes >= uint32(c.rules.MinOutcomes) && float64(counts.TotalFailures) > c.rules.FailureRate*float64(outcomes):
		c.cause, c.verdict = ByFailureRate, fmt.Sprintf("%d of %d failed within %s", counts.TotalFailures, outcomes, c.rules.Window)
	default:
		return false
	}
	return true
}

// is reports the state without a lock; an ejection that is over stays open
// until the next beat.
func (c *circuit) is(state gobreaker.State) bool { return c.state.Load() == int32(state) }

func (c *circuit) healthy() bool { return c.is(gobreaker.StateClosed) }

func (c *circuit) ejected() bool { return c.is(gobreaker.StateOpen) }

// wantsProbe reports whether the next request may be the one that tells.
func (c *circuit) wantsProbe() bool { return c.is(gobreaker.StateHalfOpen) && !c.probing.Load() }

// enter returns the ticket of a request that is about to be sent, and makes it
// the trial if one is wanted.
func (c *circuit) enter() ticket {
	t := ticket{generation: c.generation.Load(), answers: c.answers.Load()}
	if !c.wantsProbe() {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trial != nil || !c.is(gobreaker.StateHalfOpen) {
		return t
	}
	trial, err := c.breaker.Allow()
	if err != nil {
		return t
	}
	c.trial, c.trialEnd = trial, time.Now().Add(c.rules.Trial)
	c.probing.Store(true)
	return ticket{generation: c.generation.Load(), trial: true}
}

// settle books the outcome of a request that entered with t: nil, errFailed,
// errSilent or errExcluded. An outcome from before the last change of state is passed over,
// and so is that of a request that an ejected endpoint was lent in panic.
func (c *circuit) settle(t ticket, outcome error, why string) change {
	if outcome == errExcluded && !t.trial {
		return unchanged
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.generation != c.generation.Load():
		return unchanged
	case t.trial:
		return c.endTrial(outcome, why)
	case c.healthy():
		return c.book(t, outcome, why)
	default:
		return unchanged
	}
}

// book is called under mu, closed. A silence counts for the row only if the
// endpoint has answered nobody since it began: some devices' tokens find no
// answer on some of Apple's addresses, and as they pile up in flight they are
// most of what ends there, though it answers all others.
func (c *circuit) book(t ticket, outcome error, why string) change {
	done, err := c.breaker.Allow()
	if err != nil {
		return unchanged
	}
	if outcome == nil {
		c.streak = 0
		c.doubtful.Store(false)
		c.answers.Add(1)
		done(nil)
		return unchanged
	}
	if outcome != errSilent || t.answers == c.answers.Load() {
		c.streak++
		c.doubtful.Store(2*c.streak > c.rules.Consecutive)
	}
	done(outcome)
	if c.breaker.State() != gobreaker.StateOpen {
		return unchanged
	}
	if why != "" {
		c.verdict += ", the last " + why
	}
	c.eject()
	return opened
}

// endTrial is called under mu, half-open, with a trial under way.
func (c *circuit) endTrial(outcome error, why string) change {
	if c.trial == nil {
		return unchanged
	}
	c.trial(outcome)
	c.trial = nil
	c.probing.Store(false)
	switch c.breaker.State() {
	case gobreaker.StateClosed:
		c.become(gobreaker.StateClosed)
		return healed
	case gobreaker.StateOpen:
		c.cause, c.verdict = ByProbe, "the probe failed: "+why
		c.eject()
		return reopened
	default: // excluded: the next request is the trial
		return unchanged
	}
}

// force opens a closed circuit for what its own outcomes do not show.
func (c *circuit) force(cause Cause, why string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.healthy() {
		return false
	}
	c.cause, c.verdict = cause, why
	c.eject()
	return true
}

// eject puts a breaker in place that is born open. It is called under mu.
func (c *circuit) eject() {
	c.level++
	open := c.rules.ejection(c.level)
	c.breaker = c.newBreaker(open)
	c.forced = true
	if done, err := c.breaker.Allow(); err == nil {
		done(errFailed)
	}
	c.forced, c.streak, c.trial = false, 0, nil
	c.doubtful.Store(false)
	c.probing.Store(false)
	c.until = time.Now().Add(open)
	c.become(gobreaker.StateOpen)
}

func (c *circuit) become(state gobreaker.State) {
	c.since = time.Now()
	c.generation.Add(1)
	c.state.Store(int32(state))
}

// beat does what only time does: it ends an ejection, fails a trial that is
// lost, and lets health take back one doubling.
func (c *circuit) beat(now time.Time) change {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ejected() && now.After(c.until) && c.breaker.State() == gobreaker.StateHalfOpen:
		c.become(gobreaker.StateHalfOpen)
	case c.trial != nil && !now.Before(c.trialEnd):
		return c.endTrial(errFailed, "no outcome within "+c.rules.Trial.String())
	case c.healthy() && c.level > 0 && now.Sub(c.since) >= c.rules.Ejection:
		c.level--
		c.since = now
	}
	return unchanged
}

// report is the circuit as Status shows it.
func (c *circuit) report() (state gobreaker.State, verdict string, until time.Time, counts gobreaker.Counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state = gobreaker.State(c.state.Load())
	if state == gobreaker.StateClosed {
		c.breaker.State() // rolls the window; an open one it could only half open too early
		return state, "", time.Time{}, c.breaker.Counts()
	}
	return state, c.verdict, c.until, gobreaker.Counts{}
}

// why returns the cause of the last ejection, in a word and in words.
func (c *circuit) why() (cause Cause, words string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause, fmt.Sprintf("%s; ejected for %s", c.verdict, c.rules.ejection(c.level))
}
