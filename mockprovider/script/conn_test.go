// SPDX-License-Identifier: Apache-2.0

package script

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueDelayGrowsWithTheRateAndShrinksWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewConn(&Endpoint{}, 1, nil)
		for i := range 10 {
			c.countRequest()
			if got, want := c.queueDelay(10), time.Duration(i+1)*100*time.Millisecond; got != want {
				t.Errorf("request %d is delayed by %v, want %v", i, got, want)
			}
		}
		time.Sleep(500 * time.Millisecond)
		c.countRequest()
		if got := c.queueDelay(10); got != 600*time.Millisecond {
			t.Errorf("half a second later: %v", got)
		}
		time.Sleep(time.Minute)
		c.countRequest()
		if got := c.queueDelay(10); got != 100*time.Millisecond || c.maxIdle != time.Minute {
			t.Errorf("a minute later: %v, idle for %v", got, c.maxIdle)
		}
		if got := c.queueDelay(0); got != 0 {
			t.Errorf("without a rate: %v", got)
		}
	})
}

func TestRampIsLinear(t *testing.T) {
	r := &Rule{Fault: Fault{Delay: 500 * time.Millisecond, RampTo: 10500 * time.Millisecond, From: time.Minute, Until: 3 * time.Minute}}
	for age, want := range map[time.Duration]time.Duration{
		time.Minute: 500 * time.Millisecond, 2 * time.Minute: 5500 * time.Millisecond, 3 * time.Minute: 10500 * time.Millisecond,
	} {
		if got := r.ramp(age); got != want {
			t.Errorf("at %v: %v, want %v", age, got, want)
		}
	}
}
