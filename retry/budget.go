// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"cmp"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Budget bounds the retries of all sends that share a credential, so that retries do not add load
// to a failing provider. Over its lifetime it allows at most
//
//	Ratio × first attempts + PerSecond × (seconds since the first use + Window)
//
// retries. Retries of attempts that were never processed are free. With the defaults, callers do not
// notice that a provider fails a tenth of its requests at random, and an outage adds at most a fifth
// to the requests (docs/performance.md). The zero value has the defaults; a nil Budget allows
// everything. A Budget must not be copied after first use.
type Budget struct {
	// Ratio is the number of retries per first attempt; default 0.15, negative for none.
	Ratio float64
	// PerSecond is the rate of retries that is always allowed, so that low traffic can retry at
	// all; default 10, negative for none.
	PerSecond float64
	// Window is the time over which deposits and retries are counted; default 5s. What is unused
	// after it is lost.
	Window time.Duration

	mu                     sync.Mutex
	window                 window
	firstAttempts, retries counter
}

// Deposit counts n first attempts. Call it before they are sent: counted at their end, a provider
// that has stopped answering would look idle.
func (b *Budget) Deposit(n int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	b.firstAttempts.current += float64(n)
}

// Withdraw takes one retry after an attempt that ended in o. It returns false if none is left. A
// retry of an Unsent attempt is free.
func (b *Budget) Withdraw(o push.Outcome) bool {
	if b == nil || o.Verdict == push.Unsent {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	elapsed := b.advance()
	allowed := max(cmp.Or(b.Ratio, 0.15), 0)*b.firstAttempts.estimate(elapsed) +
		max(cmp.Or(b.PerSecond, 10), 0)*b.windowSize().Seconds()
	const rounding = 1e-9 // ten first attempts at 0.1 allow one retry, not 0.99…
	if b.retries.estimate(elapsed)+1 > allowed+rounding {
		return false
	}
	b.retries.current++
	return true
}

// advance moves the counters to the current bucket and returns its elapsed fraction. b.mu is held.
func (b *Budget) advance() (elapsed float64) {
	return b.window.advance(time.Now(), b.windowSize(), &b.firstAttempts, &b.retries)
}

func (b *Budget) windowSize() time.Duration { return cmp.Or(b.Window, 5*time.Second) }
