// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts an API server with the given handler and returns its URL. GET /v1/status is not
// found.
func serve(t testing.TB, handler http.HandlerFunc) string {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/status" {
			http.NotFound(w, r)
			return
		}
		handler(w, r)
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

const receipt = `{"id":"1","status":"accepted","attempts":[{"endpoint":"192.0.2.1:443","status":"unavailable","ms":1.5},{"endpoint":"192.0.2.2:443","status":"accepted","http":200,"ms":0.5}]}`

// sluiceAPI responds to single calls and batches as a gateway does.
func sluiceAPI(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer slk_x" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !strings.HasSuffix(r.URL.Path, "/batch") {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, receipt)
		return
	}
	_ = http.NewResponseController(w).EnableFullDuplex()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		_, _ = io.WriteString(w, receipt+"\n")
	}
}

func TestEachNotificationIsCountedOnce(t *testing.T) {
	for name, c := range map[string]bench.Config{
		"open loop":          {Rate: 500},
		"open loop, batches": {Rate: 5000, Batch: 50},
		"closed loop":        {InFlight: 3},
		"closed loop, batch": {InFlight: 2, Batch: 200},
		"with a warm-up":     {Rate: 500, WarmUp: 200 * time.Millisecond},
		"on one connection":  {Rate: 500, MaxConnections: 1},
		"batch at the end":   {Rate: 10, Batch: 100},
		"HTTP/2":             {Rate: 500, HTTP2: true},
		"HTTP/2, batches":    {InFlight: 2, Batch: 200, HTTP2: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var calls, bank atomic.Int64
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) == 50 && c.Rate == 0 {
					cancel()
				}
				if strings.HasPrefix(r.URL.Path, "/v1/apps/bank/") {
					bank.Add(1)
				}
				if c.HTTP2 != (r.ProtoMajor == 2) {
					t.Errorf("a call over %s", r.Proto)
				}
				sluiceAPI(w, r)
			})
			c.URL, c.Key, c.Apps, c.Duration = url, "slk_x", []string{"shop", "bank"}, 400*time.Millisecond
			if c.Rate == 0 { // what a closed loop makes in a time is the machine's matter
				c.Duration = time.Hour
			}
			r, err := bench.Run(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			if r.Offered == 0 || r.Answered != r.Offered || r.Verdicts["accepted"] != r.Offered || r.Lost != 0 || r.Interrupted != (c.Rate == 0) {
				t.Errorf("%d offered, %d answered, %v, %v", r.Offered, r.Answered, r.Verdicts, r.Reasons)
			}
			if c.Rate > 0 && r.Offered < int(c.Rate*0.4) {
				t.Errorf("%d offered at %g per second", r.Offered, c.Rate)
			}
			if n := calls.Load(); bank.Load() != n/2 {
				t.Errorf("%d of %d calls for the second of two apps", bank.Load(), n)
			}
			sum := 0
			for _, m := range r.Timeline {
				sum += m.Answered
			}
			if sum != r.Answered || len(r.Endpoints) != 2 || r.Endpoints[0].Attempts != r.Answered || r.Endpoints[0].Accepted != 0 {
				t.Errorf("%d in the timeline, endpoints %+v", sum, r.Endpoints)
			}
		})
	}
}

