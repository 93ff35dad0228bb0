// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math"
	"slices"
	"time"
)

// Lost is the status of a notification without a receipt, and Never is its latency.
const (
	Lost  = "lost"
	Never = time.Duration(math.MaxInt64)
)

// Results holds the results of a Generator.
type Results struct {
	// Started is when the schedule started.
	Started time.Time
	// Samples are ordered by the index passed to NewNotification, and therefore by due time.
	Samples Samples
}

// Sample is the result of one notification.
type Sample struct {
	ID      string        // assigned by the gateway; empty if the notification is lost
	Due     time.Duration // counted from Results.Started
	Latency time.Duration // from Due to the receipt
	Status  string        // the status in the receipt, or Lost
	Reason  string
	// Attempts are the attempts listed in the receipt, in order.
	Attempts []Attempt
}

// Attempt is one attempt on one endpoint.
type Attempt struct {
	Endpoint string `json:"endpoint"`
	Status   string `json:"status"`
}

// Samples is a set of samples, such as those of one phase.
type Samples []Sample

// Split divides the samples into those due before at and the rest.
func (r Results) Split(at time.Time) (before, after Samples) {
	i, _ := slices.BinarySearchFunc(r.Samples, at.Sub(r.Started), func(s Sample, at time.Duration) int { return int(s.Due - at) })
	return r.Samples[:i], r.Samples[i:]
}

// Between returns the samples due in [from, until).
func (r Results) Between(from, until time.Time) Samples {
	_, late := r.Split(from)
	early, _ := r.Split(until)
	return r.Samples[len(r.Samples)-len(late) : max(len(early), len(r.Samples)-len(late))]
}

// LatencyQuantile returns the smallest latency that at least the fraction q of the samples does not
// exceed. q is from 0 to 1. It returns Never if the quantile falls on a lost notification, and 0 if
// there are no samples.
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

// Count returns the number of samples for which match returns true.
func (s Samples) Count(match func(*Sample) bool) (n int) {
	for i := range s {
		if match(&s[i]) {
			n++
		}
	}
	return n
}

// AttemptsOn returns the number of attempts on an endpoint, and how many of them were first
// attempts.
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
