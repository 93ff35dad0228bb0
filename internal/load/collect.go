// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Lost is the status of a notification without a receipt, and Never is its latency.
const (
	Lost  = "lost"
	Never = time.Duration(math.MaxInt64)
)

// Results holds the result of each notification.
type Results struct {
	// Started is when the schedule started.
	Started time.Time
	// Samples are ordered by the number of the notification, and therefore by due time.
	Samples Samples
}

// Sample is the result of one notification.
type Sample struct {
	ID      string        // assigned by the gateway; empty if the notification is lost
	Due     time.Duration // counted from Results.Started
	Latency time.Duration // from Due to the receipt
	Status  string        // the status in the receipt, Rejected or Lost
	Reason  string
	// Attempts are the attempts listed in the receipt, in order.
	Attempts   []Attempt
	HTTPStatus int    // of the response
	RetryAfter string // header field of the response
}

// Collect runs a generator with a Count and returns the result of each notification. An error says why
// results are missing.
func (g Generator) Collect(ctx context.Context) (Results, error) {
	g.Start = time.Now()
	c := &collector{results: Results{Started: g.Start, Samples: make(Samples, g.Count)}}
	g.Recorder = c
	err := g.Run(ctx)
	for i := range c.results.Samples {
		if s := &c.results.Samples[i]; s.Status == "" {
			s.Latency, s.Status = Never, Lost
		}
	}
	return c.results, err
}

// collector records the result of each notification.
type collector struct {
	mu      sync.Mutex
	results Results
}

// Offered sets the due time of notifications.
func (c *collector) Offered(first, n int, due time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		c.results.Samples[first+i].Due = due
	}
}

// Answered stores a result. It copies what is valid only until it returns.
func (c *collector) Answered(r *Result, _ time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.results.Samples[r.Index]
	if s.Status != "" {
		return fmt.Errorf("notification %d has two receipts", r.Index)
	}
	*s = Sample{
		ID: string(r.ID), Due: r.Due, Latency: r.Latency, Status: r.Status, Reason: r.Reason, Attempts: slices.Clone(r.Attempts),
		HTTPStatus: r.HTTPStatus, RetryAfter: r.RetryAfter,
	}
	return nil
}

// Sent does nothing: Latency counts from the due time.
func (c *collector) Sent(_, _ time.Duration) {}

// Lost does nothing: a notification without a result is lost.
func (c *collector) Lost(int, time.Duration, string) {}

// Ended does nothing.
func (c *collector) Ended() {}

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