func TestLatencyCountsFromTheScheduledTime(t *testing.T) {
	const calls = 100
	var came atomic.Int64
	all := make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if came.Add(1) == calls {
			close(all)
		}
		<-all
		_, _ = io.WriteString(w, receipt)
	})
	r, err := bench.Run(t.Context(), bench.Config{URL: url, API: "sluice", Rate: 1000, Duration: calls * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// No call can end before the last call is sent, which is due 99 ms after the first.
	if r.Answered != calls || r.Latency.Max < 98 || r.Latency.P50 < 48 || r.Latency.Mean < 48 {
		t.Errorf("%d answered, %+v", r.Answered, r.Latency)
	}
}

func TestUnansweredCallsAreLost(t *testing.T) {
	var n atomic.Int64
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%2 == 0 {
			panic(http.ErrAbortHandler)
		}
		sluiceAPI(w, r)
	})
	r, err := bench.Run(t.Context(), bench.Config{URL: url, Key: "slk_x", Rate: 200, Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Offered != 40 || r.Verdicts["accepted"] != 20 || r.Lost != 20 || r.Reasons["lost: no response: connection closed"] != 20 {
		t.Errorf("%v %v", r.Verdicts, r.Reasons)
	}
}

func TestBrokenBatchLosesOnlyMissingReceipts(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for range 7 {
			_, _ = io.WriteString(w, receipt+"\n")
		}
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r, err := bench.Run(t.Context(), bench.Config{URL: url, Rate: 100, Batch: 10, Duration: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdicts["accepted"] != 7 || r.Lost != 3 {
		t.Errorf("%v %v", r.Verdicts, r.Reasons)
	}
}

func TestRejectionReportsTheReason(t *testing.T) {
	for _, batch := range []int{1, 10} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"type":"about:blank","detail":"the app's quota is exhausted"}`)
		})
		r, err := bench.Run(t.Context(), bench.Config{URL: url, Rate: 100, Batch: batch, Duration: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Reasons["rejected: HTTP 429 the app's quota is exhausted"] != 10 || r.Answered != 10 {
			t.Errorf("%v", r.Reasons)
		}
	}
}

func TestProblemWithReceiptUsesTheReceipt(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"type":"about:blank","receipt":{"status":"unavailable","reason":"BREAKER_OPEN","attempts":[]}}`)
	})
	r, err := bench.Run(t.Context(), bench.Config{URL: url, Rate: 100, Duration: 100 * time.Millisecond})
	if err != nil || r.Reasons["unavailable: BREAKER_OPEN"] != 10 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestInterruptedRunReports(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 20 {
			cancel()
		}
		sluiceAPI(w, r)
	})
	r, err := bench.Run(ctx, bench.Config{URL: url, Key: "slk_x", Rate: 1000, Duration: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || r.Answered != r.Offered || r.Answered < 20 {
		t.Errorf("interrupted %v, %d of %d answered", r.Interrupted, r.Answered, r.Offered)
	}
}

func TestMixFollowsWeights(t *testing.T) {
	const yaml = `
- weight: 3
  notification: { platform: apns, token: "{{hex}}", title: "Number {{n}}" }
- notification: { platform: fcm, token: "device-{{n}}", title: "x" }
`
	const lines = `{"weight":3,"notification":{"platform":"apns","token":"{{hex}}","title":"Number {{n}}"}}
{"notification":{"platform":"fcm","token":"device-{{n}}","title":"x"}}
`
	for name, text := range map[string]string{"mix.yaml": yaml, "mix.ndjson": "\ufeff" + lines} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		mix, err := bench.ReadMix(path)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		count, tokens := map[string]int{}, map[string]bool{}
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			var n struct{ Platform, Token, Title string }
			if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
				t.Error(err)
			}
			mu.Lock()
			count[n.Platform]++
			tokens[n.Token] = true
			mu.Unlock()
			if n.Platform == "apns" && (len(n.Token) != 64 || strings.Contains(n.Title, "{")) {
				t.Errorf("%+v", n)
			}
			_, _ = io.WriteString(w, receipt)
		})
		if _, err := bench.Run(t.Context(), bench.Config{URL: url, Mix: mix, Rate: 2000, Duration: 200 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		if len(tokens) != 400 || count["apns"] < 270 || count["apns"] > 330 { // the choice is the same in every run
			t.Errorf("%s: %v, %d different tokens", name, count, len(tokens))
		}
	}
}

