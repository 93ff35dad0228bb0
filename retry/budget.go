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

	mu              sync.Mutex
	bucket          time.Time // when the current bucket began
	firsts, retries counter
}

// Earn counts a first attempt. It is to be called before the attempt is sent:
// counted at its end, a provider that has stopped answering would look idle.
func (b *Budget) Earn() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roll()
	b.firsts.now++
}

// Take spends one retry after an attempt that ended in o, or returns false
// when there is none left. What was provably not processed is repeated free.
func (b *Budget) Take(o push.Outcome) bool {
	if b == nil || o.Verdict == push.Unsent {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	into := b.roll()
	granted := max(cmp.Or(b.Ratio, 0.1), 0)*b.firsts.at(into) + max(cmp.Or(b.PerSecond, 3), 0)*b.window().Seconds()
	const rounding = 1e-9 // ten first attempts at 0.1 earn one retry, not 0.99…
	if b.retries.at(into)+1 > granted+rounding {
		return false
	}
	b.retries.now++
	return true
}

// roll moves the counters to the current bucket and returns how much of it has
// passed, from 0 to 1.
func (b *Budget) roll() float64 {
	now := time.Now()
	if b.bucket.IsZero() {
		b.bucket = now
	}
	passed := now.Sub(b.bucket) / b.window()
	for range min(passed, 2) {
		b.firsts.roll()
		b.retries.roll()
	}
	b.bucket = b.bucket.Add(passed * b.window())
	return float64(now.Sub(b.bucket)) / float64(b.window())
}

func (b *Budget) window() time.Duration { return cmp.Or(b.Window, 10*time.Second) }

// counter counts events in a sliding window with two numbers: it takes those
// of the bucket before as spread evenly over it.
type counter struct{ before, now float64 }

func (c *counter) roll() { c.before, c.now = c.now, 0 }

// at returns the count of the window that ends when the given part, from 0 to
// 1, of the current bucket has passed.
func (c counter) at(into float64) float64 { return c.before*(1-into) + c.now }
