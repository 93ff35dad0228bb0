// SPDX-License-Identifier: Apache-2.0

package retry

import "time"

// window is the time over which a Budget and a Brake count.
type window struct{ bucketStart time.Time } // when the current bucket did

// advance moves the counters to the current bucket and returns how much of it has
// passed, from 0 to 1.
func (w *window) advance(now time.Time, span time.Duration, counters ...*counter) float64 {
	if w.bucketStart.IsZero() {
		w.bucketStart = now
	}
	passed := now.Sub(w.bucketStart) / span
	for range min(passed, 2) {
		for _, c := range counters {
			c.advance()
		}
	}
	w.bucketStart = w.bucketStart.Add(passed * span)
	return float64(now.Sub(w.bucketStart)) / float64(span)
}

// counter counts events in a sliding window with two numbers: it takes those
// of the bucket before as spread evenly over it.
type counter struct{ previous, current float64 }

func (c *counter) advance() { c.previous, c.current = c.current, 0 }

// estimate returns the count of the window that ends when the given part, from 0 to
// 1, of the current bucket has passed.
func (c counter) estimate(into float64) float64 { return c.previous*(1-into) + c.current }