func TestReadMixRejectsInvalidFiles(t *testing.T) {
	for text, want := range map[string]string{
		"- weight: 0\n  notification: {}": "template 1: weight 0: must be 1 to 1,000,000",
		"- notification: 3":               "notification: must be an object",
		"- wait: 3\n  notification: {}":   "unknown field",
		"{}":                              "must be a list of templates",
		"[]":                              "no templates",
		"- notification: {}\n- notification: [1, 2": "list of templates",
		"- notification: {}\n- 3":                   "line 2: a template must be an object",
		"- notification: {1: {2: 3}}":               "template 1: all names must be texts",
		"- weight: many\n  notification: {}":        "template 1: must have the members weight and notification: weight must be a whole number",
	} {
		path := filepath.Join(t.TempDir(), "mix.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bench.ReadMix(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), "interface") || strings.Contains(err.Error(), "Go ") || strings.Contains(err.Error(), "!!") {
			t.Errorf("%q: the error has a Go type: %v", text, err)
		}
	}
}

func TestPeerAPIs(t *testing.T) {
	var body map[string]any
	var authorization string
	var mu sync.Mutex
	handler := func(path, answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			body, authorization = nil, r.Header.Get("Authorization")
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.URL.Path != path {
				t.Errorf("%s: %v", r.URL.Path, err)
			}
			_, _ = io.WriteString(w, answer)
		}
	}
	url := serve(t, handler("/api/push", `{"success":"ok","counts":10,"logs":[{"type":"failed-push","error":"BadDeviceToken"}]}`))
	r, err := bench.Run(t.Context(), bench.Config{URL: url, API: "gorush", Key: "k", Topic: "com.example.app", Rate: 100, Batch: 10, Duration: 100 * time.Millisecond})
	if err != nil || r.Verdicts["accepted"] != 9 || r.Reasons["failed: BadDeviceToken"] != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	list, _ := body["notifications"].([]any)
	if first, _ := list[0].(map[string]any); len(list) != 10 || first["platform"] != 1.0 || first["topic"] != "com.example.app" || authorization != "Bearer k" {
		t.Errorf("%v, authorization %q", body, authorization)
	}
	url = serve(t, handler("/api/v1/line/prod/send", `{"status":"DEVICE_UNREGISTERED","resultSource":"PUSH_PROVIDER","reason":"gone"}`))
	r, err = bench.Run(t.Context(), bench.Config{URL: url, API: "pushsphere", Apps: []string{"line/prod"}, Key: "k", Rate: 10, Duration: 100 * time.Millisecond})
	if err != nil || r.Reasons["unregistered: gone"] != 1 || body["provider"] != "APPLE" || authorization != "bearer k" {
		t.Errorf("%+v, %v, %v, authorization %q", r, err, body, authorization)
	}
}

func TestRunRejectsInvalidConfig(t *testing.T) {
	for want, c := range map[string]bench.Config{
		"must be a URL such as": {URL: "127.0.0.1:8080"},
		"rate -1":               {URL: "http://x", Rate: -1},
		"unknown (allowed":      {URL: "http://x", API: "soap"},
		"batch must be 1":       {URL: "http://x", API: "pushsphere", Batch: 2},
		"only one app":          {URL: "http://x", API: "gorush", Apps: []string{"shop", "bank"}},
		"faults need the URL":   {URL: "http://x", Faults: []byte("faults: []")},
		"service: \"x\" is unk": {URL: "http://x", Script: "http://y", Faults: []byte("faults: [{service: x}]")},
	} {
		if _, err := bench.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func Example() {
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"id":"1","status":"accepted","attempts":[]}`)
	}))
	defer gateway.Close()
	r, err := bench.Run(context.Background(), bench.Config{URL: gateway.URL, Apps: []string{"shop"}, Key: "slk_…", Rate: 200, Duration: time.Second / 4})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Verdicts["accepted"], "of", r.Offered, "accepted, in an", r.Settings.LoadModel())
	// Output: 50 of 50 accepted, in an open loop, 200/s in single calls
}
