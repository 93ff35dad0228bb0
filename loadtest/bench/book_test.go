// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"testing"
	"time"
)

func answered(b *book, due, latency time.Duration, status string) {
	b.offer(due, 1)
	b.answer(due, b.began.Add(due+latency), &verdict{status: status, latency: latency, sent: latency,
		attempts: []attempt{{endpoint: "192.0.2.1:443", accepted: status == accepted, took: latency / 2}}}, true)
}

func TestLatencyBelongsToTheTimeWhenItWasDueAndTheAnswerToItsOwn(t *testing.T) {
	b := newBook(time.Unix(1000, 0), 12*time.Second)
	answered(b, 0, 50*time.Millisecond, accepted)
	answered(b, 10*time.Millisecond, 990*time.Millisecond, accepted)
	b.close()
	r := b.report()
	if r.Step != 0.1 || len(r.Timeline) != 11 {
		t.Fatalf("%d steps of %g s", len(r.Timeline), r.Step)
	}
	first, last := r.Timeline[0], r.Timeline[10]
	if first.Offered != 2 || first.Answered != 1 || last.Answered != 1 || last.Latency.P50 != 0 || math.Abs(first.Latency.Max/990-1) > 0.01 {
		t.Errorf("first %+v, last %+v", first, last)
	}
}

func TestTheWarmUpIsInNoFigureButTheLedgers(t *testing.T) {
	b := newBook(time.Unix(1000, 0), time.Second)
	answered(b, -time.Second, time.Hour, accepted)
	b.offer(-time.Second, 1)
	b.lose(-time.Second, 1, "no answer")
	answered(b, 0, time.Millisecond, "refused")
	r := b.report()
	if r.Offered != 1 || r.Answered != 1 || r.Lost != 0 || r.Latency.Max > 1.001 || b.everAccepted != 1 || b.everInFlight != 0 {
		t.Errorf("%+v, %d accepted, %d in flight", r, b.everAccepted, b.everInFlight)
	}
	if r.Reasons["refused: no reason given"] != 1 || len(r.Reasons) != 1 {
		t.Errorf("reasons %v", r.Reasons)
	}
}

func TestWhatIsLostIsTheSlowestOfAll(t *testing.T) {
	b := newBook(time.Unix(1000, 0), time.Second)
	for range 98 {
		answered(b, 0, time.Millisecond, accepted)
	}
	b.offer(0, 2)
	b.lose(0, 2, "no connection")
	r := b.report()
	if r.Lost != 2 || r.Verdicts[lost] != 2 || r.Latency.P90 > 1.001 || r.Latency.P99 < slowest.Seconds()*999 {
		t.Errorf("%+v", r)
	}
}

func TestPercentilesAndClassesAreThoseOfTheLatencies(t *testing.T) {
	b := newBook(time.Unix(1000, 0), time.Second)
	for i := range 1000 {
		answered(b, 0, time.Duration(i+1)*time.Millisecond, accepted)
	}
	r := b.report()
	for _, c := range []struct{ got, want float64 }{{r.Latency.P50, 500}, {r.Latency.P90, 900}, {r.Latency.P99, 990}, {r.Latency.P999, 999}, {r.Latency.Max, 1000}, {r.Latency.Mean, 500.5}, {r.Own.P50, 250}} {
		if math.Abs(c.got/c.want-1) > 0.002 {
			t.Errorf("%g, want %g", c.got, c.want)
		}
	}
	sum := 0
	for i, c := range r.Distribution {
		sum += c.Count
		if i > 0 && math.Abs(c.UpTo/r.Distribution[i-1].UpTo-math.Pow(10, 0.05)) > 1e-9 {
			t.Errorf("class %d is not as wide as the others", i)
		}
	}
	if last := r.Distribution[len(r.Distribution)-1]; sum != 1000 || last.Count == 0 || last.UpTo < 1000 {
		t.Errorf("%d in all classes, the last is %+v", sum, last)
	}
	if e := r.Endpoints[0]; e.Attempts != 1000 || e.Accepted != 1000 {
		t.Errorf("%+v", e)
	}
}

func TestATimelineHasAtMost120Steps(t *testing.T) {
	for _, d := range []time.Duration{time.Second, 12 * time.Second, time.Minute, 10 * time.Minute, 24 * time.Hour, 30 * 24 * time.Hour} {
		if n := d / stepOf(d); n > 120 || stepOf(d) < 100*time.Millisecond {
			t.Errorf("%s has %d steps", d, n)
		}
	}
}
