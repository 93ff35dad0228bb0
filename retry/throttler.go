// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"cmp"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// AdaptiveThrottler keeps the notifications of a credential from a provider that is down altogether. Where a Breaker watches one
// endpoint, a Brake watches what becomes of notifications after all their attempts, so that one bad endpoint among many
// leaves it alone. It holds back the part
//
//	max(0, (requests − Ratio × answered − free) / (requests + 1))
//
// of the notifications of the last Window, evenly spread: the adaptive throttling of Google's SRE book ("Handling
// Overload"), whose Ratio of 2 lets every second request go to waste. A request counts before it is sent and has Patience
// to be answered: counted at its end, a provider that has fallen silent would look idle; without the patience, every burst
// would look like silence. Free are PerSecond × Window requests, so that a quiet credential is never held back, and a busy
// one keeps probing. When probes succeed, each lets two more pass; when one fails, ten fewer: recovery doubles with every
// round trip, and no provider that fails more than one in six gets there. The zero value is the default brake, a nil one
// never brakes. A Brake must not be copied once in use.
type AdaptiveThrottler struct {
	// Ratio is how many notifications are let pass for each that was answered; default 1.1.
	Ratio float64
	// PerSecond is how many pass however bad it looks; default 3.
	PerSecond float64
	// Window is the time that is looked back over; default 10s. A longer one brakes later.
	Window time.Duration
	// Patience is how long a notification may take before it counts as unanswered; default 5s, up to twice as long. Keep
	// it above a provider's slowest honest answer.
	ResponseTimeout time.Duration
	// Rand returns a number in [0, 1); nil is math/rand/v2.
	Rand func() float64

	mu                 sync.Mutex
	window             window
	requests, answered counter
	pending            int       // passed and not ended, of the current generation: those begun since turned
	generation         int       // counts generations, each Patience long
	generationStart    time.Time // when the current one began
	untilProbe         float64   // how much of a notification is missing until the next probe
	credit             float64   // how many more pass, thanks to probes that succeeded; a debt after those that failed
}

// Permit is what Pass hands out and Done takes back.
type Permit struct{ generation int }

const (
	successCredit = 2   // for a success
	failureDebit  = 10  // for a failure
	maxCredit     = 100 // a burst, not a rate: every success that it lets through pays for two more
	maxDebt       = 14  // seven probes that succeed one after the other pay it
)

// Acquire counts a notification that is about to be sent, and returns false if it must not be. After true, Done is to be
// called when it has ended.
func (b *AdaptiveThrottler) Acquire() (p Permit, ok bool) {
	if b == nil {
		return Permit{}, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	chance := b.rejectionRate(b.advance())
	b.requests.current++
	if chance > 0 && !b.probe(1-chance) {
		if b.credit < 1 {
			return Permit{}, false
		}
		b.credit--
	}
	b.pending++
	return Permit{b.generation}, true
}

// probe tells whether it is time for one more of those that pass however bad it looks: share of them do, spread evenly
// but for some jitter. Were each left to chance alone, recovery would now and then wait seconds for the next. b.mu is held.
func (b *AdaptiveThrottler) probe(share float64) bool {
	if b.untilProbe -= share; b.untilProbe > 0 {
		return false
	}
	b.untilProbe += 0.5 + b.random()
	return true
}

// AllowRetry tells whether a notification that has passed may be sent once more. It counts nothing.
func (b *AdaptiveThrottler) AllowRetry() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	chance := b.rejectionRate(b.advance())
	return chance <= 0 || b.random() >= chance
}

// Record takes note of how a notification that has passed ended. An answer of whatever kind shows that the provider is up;
// what was never sent, or whose caller left, shows nothing.
func (b *AdaptiveThrottler) Record(p Permit, o push.Outcome) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	into := b.advance()
	if p.generation == b.generation {
		b.pending--
	}
	switch o.Verdict {
	case push.Unavailable, push.Unknown:
		b.credit = max(b.credit-failureDebit, -maxDebt)
		return
	case push.Unsent, push.Abandoned, push.Expired:
	default:
		if b.rejectionRate(into) > 0 {
			b.credit = min(b.credit+successCredit, maxCredit)
		}
	}
	b.answered.current++
}

// RetryAfter is what a notification that was held back is told: by then half the window has slid on.
func (b *AdaptiveThrottler) RetryAfter() time.Duration { return b.windowSize() / 2 }

// RejectionRate returns the part of notifications that is being held back, 0 for none.
func (b *AdaptiveThrottler) RejectionRate() float64 {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.rejectionRate(b.advance()), 0)
}

// rejectionRate is the rule above. b.mu is held.
func (b *AdaptiveThrottler) rejectionRate(into float64) float64 {
	requests, answered := b.requests.estimate(into)-float64(b.pending), b.answered.estimate(into)
	free := cmp.Or(b.PerSecond, 3) * b.windowSize().Seconds()
	return (requests - cmp.Or(b.Ratio, 1.1)*answered - free) / (requests + 1)
}

// advance moves the counters to the current bucket and begins a generation when it is time. b.mu is held.
func (b *AdaptiveThrottler) advance() (into float64) {
	now := time.Now()
	into = b.window.advance(now, b.windowSize(), &b.requests, &b.answered)
	if now.Sub(b.generationStart) >= cmp.Or(b.ResponseTimeout, 5*time.Second) {
		b.generation, b.generationStart, b.pending = b.generation+1, now, 0
	}
	return into
}

func (b *AdaptiveThrottler) windowSize() time.Duration { return cmp.Or(b.Window, 10*time.Second) }

func (b *AdaptiveThrottler) random() float64 {
	if b.Rand != nil {
		return b.Rand()
	}
	return rand.Float64()
}
