// SPDX-License-Identifier: Apache-2.0

package retry

import "time"

// window is the sliding window of a Budget or an AdaptiveThrottler. It consists of the current
// bucket and the one before it.
type window struct{ bucketStart time.Time }

// advance moves the counters to the current bucket and returns the elapsed fraction of that bucket,
// from 0 to 1.
func (w *window) advance(now time.Time, size time.Duration, counters ...*counter) float64 {
	if w.bucketStart.IsZero() {
		w.bucketStart = now
	}
	buckets := now.Sub(w.bucketStart) / size
	for range min(buckets, 2) {
		for _, c := range counters {
			c.advance()
		}
	}
	w.bucketStart = w.bucketStart.Add(buckets * size)
	return float64(now.Sub(w.bucketStart)) / float64(size)
}

// counter counts the events of two buckets. It assumes that the events of the previous bucket were
// spread evenly over it.
type counter struct{ previous, current float64 }

func (c *counter) advance() { c.previous, c.current = c.current, 0 }

// estimate returns the count of the window that ends at the elapsed fraction, from 0 to 1, of the
// current bucket.
func (c counter) estimate(elapsed float64) float64 { return c.previous*(1-elapsed) + c.current }
