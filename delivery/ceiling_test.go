// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// stuck answers nobody until the caller leaves.
func stuck() *service {
	return &service{script: func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
		<-ctx.Done()
		return push.NoResponse(ctx.Err())
	}}
}

// wide is a route with room for all that a test sends.
func wide(t *testing.T, s *service, c *delivery.Ceiling) *delivery.Route {
	t.Helper()
	r := build(t, s, pool.Config{Resolver: fixed(1), Size: 1, MaxInFlight: 10_000}, 1)
	r.Ceiling = c
	return r
}

// fill sends so many of an app and lane into a route that is stuck, and returns how many it took in.
func fill(ctx context.Context, t *testing.T, r *delivery.Route, app string, lane push.Lane, count int) int {
	t.Helper()
	before := r.Ceiling.Status().InFlight
	for i := range count {
		n := note(fmt.Sprint(app, lane, i))
		n.App, n.Lane = app, lane
		go r.Send(ctx, n)
	}
	synctest.Wait()
	return r.Ceiling.Status().InFlight - before
}

func TestAStuckProviderLeavesTheOthersTheirPlacesInTheGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ceiling := &delivery.Ceiling{Most: 1000}
		ctx, free := context.WithCancel(t.Context())
		hole := wide(t, stuck(), ceiling)
		for i, most := range []int{800, 160, 32} { // each four fifths of what is left
			if got := fill(ctx, t, hole, fmt.Sprint("app", i), push.LaneCritical, 2000); got > most+8 || got < most-8 {
				t.Errorf("stuck sender %d holds %d places, want some %d", i, got, most)
			}
		}
		well := wide(t, &service{}, ceiling)
		n := note("well")
		n.Lane = push.LaneCritical
		if got := well.Send(t.Context(), n); got.Verdict != push.Accepted {
			t.Errorf("beside three that are stuck: %+v", got)
		}
		free()
		synctest.Wait()
		if s := ceiling.Status(); s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAFullGatewayTurnsBulkAwayFirstAndSaysAtOnceForHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wide(t, stuck(), &delivery.Ceiling{Most: 1000})
		ctx, free := context.WithCancel(t.Context())
		defer free()
		var told []string
		var mu sync.Mutex
		r.Observer.Shed = func(n *push.Notification, o push.Outcome) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, o.Reason)
		}
		fill(ctx, t, r, "shop", push.LaneBulk, 2000)
		began := time.Now()
		n := note("one more")
		n.Lane = push.LaneBulk
		got := r.Send(ctx, n)
		if got.Status() != push.StatusUnavailable || got.Reason != "GATEWAY_FULL" || got.RetryAfter <= 0 || time.Since(began) > 0 {
			t.Errorf("%+v after %v", got, time.Since(began))
		}
		if normal := fill(ctx, t, r, "shop", push.LaneNormal, 2000); normal == 0 {
			t.Error("bulk took the places of normal")
		}
		if critical := fill(ctx, t, r, "shop", push.LaneCritical, 2000); critical == 0 {
			t.Error("normal took the places of critical")
		}
		if int(r.Ceiling.Status().Shed) != len(told) || told[0] != "GATEWAY_FULL" {
			t.Errorf("%d shed, %d told", r.Ceiling.Status().Shed, len(told))
		}
	})
}

func TestABatchWaitsForAPlaceInTheGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wide(t, works(), &delivery.Ceiling{Most: 10})
		got := batches(t.Context(), t, r, "shop", push.LaneNormal, 15, time.Second)
		if got.accepted != got.offered || got.accepted < 7*int(time.Second/work) {
			t.Errorf("%d of %d", got.accepted, got.offered)
		}
		if s := r.Ceiling.Status(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestNoMixOfSendersExceedsTheCeilingOrLosesAPlace(t *testing.T) {
	lanes := []push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 40).Draw(rt, "most")
		senders := rapid.IntRange(1, 120).Draw(rt, "senders")
		seed := rapid.IntRange(0, 1<<16).Draw(rt, "seed")
		worst, left := 0, delivery.AdmissionStatus{}
		ended := 0
		synctest.Test(t, func(t *testing.T) {
			c := &delivery.Ceiling{Most: most}
			r := wide(t, &service{}, c)
			var mu sync.Mutex
			r.Observer.Attempted = func(*push.Notification, int, push.Attempt) { time.Sleep(time.Millisecond) }
			r.Observer.Ended = func(*push.Notification, push.Receipt, time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				worst, ended = max(worst, c.Status().InFlight), ended+1
			}
			for i := range senders {
				k := seed + i*i
				n := patient(fmt.Sprint(i), fmt.Sprint("app", k%4), lanes[k%3])
				n.CanQueue = k%5 > 0
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(k%7+1)*time.Millisecond)
				defer cancel()
				go r.Send(ctx, n)
			}
			time.Sleep(time.Second)
			left = c.Status()
		})
		if worst > most || ended != senders || left.InFlight != 0 || left.Waiting != 0 {
			rt.Fatalf("%d inside at worst, bound %d; %d of %d ended; at the end %+v", worst, most, ended, senders, left)
		}
	})
}

func TestANilCeilingSetsNoBound(t *testing.T) {
	if (*delivery.Ceiling)(nil).Status() != (delivery.AdmissionStatus{}) {
		t.Error("it has a bound")
	}
}
