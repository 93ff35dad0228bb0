// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

var (
	traceA = push.TraceContext{TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "vendor=1"}
	traceB = push.TraceContext{TraceParent: "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
)

// TestMessageHasTraceContext posts events of notifications with and without a trace.
func TestMessageHasTraceContext(t *testing.T) {
	for name, c := range map[string]struct {
		events []push.TraceContext
		want   push.TraceContext
	}{
		"one":     {[]push.TraceContext{traceA}, traceA},
		"same":    {[]push.TraceContext{traceB, traceB}, traceB},
		"mixed":   {[]push.TraceContext{traceA, traceB}, push.TraceContext{}},
		"partial": {[]push.TraceContext{traceA, {}}, push.TraceContext{}},
		"none":    {[]push.TraceContext{{}}, push.TraceContext{}},
	} {
		t.Run(name, func(t *testing.T) {
			store, r := newFakeStore(), newReceiver(t, nil)
			store.startNow("shop/billing")
			for _, trace := range c.events {
				store.addEvent(push.Event{TraceContext: trace})
			}
			start(t, store.config(r, func(cfg *webhooks.Config) { cfg.MaxEvents, cfg.Linger = len(c.events), time.Minute }))
			r.waitFor(t, fmt.Sprint(len(c.events)))
			m := r.messages()[0]
			if got := (push.TraceContext{TraceParent: m.header.Get("Traceparent"), TraceState: m.header.Get("Tracestate")}); got != c.want {
				t.Errorf("%+v", got)
			}
			for _, trace := range c.events {
				if parent := `"traceparent":"` + trace.TraceParent + `"`; strings.Contains(m.body, parent) != (trace.TraceParent != "") {
					t.Errorf("%s in %s", parent, m.body)
				}
			}
		})
	}
}

// TestAttemptsToPostHaveSpans posts a message twice, because the receiver fails once.
func TestAttemptsToPostHaveSpans(t *testing.T) {
	store := newFakeStore()
	r := newReceiver(t, func(w http.ResponseWriter, n int) {
		if n == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	store.startNow("shop/billing")
	for _, trace := range []push.TraceContext{traceA, {}, traceB, traceA} {
		store.addEvent(push.Event{TraceContext: trace})
	}
	var mu sync.Mutex
	var statuses []int
	parents := []string{"00-2af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01", "00-2af7651916cd43dd8448eb211c80319c-d7ad6b7169203331-01"}
	ended := make(chan bool, 2)
	span := func(webhook string, events int, traces []push.TraceContext) (push.TraceContext, func(int)) {
		if webhook != "shop/billing" || events != 4 || !slices.Equal(traces, []push.TraceContext{traceA, traceB}) {
			t.Errorf("%s %d %v", webhook, events, traces)
		}
		mu.Lock()
		defer mu.Unlock()
		return push.TraceContext{TraceParent: parents[len(statuses)]}, func(status int) {
			mu.Lock()
			defer mu.Unlock()
			statuses = append(statuses, status)
			ended <- true
		}
	}
	start(t, store.config(r, func(cfg *webhooks.Config) { cfg.MaxEvents, cfg.Linger, cfg.StartSpan = 4, time.Minute, span }))
	testwait.For(t, ended, "the end of the first span")
	testwait.For(t, ended, "the end of the second span")
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(statuses, []int{503, 200}) {
		t.Errorf("%v", statuses)
	}
	for i, m := range r.messages() {
		if m.header.Get("Traceparent") != parents[i] || m.header.Get("Tracestate") != "" {
			t.Errorf("%v", m.header)
		}
	}
}
