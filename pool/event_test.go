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

func TestEveryEjectionNamesItsCauseInOneWord(t *testing.T) {
	for cause, ill := range map[pool.Cause]func(h *house){
		pool.ByStreak: func(h *house) { h.eject(1) },
		pool.ByFailureRate: func(h *house) {
			for _, o := range []push.Outcome{accepted, accepted, accepted, failed, failed, failed, accepted, failed, failed, failed} {
				h.visit(1).Done(o)
			}
		},
		pool.ByPeers: func(h *house) {
			h.sometimes(1, 0, 10, 25*time.Second)
			h.sometimes(1, 3, 10, 10*time.Second)
		},
		pool.BySlowness: func(h *house) {
			h.rush(400, 5*time.Second)
			h.set(1, func(s *server) { s.takes = 1020 * time.Millisecond })
			h.rush(400, 5*time.Second)
		},
		pool.ByProbe: func(h *house) {
			h.eject(1)
			pass(11 * time.Second)
			h.pick().Done(failed)
		},
	} {
		t.Run(string(cause), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, 8, pool.Config{})
				pass(time.Second)
				ill(h)
				pass(time.Second)
				if got := h.lastEjection(); got.Cause != cause || got.Endpoint != addr(1).String() {
					t.Errorf("the last ejection is %+v", got)
				}
			})
		})
	}
}

func TestEveryEventIsObservedLoggedAndShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		h := open(t, 4, pool.Config{Size: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		pass(time.Second)
		h.look(1).conns[0].goAway()
		pass(time.Second)
		h.eject(2)
		pass(11 * time.Second)
		h.stop()
		<-h.ended
		shown, lines := h.Status().Events, strings.Split(strings.TrimSpace(log.String()), "\n")
		if !slices.Equal(shown, h.events) || len(lines) != len(shown) {
			t.Fatalf("observed\n%s\nshown\n%+v\nlogged\n%s", h.story(), shown, log.String())
		}
		for i, e := range shown {
			want := fmt.Sprintf("msg=\"endpoint pool: %s\" pool=test endpoint=%s reason=", e.Kind, cmp.Or(e.Endpoint, `""`))
			if !strings.Contains(lines[i], want) || !strings.Contains(lines[i], e.Reason) {
				t.Errorf("event %+v is logged as %s", e, lines[i])
			}
		}
	})
}

func TestStatusShowsTheLastFiftyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		for i := range 60 {
			h.name(addrs(1, 2+i%2)...)
		}
		pass(time.Second)
		shown := h.Status().Events
		if len(shown) != 50 || !slices.Equal(shown, h.events[len(h.events)-50:]) {
			t.Errorf("%d events are shown of\n%s", len(shown), h.story())
		}
	})
}

func (h *house) lastEjection() (last pool.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == pool.Ejected {
			last = e
		}
	}
	return last
}
