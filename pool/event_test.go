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
	for cause, eject := range map[pool.EjectionCause]func(tp *testPool){
		pool.CauseConsecutiveFailures: func(tp *testPool) { tp.eject(1) },
		pool.CauseFailureRate: func(tp *testPool) {
			for _, o := range []push.Outcome{accepted, accepted, accepted, failed, failed, failed, accepted, failed, failed, failed} {
				tp.pickEndpoint(1).Done(o)
			}
		},
		pool.CauseSuccessRate: func(tp *testPool) {
			tp.failSome(1, 0, 10, 25*time.Second)
			tp.failSome(1, 3, 10, 10*time.Second)
		},
		pool.CauseLatency: func(tp *testPool) {
			tp.sendAtRate(400, 5*time.Second)
			tp.setServer(1, func(s *fakeServer) { s.latency = 1020 * time.Millisecond })
			tp.sendAtRate(400, 5*time.Second)
		},
		pool.CauseProbe: func(tp *testPool) {
			tp.eject(1)
			advance(11 * time.Second)
			tp.pick().Done(failed)
		},
	} {
		t.Run(string(cause), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := startPool(t, 8, pool.Config{})
				advance(time.Second)
				eject(tp)
				advance(time.Second)
				if got := tp.lastEjection(); got.Cause != cause || got.Endpoint != addr(1).String() {
					t.Errorf("the last ejection is %+v", got)
				}
			})
		})
	}
}

func TestEventsAreObservedLoggedAndInStatus(t *testing.T) {
	messages := map[pool.EventKind]string{
		pool.EventResolved:  "addresses resolved",
		pool.EventConnected: "connection established",
		pool.EventJoined:    "endpoint joined",
		pool.EventLeft:      "endpoint left",
		pool.EventGoAway:    "connection draining",
		pool.EventEjected:   "endpoint ejected",
	}
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		tp := startPool(t, 4, pool.Config{Size: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		advance(time.Second)
		tp.serverCopy(1).conns[0].goAway()
		advance(time.Second)
		tp.eject(2)
		advance(11 * time.Second)
		tp.stop()
		<-tp.ended
		events, lines := tp.Status().Events, strings.Split(strings.TrimSpace(log.String()), "\n")
		if !slices.Equal(events, tp.events) || len(lines) != len(events) {
			t.Fatalf("observed\n%s\nshown\n%+v\nlogged\n%s", tp.eventLog(), events, log.String())
		}
		for i, e := range events {
			want := fmt.Sprintf("msg=%q event=%s pool=test endpoint=%s reason=", messages[e.Kind], e.Kind, cmp.Or(e.Endpoint, `""`))
			if !strings.Contains(lines[i], want) || !strings.Contains(lines[i], e.Reason) {
				t.Errorf("event %+v is logged as %s", e, lines[i])
			}
		}
	})
}

func TestStatusHasLastFiftyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		for i := range 60 {
			tp.setAddrs(addrs(1, 2+i%2)...)
		}
		advance(time.Second)
		events := tp.Status().Events
		if len(events) != 50 || !slices.Equal(events, tp.events[len(tp.events)-50:]) {
			t.Errorf("Status has %d events of\n%s", len(events), tp.eventLog())
		}
	})
}

func (tp *testPool) lastEjection() (last pool.Event) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, e := range tp.events {
		if e.Kind == pool.EventEjected {
			last = e
		}
	}
	return last
}
