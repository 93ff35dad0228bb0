// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"cmp"
	"math"
	"math/rand/v2"
	"time"

	"github.com/sluice-push/sluice/push"
)

// backoff returns a wait drawn evenly from nothing up to a ceiling that
// doubles with every attempt. This "full jitter" spreads the retries of
// senders that failed together better than any jitter around a fixed wait
// (Brooker, "Exponential Backoff And Jitter", 2015). On top of an imposed wait
// it keeps those who were told the same second from coming back in it together.
func (p Policy) backoff(attempt int, o push.Outcome, rule Rule) time.Duration {
	base := cmp.Or(p.Transient, 50*time.Millisecond)
	if o.Verdict == push.Throttled {
		base = cmp.Or(p.Throttled, time.Second)
	}
	base = cmp.Or(rule.Base, base)
	longest := cmp.Or(rule.Cap, p.Cap, 20*time.Second)
	ceiling := min(math.Ldexp(float64(base), attempt-1), float64(longest))
	return time.Duration(ceiling * p.random())
}

func (p Policy) random() float64 {
	if p.Rand != nil {
		return p.Rand()
	}
	return rand.Float64()
}
