// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"cmp"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// AdaptiveThrottler rejects notifications locally while the provider behind a credential is down. A
// breaker watches one endpoint; an AdaptiveThrottler watches the result of a notification after all
// its attempts, so one failing endpoint among many does not trigger it. It implements the adaptive
// throttling of Google's SRE book ("Handling Overload"). Of the notifications of the last Window it
// rejects the fraction
//
//	max(0, (requests − Ratio × answered − PerSecond × Window) / (requests + 1))
//
// spread evenly. The book's Ratio of 2 would let half of the requests fail; the default here is
// lower.
//
// A request is counted before it is sent, so that a provider that stops answering does not look
// idle. It has ResponseTimeout to be answered, so that a burst does not look like an outage.
// PerSecond × Window requests are always allowed: low traffic is never throttled, and high traffic
// keeps sending probes. Each success during an outage allows two more requests and each failure ten
// fewer. Recovery therefore doubles with every round trip, and a provider that fails more than one
// request in six does not recover.
//
// The zero value has the defaults; a nil AdaptiveThrottler allows everything. An AdaptiveThrottler
// must not be copied after first use.
type AdaptiveThrottler struct {
	// Ratio is the number of notifications allowed per answered one; default 1.1.
	Ratio float64
	// PerSecond is the rate of notifications that is always allowed; default 3.
	PerSecond float64
	// Window is the time over which requests and answers are counted; default 10s. A longer window
	// reacts later.
	Window time.Duration
	// ResponseTimeout is the time after which a notification counts as unanswered; default 5s. The
	// actual time is up to twice as long. It must exceed the provider's slowest normal response.
	ResponseTimeout time.Duration
	// Rand returns a number in [0, 1); default math/rand/v2.
	Rand func() float64

	mu                 sync.Mutex
	window             window
	requests, answered counter
	pending            int       // permits of the current generation that have not been recorded
	generation         int       // number of ResponseTimeout intervals so far
	generationStart    time.Time // start of the current generation
	untilProbe         float64   // fraction of a notification until the next probe
	credit             float64   // notifications allowed because probes succeeded; negative after failures
}

// Permit is the right to send notifications. It is released once for each of them. The zero value is
// the permit of a nil AdaptiveThrottler.
type Permit struct {
	throttler  *AdaptiveThrottler
	generation int
}

// reasonProviderDown is the reason of a *push.RejectedError: the throttler rejects the notification.
const reasonProviderDown = "PROVIDER_DOWN"

const (
	successCredit = 2
	failureDebit  = 10
	maxCredit     = 100 // bounds a burst, not a rate: every success adds two more
	maxDebt       = 14  // seven successful probes in a row make up for it
)

// Acquire counts n notifications that are about to be sent and share a permit. The error is a
// *push.RejectedError if they must not be sent. Otherwise, the caller must release the permit for each
// notification that has ended. While anything is rejected, Acquire with an n other than 1 rejects
// without counting: call it for each notification then.
func (t *AdaptiveThrottler) Acquire(n int) (Permit, error) {
	if t == nil {
		return Permit{}, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	rejection := t.rejectionRate(t.advance())
	if rejection > 0 && n != 1 {
		return Permit{}, t.rejected()
	}
	t.requests.current += float64(n)
	if rejection > 0 && !t.probe(1-rejection) {
		if t.credit < 1 {
			return Permit{}, t.rejected()
		}
		t.credit--
	}
	t.pending += n
	return Permit{t, t.generation}, nil
}

func (t *AdaptiveThrottler) rejected() error {
	return push.Reject(push.Unavailable, reasonProviderDown, t.windowSize()/2)
}

// probe reports whether this notification is one of the given share that is allowed during an
// outage. Probes are spaced evenly with some jitter: if each were drawn at random, recovery could
// wait seconds for the next one. t.mu is held.
func (t *AdaptiveThrottler) probe(share float64) bool {
	if t.untilProbe -= share; t.untilProbe > 0 {
		return false
	}
	t.untilProbe += 0.5 + random(t.Rand)
	return true
}

// AllowRetry reports whether a notification with a permit may be sent once more. It counts nothing.
func (t *AdaptiveThrottler) AllowRetry() bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	rejection := t.rejectionRate(t.advance())
	return rejection <= 0 || random(t.Rand) >= rejection
}

// Release records n notifications that ended with the same outcome. Any answer shows that the provider
// is up. Unsent, Abandoned and Expired show nothing: they cancel out the request and earn no credit.
func (p Permit) Release(o push.Outcome, n int) {
	t := p.throttler
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	elapsed := t.advance()
	for range n {
		t.record(p, o, elapsed)
	}
}

// record records one notification. t.mu is held.
func (t *AdaptiveThrottler) record(p Permit, o push.Outcome, elapsed float64) {
	if p.generation == t.generation {
		t.pending--
	}
	switch o.Verdict {
	case push.Unavailable, push.Unknown:
		t.credit = max(t.credit-failureDebit, -maxDebt)
		return
	case push.Unsent, push.Abandoned, push.Expired:
	default:
		if t.rejectionRate(elapsed) > 0 {
			t.credit = min(t.credit+successCredit, maxCredit)
		}
	}
	t.answered.current++
}

// RejectionRate returns the fraction of notifications that is rejected now, from 0 to 1.
func (t *AdaptiveThrottler) RejectionRate() float64 {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(t.rejectionRate(t.advance()), 0)
}

// Recent returns how many notifications of the last Window have ended or should have, and how many of
// these show that the provider is up. Those that were rejected do not.
func (t *AdaptiveThrottler) Recent() (requests, answered float64) {
	if t == nil {
		return 0, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.recent(t.advance())
}

// recent returns the result of Recent. t.mu is held.
func (t *AdaptiveThrottler) recent(elapsed float64) (requests, answered float64) {
	return t.requests.estimate(elapsed) - float64(t.pending), t.answered.estimate(elapsed)
}

// rejectionRate computes the formula of AdaptiveThrottler. It can be negative. t.mu is held.
func (t *AdaptiveThrottler) rejectionRate(elapsed float64) float64 {
	requests, answered := t.recent(elapsed)
	free := cmp.Or(t.PerSecond, 3) * t.windowSize().Seconds()
	return (requests - cmp.Or(t.Ratio, 1.1)*answered - free) / (requests + 1)
}

// advance moves the counters to the current bucket and starts a new generation when the current one
// is older than ResponseTimeout. It returns the elapsed fraction of the bucket. t.mu is held.
func (t *AdaptiveThrottler) advance() (elapsed float64) {
	now := time.Now()
	elapsed = t.window.advance(now, t.windowSize(), &t.requests, &t.answered)
	if now.Sub(t.generationStart) >= cmp.Or(t.ResponseTimeout, 5*time.Second) {
		t.generation, t.generationStart, t.pending = t.generation+1, now, 0
	}
	return elapsed
}

func (t *AdaptiveThrottler) windowSize() time.Duration { return cmp.Or(t.Window, 10*time.Second) }
