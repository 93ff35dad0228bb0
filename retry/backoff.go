// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"cmp"
	"math"
	"math/rand/v2"
	"time"

	"github.com/sluice-push/sluice/push"
)

// backoff returns a random wait between zero and a maximum that doubles with every attempt. This
// "full jitter" spreads the retries of senders that failed together better than jitter around a
// fixed wait (Brooker, "Exponential Backoff And Jitter", 2015). Added to a Retry-After, it spreads
// senders that were given the same time.
func (p Policy) backoff(attempt int, o push.Outcome, rule Rule) time.Duration {
	base := cmp.Or(p.Transient, 50*time.Millisecond)
	if o.Verdict == push.Throttled {
		base = cmp.Or(p.Throttled, time.Second)
	}
	base = cmp.Or(rule.Base, base)
	limit := cmp.Or(rule.Cap, p.Cap, 20*time.Second)
	maxBackoff := min(math.Ldexp(float64(base), attempt-1), float64(limit))
	return time.Duration(maxBackoff * p.random())
}

func (p Policy) random() float64 {
	if p.Rand != nil {
		return p.Rand()
	}
	return rand.Float64()
}
