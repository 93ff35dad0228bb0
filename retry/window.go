// SPDX-License-Identifier: Apache-2.0

package retry

import "time"

// window is the time over which a Budget and a Brake count.
type window struct{ began time.Time } // when the current bucket did

// roll moves the counters to the current bucket and returns how much of it has
// passed, from 0 to 1.
func (w *window) roll(now time.Time, span time.Duration, counters ...*counter) float64 {
	if w.began.IsZero() {
		w.began = now
	}
	passed := now.Sub(w.began) / span
	for range min(passed, 2) {
		for _, c := range counters {
			c.roll()
		}
	}
	w.began = w.began.Add(passed * span)
	return float64(now.Sub(w.began)) / float64(span)
}

// counter counts events in a sliding window with two numbers: it takes those
// of the bucket before as spread evenly over it.
type counter struct{ before, now float64 }

func (c *counter) roll() { c.before, c.now = c.now, 0 }

// at returns the count of the window that ends when the given part, from 0 to
// 1, of the current bucket has passed.
func (c counter) at(into float64) float64 { return c.before*(1-into) + c.now }
