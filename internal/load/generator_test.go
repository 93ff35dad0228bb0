// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/load"
)

func TestSingleCallsReportStatusAndRetryAfter(t *testing.T) {
	for name, g := range map[string]load.Generator{
		"open loop": {Rate: 1000}, "all at once": {}, "closed loop": {InFlight: 3}, "one connection": {MaxConnections: 1},
	} {
		var calls atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/apps/shop/notifications" || r.Header.Get("Prefer") != "respond-async" {
				t.Errorf("%s, Prefer %q", r.URL.Path, r.Header.Get("Prefer"))
			}
			if calls.Add(1)%2 == 0 {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = fmt.Fprint(w, `{"type":"about:blank","receipt":{"id":"x","status":"unavailable","reason":"QueueFull","attempts":[]}}`)
				return
			}
			w.WriteHeader(http.StatusAccepted)
			_, _ = fmt.Fprint(w, `{"id":"y","status":"queued","attempts":[]}`)
		}))
		g.URL, g.Apps, g.Count, g.Async, g.Append = server.URL, []string{"shop"}, 40, true, testNotification
		got, err := g.Collect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		queued := got.Samples.Count(func(s *load.Sample) bool { return s.ID == "y" && s.Status == "queued" && s.HTTPStatus == 202 })
		refused := got.Samples.Count(func(s *load.Sample) bool {
			return s.ID == "x" && s.Status == "unavailable" && s.Reason == "QueueFull" && s.HTTPStatus == 503 && s.RetryAfter == "7"
		})
		if queued != 20 || refused != 20 || calls.Load() != 40 {
			t.Errorf("%s: %d queued, %d refused in %d calls", name, queued, refused, calls.Load())
		}
		server.Close()
	}
}

func TestSendReplacesTheAPI(t *testing.T) {
	const n = 50
	all := make(chan struct{})
	var started atomic.Int64
	got, err := load.Generator{Rate: 1000, Count: n, Send: func(ctx context.Context, i int) load.Result {
		if started.Add(1) == n {
			close(all)
		}
		select { // no call can end before the last one is due
		case <-all:
		case <-ctx.Done():
		}
		return load.Result{ID: fmt.Append(nil, i), Status: load.Accepted}
	}}.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range got.Samples {
		if s.ID != fmt.Sprint(i) || s.Status != load.Accepted || s.Due != time.Duration(i)*time.Millisecond || s.Latency < got.Samples[n-1].Due-s.Due {
			t.Errorf("notification %d: %+v", i, s)
		}
	}
}

func TestStreamWithoutReceiptsTimesOut(t *testing.T) {
	url := startStub(t, func(lines <-chan int, reply func(int, string)) { reply(<-lines, "accepted") })
	if _, err := stream(t.Context(), load.Generator{URL: url, Count: 2, Rate: 0.001, Timeout: 100 * time.Millisecond}); err == nil {
		t.Error("a stream with one of two receipts returned no error")
	}
}

func TestRepeatedReceiptIsAnError(t *testing.T) {
	url := startStub(t, func(lines <-chan int, reply func(int, string)) {
		reply(<-lines, "accepted")
		reply(0, "accepted")
	})
	if _, err := stream(t.Context(), load.Generator{URL: url, Count: 2}); err == nil {
		t.Error("a stream with two receipts of one notification returned no error")
	}
}
