// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"math"
	"time"

	"github.com/sluice-push/sluice/push"
)

const maxPerMinute = 100_000_000

// Rate is how fast a broadcast is sent. The zero value does not limit it.
type Rate struct {
	// PerMinute is the number of notifications a minute after the ramp-up; 0 means no limit.
	PerMinute int `json:"per_minute,omitempty"`
	// RampUp is the time in which the rate grows linearly from 0 to PerMinute.
	RampUp push.Duration `json:"ramp_up,omitzero"`
}

// Check returns a *strictjson.Error if the rate is invalid.
func (r Rate) Check() error {
	switch {
	case r.PerMinute < 0 || r.PerMinute > maxPerMinute:
		return invalid("per_minute", "must be a whole number from 1 to 100,000,000, or absent")
	case r.RampUp < 0 || time.Duration(r.RampUp) > 24*time.Hour:
		return invalid("ramp_up", "must be at most 24h")
	case r.RampUp > 0 && r.PerMinute == 0:
		return invalid("ramp_up", "must be absent if per_minute is")
	}
	return nil
}

// Allowed returns how many notifications may have been sent when the given time has passed since the
// start. The time does not include pauses. The first one may be sent at once.
func (r Rate) Allowed(elapsed time.Duration) int64 {
	if r.PerMinute == 0 {
		return math.MaxInt64
	}
	t, ramp := float64(elapsed), float64(r.RampUp)
	if t >= ramp {
		t -= ramp / 2
	} else {
		t = t * t / (2 * ramp)
	}
	return int64(float64(r.PerMinute)*t/float64(time.Minute)) + 1
}

// At returns when the nth notification, counted from 0, may be sent: the shortest time for which
// Allowed returns more than n, or the longest duration if that is more than a century.
func (r Rate) At(n int64) time.Duration {
	if r.PerMinute == 0 || n <= 0 {
		return 0
	}
	t, ramp := float64(n)*float64(time.Minute)/float64(r.PerMinute), float64(r.RampUp)
	if t >= ramp/2 {
		t += ramp / 2
	} else {
		t = math.Sqrt(2 * ramp * t)
	}
	if t > math.MaxInt64/2 {
		return math.MaxInt64 // more than a century
	}
	at := time.Duration(t)
	for r.Allowed(at) > n { // rounding
		at--
	}
	for r.Allowed(at) <= n {
		at++
	}
	return at
}
