// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

func TestEjectionEventCause(t *testing.T) {
	for cause, ill := range map[pool.EjectionCause]func(h *testPool){
		pool.CauseConsecutiveFailures: func(h *testPool) { h.eject(1) },
		pool.CauseFailureRate: func(h *testPool) {
			for _, o := range []push.Outcome{accepted, accepted, accepted, failed, failed, failed, accepted, failed, failed, failed} {
				h.pickEndpoint(1).Done(o)
			}
		},
		pool.CauseSuccessRate: func(h *testPool) {
			h.failSome(1, 0, 10, 25*time.Second)
			h.failSome(1, 3, 10, 10*time.Second)
		},
		pool.CauseLatency: func(h *testPool) {
			h.sendAtRate(400, 5*time.Second)
			h.setServer(1, func(s *fakeServer) { s.latency = 1020 * time.Millisecond })
			h.sendAtRate(400, 5*time.Second)
		},
		pool.CauseProbe: func(h *testPool) {
			h.eject(1)
			advance(11 * time.Second)
			h.pick().Done(failed)
		},
	} {
		t.Run(string(cause), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startPool(t, 8, pool.Config{})
				advance(time.Second)
				ill(h)
				advance(time.Second)
				if got := h.lastEjection(); got.Cause != cause || got.Endpoint != addr(1).String() {
					t.Errorf("the last ejection is %+v", got)
				}
			})
		})
	}
}

func TestEventsAreObservedLoggedAndInStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		h := startPool(t, 4, pool.Config{Size: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		advance(time.Second)
		h.serverCopy(1).conns[0].goAway()
		advance(time.Second)
		h.eject(2)
		advance(11 * time.Second)
		h.stop()
		<-h.ended
		shown, lines := h.Status().Events, strings.Split(strings.TrimSpace(log.String()), "\n")
		if !slices.Equal(shown, h.events) || len(lines) != len(shown) {
			t.Fatalf("observed\n%s\nshown\n%+v\nlogged\n%s", h.eventLog(), shown, log.String())
		}
		for i, e := range shown {
			want := fmt.Sprintf("msg=\"endpoint pool: %s\" pool=test endpoint=%s reason=", e.Kind, cmp.Or(e.Endpoint, `""`))
			if !strings.Contains(lines[i], want) || !strings.Contains(lines[i], e.Reason) {
				t.Errorf("event %+v is logged as %s", e, lines[i])
			}
		}
	})
}

func TestStatusHasLastFiftyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		for i := range 60 {
			h.setAddrs(addrs(1, 2+i%2)...)
		}
		advance(time.Second)
		shown := h.Status().Events
		if len(shown) != 50 || !slices.Equal(shown, h.events[len(h.events)-50:]) {
			t.Errorf("%d events are shown of\n%s", len(shown), h.eventLog())
		}
	})
}

func (h *testPool) lastEjection() (last pool.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == pool.EventEjected {
			last = e
		}
	}
	return last
}
