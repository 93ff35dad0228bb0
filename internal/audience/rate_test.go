// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/push"
)

func rate(perMinute int, ramp time.Duration) audience.Rate {
	return audience.Rate{PerMinute: perMinute, RampUp: push.Duration(ramp)}
}

func TestRateAllowsItsShareOfEachMinute(t *testing.T) {
	for _, r := range []audience.Rate{rate(1, 0), rate(600, 0), rate(60_000, 0), rate(600_000, 10*time.Minute), rate(1_000_000, time.Hour), rate(7, 90*time.Second)} {
		ramp := time.Duration(r.RampUp)
		for minute := range 120 {
			from := time.Duration(minute) * time.Minute
			got := float64(r.Allowed(from+time.Minute) - r.Allowed(from))
			middle := from + 30*time.Second
			if from < ramp && from+time.Minute > ramp {
				continue // the minute in which the ramp-up ends
			}
			want := float64(r.PerMinute) * min(1, float64(middle)/float64(max(ramp, 1)))
			if math.Abs(got-want) > 0.02*want+1 {
				t.Errorf("%+v: %v in minute %d, want %.1f", r, got, minute, want)
			}
		}
	}
}

// TestRateDoesNotDrift sends a million notifications, one when each is due.
func TestRateDoesNotDrift(t *testing.T) {
	r := rate(100_000, 5*time.Minute)
	const n = 1_000_000
	took, want := r.At(n), (n/100_000)*time.Minute+150*time.Second
	if diff := took - want; diff.Abs() > time.Millisecond {
		t.Errorf("a million take %s, want %s", took, want)
	}
}

func TestFirstMayBeSentAtOnce(t *testing.T) {
	for _, r := range []audience.Rate{{}, rate(1, 0), rate(1, time.Hour)} {
		if r.Allowed(0) < 1 || r.At(0) != 0 {
			t.Errorf("%+v: %d allowed at the start, the first at %s", r, r.Allowed(0), r.At(0))
		}
	}
}

func TestNoRateIsNoLimit(t *testing.T) {
	var r audience.Rate
	if r.Allowed(0) != math.MaxInt64 || r.At(math.MaxInt64-1) != 0 || r.Check() != nil {
		t.Error("the zero rate limits")
	}
}

func TestAtIsInverseOfAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rate(rapid.IntRange(1, 100_000_000).Draw(t, "per minute"), time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "ramp")))
		n := rapid.Int64Range(0, 10_000_000).Draw(t, "n")
		at := r.At(n)
		if r.Allowed(at) <= n || at > 0 && r.Allowed(at-1) > n {
			t.Fatalf("%+v: At(%d) is %s, where %d are allowed, and %d before", r, n, at, r.Allowed(at), r.Allowed(at-1))
		}
		later := at + time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "later"))
		if r.Allowed(later) < r.Allowed(at) {
			t.Fatalf("%+v allows less after %s than after %s", r, later, at)
		}
	})
}

func TestDistantTimeIsTheLongestDuration(t *testing.T) {
	for _, n := range []int64{1 << 32, math.MaxInt64} {
		if at := rate(1, time.Hour).At(n); at != math.MaxInt64 {
			t.Errorf("At(%d) is %s", n, at)
		}
	}
}

func TestInvalidRateNamesField(t *testing.T) {
	for want, r := range map[string]audience.Rate{
		"per_minute: must be a whole number from 1 to 100,000,000, or absent": rate(-1, 0),
		"ramp_up: must be at most 24h":                                        rate(1, 25*time.Hour),
		"ramp_up: must be absent if per_minute is":                            rate(0, time.Hour),
	} {
		if err := r.Check(); err == nil || err.Error() != want {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := rate(100_000_000, 24*time.Hour).Check(); err != nil {
		t.Error(err)
	}
}
