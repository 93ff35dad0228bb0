// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/load"
)

func TestExpectMaxChangeBoundsBothDirections(t *testing.T) {
	for after, want := range map[time.Duration]string{
		200 * time.Millisecond: "p99 +0.0% (within 5%)",
		190 * time.Millisecond: "p99 -5.0% (within 5%)",
		211 * time.Millisecond: "p99 +5.5% (within 5%) FAIL",
		189 * time.Millisecond: "p99 -5.5% (within 5%) FAIL",
	} {
		var c rowResult
		c.expectMaxChange("p99", 200*time.Millisecond, after, 0.05)
		if got := c.Figures[0].String(); got != want {
			t.Errorf("%s: got %q, want %q", after, got, want)
		}
	}
}

// sampleResults returns the results of ten notifications per second. shares are the fractions
// accepted in each second.
func sampleResults(shares ...float64) load.Results {
	r := load.Results{Started: time.Unix(1000, 0)}
	for second, share := range shares {
		for i := range 10 {
			sample := load.Sample{Due: time.Duration(second)*time.Second + time.Duration(i)*100*time.Millisecond, Status: "unavailable"}
			if float64(i) < share*10 {
				sample.Status = "accepted"
			}
			r.Samples = append(r.Samples, sample)
		}
	}
	return r
}

func TestRecoveryTimeRequiresLastingSuccess(t *testing.T) {
	for _, c := range []struct {
		shares []float64
		want   time.Duration
	}{
		{[]float64{1, 1, 1}, 0},
		{[]float64{0, 0, 1}, 2 * time.Second},
		{[]float64{0, 1, 0.5, 1}, 3 * time.Second}, // the first recovery does not last
		{[]float64{1, 1, 0}, never},
	} {
		r := sampleResults(c.shares...)
		if got := recoveryTime(r, r.Started, r.Started.Add(time.Duration(len(c.shares))*time.Second), 0.95); got != c.want {
			t.Errorf("%v: recovered after %s, want %s", c.shares, got, c.want)
		}
	}
}

// timesAt returns times in milliseconds since the epoch.
func timesAt(ms ...int) (t times) {
	for _, at := range ms {
		t = append(t, time.UnixMilli(int64(at)))
	}
	return t
}

func TestBusiestSecond(t *testing.T) {
	for want, t1 := range map[int]times{
		0: nil,
		1: timesAt(0, 1000, 2000),
		3: timesAt(0, 900, 1000, 1899, 2000),
		4: timesAt(100, 900, 1000, 1050, 5000),
	} {
		if got := t1.busiestSecond(); got != want {
			t.Errorf("%v: %d in the busiest second, want %d", t1, got, want)
		}
	}
}

func TestTimesBetween(t *testing.T) {
	all := timesAt(0, 1000, 2000, 3000)
	if got := fmt.Sprint(len(all.after(time.UnixMilli(1000))), len(all.between(time.UnixMilli(500), time.UnixMilli(3000)))); got != "3 2" {
		t.Errorf("got %s", got)
	}
	if got := all.rateFraction(time.UnixMilli(0), time.UnixMilli(4000), 2); got != 0.5 {
		t.Errorf("rate %v relative to the quota, want 0.5", got)
	}
}

func TestBeforeBackoffCountsEarlyExchanges(t *testing.T) {
	for want, all := range map[int]times{
		0: timesAt(0, 800, 2500, 7000),
		1: timesAt(0, 1000, 2000, 6000),
		2: timesAt(0, 700, 1500),
	} {
		if got := all.beforeBackoff(); got != want {
			t.Errorf("%v: %d before the backoff, want %d", all, got, want)
		}
	}
}
