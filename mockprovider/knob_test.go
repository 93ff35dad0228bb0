// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestAFullMinuteRefillsAtOnceAndASteadyBucketLittleByLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			q    Quota
			wait time.Duration // when it is empty, after ten seconds
			then int           // how many pass after 30 s more
		}{
			{Quota{Limit: 60, Per: time.Minute}, 50 * time.Second, 0},
			{Quota{Limit: 60, Per: time.Minute, Steady: true}, time.Second, 30},
			{Quota{Limit: 60, Per: 20 * time.Second}, 10 * time.Second, 60},
			{Quota{Limit: 60, Per: time.Minute, Burst: 10, Steady: true}, time.Second, 10},
		} {
			b := buckets{byKey: map[string]*bucket{}}
			drain := func() (passed int, wait time.Duration) {
				for {
					ok, wait, _ := b.draw(&c.q, "k", 0, time.Now())
					if !ok {
						return passed, wait
					}
					passed++
				}
			}
			if ok, _, _ := b.draw(&c.q, "k", 0, time.Now()); !ok {
				t.Errorf("%+v: the first is refused", c.q)
			}
			time.Sleep(10 * time.Second)
			if _, wait := drain(); wait != c.wait {
				t.Errorf("%+v: wait %v, want %v", c.q, wait, c.wait)
			}
			time.Sleep(30 * time.Second)
			if passed, _ := drain(); passed != c.then {
				t.Errorf("%+v: then %d pass, want %d", c.q, passed, c.then)
			}
		}
	})
}

func TestARequestIsEarlyUntilTheTimeThatWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Quota{Limit: 1, Per: time.Minute, Tell: true}
		b := buckets{byKey: map[string]*bucket{}}
		b.draw(q, "k", 0, time.Now())
		for i, want := range []bool{false, true} {
			if ok, _, early := b.draw(q, "k", 0, time.Now()); ok || early != want {
				t.Errorf("draw %d: ok %v, early %v", i, ok, early)
			}
		}
		if _, _, early := b.draw(q, "other", 0, time.Now()); early {
			t.Error("another key is early")
		}
		time.Sleep(time.Minute)
		if ok, _, early := b.draw(q, "k", 0, time.Now()); !ok || early {
			t.Errorf("after the minute: ok %v, early %v", ok, early)
		}
	})
}

func TestBucketsAreBounded(t *testing.T) {
	q, now := &Quota{Limit: 1, Per: time.Minute}, time.Now()
	b := buckets{byKey: map[string]*bucket{}}
	fill := func(age time.Duration) {
		for i := range 100 {
			b.byKey[strconv.Itoa(i)] = &bucket{at: now.Add(-age * time.Duration(i))}
		}
	}
	fill(time.Minute)
	if b.sweep(q, now, 100); len(b.byKey) != 3 {
		t.Errorf("%d are kept, want those of the last two minutes", len(b.byKey))
	}
	fill(0)
	if b.sweep(q, now, 100); len(b.byKey) != 0 {
		t.Errorf("%d are kept of too many that are all in use", len(b.byKey))
	}
}

func TestAQueueGrowsWithTheRateAndEmptiesWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &conn{heardAt: time.Now()}
		for i := range 10 {
			c.heard()
			if got, want := c.line(10), time.Duration(i+1)*100*time.Millisecond; got != want {
				t.Errorf("request %d waits %v, want %v", i, got, want)
			}
		}
		time.Sleep(500 * time.Millisecond)
		c.heard()
		if got := c.line(10); got != 600*time.Millisecond {
			t.Errorf("half a second later: %v", got)
		}
		time.Sleep(time.Minute)
		c.heard()
		if got := c.line(10); got != 100*time.Millisecond || c.idled != time.Minute {
			t.Errorf("a minute later: %v, idle for %v", got, c.idled)
		}
	})
}

func TestALatencyClimbsEvenly(t *testing.T) {
	r := &rule{Fault: Fault{Delay: 500 * time.Millisecond, RampTo: 10500 * time.Millisecond, From: time.Minute, Until: 3 * time.Minute}}
	for age, want := range map[time.Duration]time.Duration{
		time.Minute: 500 * time.Millisecond, 2 * time.Minute: 5500 * time.Millisecond, 3 * time.Minute: 10500 * time.Millisecond,
	} {
		if got := r.ramp(age); got != want {
			t.Errorf("at %v: %v, want %v", age, got, want)
		}
	}
}
