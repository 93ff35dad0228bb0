// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math"
	"slices"
	"time"
)

// Lost is the status of a notification whose receipt never came, and Never its latency.
const (
	Lost  = "lost"
	Never = time.Duration(math.MaxInt64)
)

// Results are what came of a Load.
type Results struct {
	// Began is when the schedule began.
	Started time.Time
	// Samples are in the order of Compose's index, which is that of their times.
	Samples Samples
}

// Sample is what came of one notification.
type Sample struct {
	ID      string        // as the gateway named it; empty when it is lost
	Due     time.Duration // its time, counted from Results.Began
	Latency time.Duration // from its time to its receipt
	Status  string        // of its receipt, or Lost
	Reason  string
	// Attempts are those that the receipt tells of, in their order.
	Attempts []Attempt
}

// Attempt is one send on one endpoint.
type Attempt struct {
	Endpoint string `json:"endpoint"`
	Status   string `json:"status"`
}

// Samples are some of a Load's, such as those of one phase.
type Samples []Sample

// Split parts the samples by their time: those due before at, and the others.
func (r Results) Split(at time.Time) (before, after Samples) {
	i, _ := slices.BinarySearchFunc(r.Samples, at.Sub(r.Started), func(s Sample, at time.Duration) int { return int(s.Due - at) })
	return r.Samples[:i], r.Samples[i:]
}

// Between returns the samples that were due from the one time on and before the other.
func (r Results) Between(from, until time.Time) Samples {
	_, late := r.Split(from)
	early, _ := r.Split(until)
	return r.Samples[len(r.Samples)-len(late) : max(len(early), len(r.Samples)-len(late))]
}

// LatencyQuantile returns the least latency that the share q, from 0 to 1, of the samples does not exceed; Never where that many
// were not even answered, and 0 of no samples.
func (s Samples) LatencyQuantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	all := make([]time.Duration, len(s))
	for i := range s {
		all[i] = s[i].Latency
	}
	slices.Sort(all)
	rank := int(math.Ceil(q * float64(len(all))))
	return all[min(max(rank, 1), len(all))-1]
}

// Count returns how many samples are so.
func (s Samples) Count(so func(*Sample) bool) (n int) {
	for i := range s {
		if so(&s[i]) {
			n++
		}
	}
	return n
}

// AttemptsOn returns how many attempts, and how many first ones, were made on an endpoint.
func (s Samples) AttemptsOn(endpoint string) (attempts, first int) {
	for i := range s {
		for nth, a := range s[i].Attempts {
			if a.Endpoint == endpoint {
				attempts++
				if nth == 0 {
					first++
				}
			}
		}
	}
	return attempts, first
}
