// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"cmp"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Budget bounds the retries of everything that shares a credential, so that a
// provider in trouble is not sent more for being in trouble. Over its whole
// life it grants at most
//
//	Ratio × first attempts + PerSecond × (seconds since the first use + Window)
//
// retries; what was never processed costs nothing. The numbers are from the
// 10 % of Google's SRE book and the floor of Finagle's RetryBudget. The zero
// value is the default budget, a nil one grants everything. A Budget must not
// be copied once in use.
type Budget struct {
	// Ratio is how many retries each first attempt earns; default 0.1, and
	// negative for none.
	Ratio float64
	// PerSecond is how many retries there are without any earning, so that a
	// quiet credential can retry at all; default 3, and negative for none.
	PerSecond float64
	// Window is the time over which earnings and retries are weighed against
	// each other; default 10s. What is not used within it is lost.
	Window time.Duration

	mu                     sync.Mutex
	window                 window
	firstAttempts, retries counter
}

// Deposit counts a first attempt. It is to be called before the attempt is sent:
// counted at its end, a provider that has stopped answering would look idle.
func (b *Budget) Deposit() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	b.firstAttempts.current++
}

// Withdraw spends one retry after an attempt that ended in o, or returns false
// when there is none left. What was provably not processed is repeated free.
func (b *Budget) Withdraw(o push.Outcome) bool {
	if b == nil || o.Verdict == push.Unsent {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	into := b.advance()
	granted := max(cmp.Or(b.Ratio, 0.1), 0)*b.firstAttempts.estimate(into) + max(cmp.Or(b.PerSecond, 3), 0)*b.windowSize().Seconds()
	const rounding = 1e-9 // ten first attempts at 0.1 earn one retry, not 0.99…
	if b.retries.estimate(into)+1 > granted+rounding {
		return false
	}
	b.retries.current++
	return true
}

// advance moves the counters to the current bucket. b.mu is held.
func (b *Budget) advance() (into float64) {
	return b.window.advance(time.Now(), b.windowSize(), &b.firstAttempts, &b.retries)
}

func (b *Budget) windowSize() time.Duration { return cmp.Or(b.Window, 10*time.Second) }
