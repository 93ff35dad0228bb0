// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// TestWaitsAreReported sends notifications that wait at one of the waiting places, alone and in a run.
// Only waits of sampled traces are reported.
func TestWaitsAreReported(t *testing.T) {
	slow := func() *service {
		return &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
			time.Sleep(time.Second)
			return accepted
		}}
	}
	for place, route := range map[delivery.WaitingPlace]func(t *testing.T) *delivery.Route{
		delivery.WaitConcurrencyLimit: func(t *testing.T) *delivery.Route {
			r := newRoute(t, slow(), 4)
			r.ConcurrencyLimit = &delivery.ConcurrencyLimit{Max: 2}
			return r
		},
		delivery.WaitRateLimit: func(t *testing.T) *delivery.Route {
			r := newRoute(t, slow(), 4)
			r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
			return r
		},
		delivery.WaitEndpoint: func(t *testing.T) *delivery.Route {
			return newRouteWithPool(t, slow(), pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 1}, 1)
		},
	} {
		for _, together := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, together %t", place, together), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := route(t)
					var mu sync.Mutex
					waits := map[string][]delivery.WaitingPlace{}
					r.Observer.Waited = func(n *push.Notification, at delivery.WaitingPlace, since time.Time) {
						mu.Lock()
						defer mu.Unlock()
						if time.Since(since) < time.Millisecond {
							t.Errorf("waited %s", time.Since(since))
						}
						waits[n.ID] = append(waits[n.ID], at)
					}
					var calls []*push.Call
					for i, flags := range []string{"", "00", "01", "01"} {
						n := newNotification(fmt.Sprint(i))
						if flags != "" {
							n.Trace.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + flags
						}
						calls = append(calls, &push.Call{Notification: n, CanQueue: true})
					}
					if together {
						r.SendAll(t.Context(), calls, func([]*push.Call) {})
					} else {
						push.SendEach(t.Context(), calls, func([]*push.Call) {}, r.Send)
					}
					for _, c := range calls {
						if c.Receipt.Verdict != push.Accepted {
							t.Errorf("%s: %+v", c.ID, c.Receipt)
						}
					}
					if len(waits["0"])+len(waits["1"]) != 0 {
						t.Errorf("waits of traces that are not sampled: %v", waits)
					}
					if !slices.Contains(slices.Concat(waits["2"], waits["3"]), place) {
						t.Errorf("%v", waits)
					}
				})
			})
		}
	}
}
