// SPDX-License-Identifier: Apache-2.0

package script

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestBucketsRefillAtOnceOrSteadily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			q    Quota
			wait time.Duration // until the empty bucket has a token, ten seconds after the first request
			then int           // requests admitted 30 s later
		}{
			{Quota{Limit: 60, Per: time.Minute}, 50 * time.Second, 0},
			{Quota{Limit: 60, Per: time.Minute, Steady: true}, time.Second, 30},
			{Quota{Limit: 60, Per: 20 * time.Second}, 10 * time.Second, 60},
			{Quota{Limit: 60, Per: time.Minute, Burst: 10, Steady: true}, time.Second, 10},
		} {
			b := newBuckets()
			drain := func() (admitted int, wait time.Duration) {
				for {
					ok, wait, _ := b.take(&c.q, "k", 0, time.Now())
					if !ok {
						return admitted, wait
					}
					admitted++
				}
			}
			if ok, _, _ := b.take(&c.q, "k", 0, time.Now()); !ok {
				t.Errorf("%+v: the first request is not admitted", c.q)
			}
			time.Sleep(10 * time.Second)
			if _, wait := drain(); wait != c.wait {
				t.Errorf("%+v: wait %v, want %v", c.q, wait, c.wait)
			}
			time.Sleep(30 * time.Second)
			if admitted, _ := drain(); admitted != c.then {
				t.Errorf("%+v: %d admitted, want %d", c.q, admitted, c.then)
			}
		}
	})
}

func TestRequestBeforeRetryAfterIsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Quota{Limit: 1, Per: time.Minute, Tell: true}
		b := newBuckets()
		b.take(q, "k", 0, time.Now())
		for i, want := range []bool{false, true} {
			if ok, _, early := b.take(q, "k", 0, time.Now()); ok || early != want {
				t.Errorf("request %d: admitted %v, early %v", i, ok, early)
			}
		}
		if _, _, early := b.take(q, "other", 0, time.Now()); early {
			t.Error("a request with another key is early")
		}
		time.Sleep(time.Minute)
		if ok, _, early := b.take(q, "k", 0, time.Now()); !ok || early {
			t.Errorf("after the minute: admitted %v, early %v", ok, early)
		}
	})
}

func TestNumberOfBucketsIsLimited(t *testing.T) {
	q, now := &Quota{Limit: 1, Per: time.Minute}, time.Now()
	b := newBuckets()
	fill := func(age time.Duration) {
		for i := range 100 {
			b.byKey[strconv.Itoa(i)] = &bucket{refilled: now.Add(-age * time.Duration(i))}
		}
	}
	fill(time.Minute)
	if b.evict(q, now, 100); len(b.byKey) != 3 {
		t.Errorf("%d buckets left, want the 3 of the last two minutes", len(b.byKey))
	}
	fill(0)
	if b.evict(q, now, 100); len(b.byKey) != 0 {
		t.Errorf("%d buckets left, want none because all were in use", len(b.byKey))
	}
}
