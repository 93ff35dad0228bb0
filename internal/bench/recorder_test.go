// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/load"
)

func recordOne(rec *recorder, due, latency time.Duration, status string) {
	rec.Offered(0, 1, due)
	_ = rec.Answered(&load.Result{Status: status, Due: due, Latency: latency, SinceSent: latency, Single: true,
		Attempts: []load.Attempt{{Endpoint: "192.0.2.1:443", Status: status, Took: latency / 2}}}, rec.start.Add(due+latency))
}

func TestLatencyIsRecordedAtTheScheduledTime(t *testing.T) {
	rec := newRecorder(time.Unix(1000, 0), 12*time.Second)
	recordOne(rec, 0, 50*time.Millisecond, load.Accepted)
	recordOne(rec, 10*time.Millisecond, 990*time.Millisecond, load.Accepted)
	rec.Ended()
	r := rec.report()
	if r.Step != 0.1 || len(r.Timeline) != 11 {
		t.Fatalf("%d steps of %g s", len(r.Timeline), r.Step)
	}
	first, last := r.Timeline[0], r.Timeline[10]
	if first.Offered != 2 || first.Answered != 1 || last.Answered != 1 || last.Latency.P50 != 0 || math.Abs(first.Latency.Max/990-1) > 0.01 {
		t.Errorf("first %+v, last %+v", first, last)
	}
}

func TestWarmUpCountsOnlyForTheLedger(t *testing.T) {
	rec := newRecorder(time.Unix(1000, 0), time.Second)
	recordOne(rec, -time.Second, time.Hour, load.Accepted)
	rec.Offered(0, 1, -time.Second)
	rec.Lost(1, -time.Second, "no answer")
	recordOne(rec, 0, time.Millisecond, "refused")
	r := rec.report()
	if r.Offered != 1 || r.Answered != 1 || r.Lost != 0 || r.Latency.Max > 1.001 || rec.totalAccepted != 1 || rec.inFlight != 0 {
		t.Errorf("%+v, %d accepted, %d in flight", r, rec.totalAccepted, rec.inFlight)
	}
	if r.Reasons["refused: no reason given"] != 1 || len(r.Reasons) != 1 {
		t.Errorf("reasons %v", r.Reasons)
	}
}

func TestLostCountsAsMaxLatency(t *testing.T) {
	rec := newRecorder(time.Unix(1000, 0), time.Second)
	for range 98 {
		recordOne(rec, 0, time.Millisecond, load.Accepted)
	}
	rec.Offered(0, 2, 0)
	rec.Lost(2, 0, "no connection")
	r := rec.report()
	if r.Lost != 2 || r.Verdicts[statusLost] != 2 || r.Latency.P90 > 1.001 || r.Latency.P99 < maxLatency.Seconds()*999 {
		t.Errorf("%+v", r)
	}
}

func TestPercentilesAndBuckets(t *testing.T) {
	rec := newRecorder(time.Unix(1000, 0), time.Second)
	for i := range 1000 {
		recordOne(rec, 0, time.Duration(i+1)*time.Millisecond, load.Accepted)
	}
	r := rec.report()
	for _, c := range []struct{ got, want float64 }{{r.Latency.P50, 500}, {r.Latency.P90, 900}, {r.Latency.P99, 990}, {r.Latency.P999, 999}, {r.Latency.Max, 1000}, {r.Latency.Mean, 500.5}, {r.Overhead.P50, 250}} {
		if math.Abs(c.got/c.want-1) > 0.002 {
			t.Errorf("%g, want %g", c.got, c.want)
		}
	}
	sum := 0
	for i, c := range r.Distribution {
		sum += c.Count
		if i > 0 && math.Abs(c.UpTo/r.Distribution[i-1].UpTo-math.Pow(10, 0.05)) > 1e-9 {
			t.Errorf("bucket %d does not have the width of the others", i)
		}
	}
	if last := r.Distribution[len(r.Distribution)-1]; sum != 1000 || last.Count == 0 || last.UpTo < 1000 {
		t.Errorf("%d in all buckets, the last is %+v", sum, last)
	}
	if e := r.Endpoints[0]; e.Attempts != 1000 || e.Accepted != 1000 {
		t.Errorf("%+v", e)
	}
}

func TestTimelineHasAtMost120Steps(t *testing.T) {
	for _, d := range []time.Duration{time.Second, 12 * time.Second, time.Minute, 10 * time.Minute, 24 * time.Hour, 30 * 24 * time.Hour} {
		if n := d / stepFor(d); n > 120 || stepFor(d) < 100*time.Millisecond {
			t.Errorf("%s has %d steps", d, n)
		}
	}
}
