// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startStub starts a gateway whose batch call runs serve, and returns its URL. serve receives the
// index of each line as it arrives and responds with reply.
func startStub(t testing.TB, serve func(lines <-chan int, reply func(index int, status string))) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		lines := make(chan int)
		go func() {
			defer close(lines)
			scanner := bufio.NewScanner(r.Body)
			for i := 0; scanner.Scan(); i++ {
				select {
				case lines <- i:
				case <-r.Context().Done(): // serve returned early
					return
				}
			}
		}()
		serve(lines, func(index int, status string) {
			_, _ = fmt.Fprintf(w, `{"id":"n%d","index":%d,"status":%q,"attempts":[{"endpoint":"192.0.2.1:443","status":%q}]}`+"\n", index, index, status, status)
			_ = control.Flush()
		})
		for range lines { // the rest of the body
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func testNotification(b []byte, i int) []byte {
	return fmt.Appendf(b, `{"platform":"apns","token":"%064x"}`, i)
}

// stream runs a generator with Stream.
func stream(ctx context.Context, g load.Generator) (load.Results, error) {
	g.Stream, g.Apps, g.Append = true, []string{"shop"}, testNotification
	return g.Collect(ctx)
}

func TestEachNotificationIsSentAndItsReceiptRecorded(t *testing.T) {
	url := startStub(t, func(lines <-chan int, reply func(int, string)) {
		for i := range lines {
			reply(i, []string{"accepted", "refused"}[i%2])
		}
	})
	got, err := stream(t.Context(), load.Generator{URL: url, Count: 100, Rate: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range got.Samples {
		if s.ID != fmt.Sprintf("n%d", i) || s.Status != []string{"accepted", "refused"}[i%2] || len(s.Attempts) != 1 {
			t.Errorf("notification %d: %+v", i, s)
		}
		if want := time.Duration(i) * 100 * time.Microsecond; s.Due != want {
			t.Errorf("notification %d was due after %s, want %s", i, s.Due, want)
		}
	}
	if attempts, first := got.Samples.AttemptsOn("192.0.2.1:443"); attempts != 100 || first != 100 {
		t.Errorf("%d attempts, %d first attempts, want 100 of each", attempts, first)
	}
}

func TestLatencyCountsFromTheScheduledTime(t *testing.T) {
	const n = 200
	url := startStub(t, func(lines <-chan int, reply func(int, string)) {
		for range n {
			<-lines
		}
		for i := range n {
			reply(i, "accepted")
		}
	})
	got, err := stream(t.Context(), load.Generator{URL: url, Count: n, Rate: 2000})
	if err != nil {
		t.Fatal(err)
	}
	last := got.Samples[n-1].Due
	for i, s := range got.Samples {
		if s.Latency < last-s.Due {
			t.Fatalf("notification %d, due after %s, took %s, but no receipt was sent before the last line, due after %s", i, s.Due, s.Latency, last)
		}
	}
}

func TestClosedLoopStaysWithinItsWindow(t *testing.T) {
	const window = 7
	var maxHeld atomic.Int64
	url := startStub(t, func(lines <-chan int, reply func(int, string)) {
		var held []int
		for i := range lines {
			held = append(held, i)
			for len(held) > 0 { // reply to the oldest line when no further line is ready
				maxHeld.Store(max(maxHeld.Load(), int64(len(held))))
				select {
				case i, more := <-lines:
					if more {
						held = append(held, i)
						continue
					}
				default:
				}
				reply(held[0], "accepted")
				held = held[1:]
			}
		}
	})
	if _, err := stream(t.Context(), load.Generator{URL: url, Count: 500, InFlight: window}); err != nil {
		t.Fatal(err)
	}
	if maxHeld.Load() > window {
		t.Errorf("%d in flight with a window of %d", maxHeld.Load(), window)
	}
}

func TestMissingReceiptsAreLost(t *testing.T) {
	url := startStub(t, func(lines <-chan int, reply func(int, string)) {
		for range 10 {
			reply(<-lines, "accepted")
		}
		panic(http.ErrAbortHandler)
	})
	got, err := stream(t.Context(), load.Generator{URL: url, Count: 20})
	if err == nil || !strings.Contains(err.Error(), "receipts are missing") {
		t.Errorf("error: %v", err)
	}
	lost := got.Samples.Count(func(s *load.Sample) bool { return s.Status == load.Lost && s.Latency == load.Never })
	if lost < 10 || got.Samples.LatencyQuantile(1) != load.Never {
		t.Errorf("%d lost, maximum latency %s", lost, got.Samples.LatencyQuantile(1))
	}
}

func TestRejectedBatchReportsTheReason(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "unknown key", http.StatusUnauthorized)
	}))
	defer server.Close()
	_, err := stream(t.Context(), load.Generator{URL: server.URL, Count: 5})
	if err == nil || !strings.Contains(err.Error(), "401 Unauthorized unknown key") {
		t.Errorf("error: %v", err)
	}
}

func TestContextCancelEndsTheRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	url := startStub(t, func(lines <-chan int, _ func(int, string)) {
		<-lines
		cancel()
	})
	if _, err := stream(ctx, load.Generator{URL: url, Count: 2, Rate: 0.001}); err == nil {
		t.Error("Run returned no error")
	}
}

func TestLatencyQuantilesAndTimeRanges(t *testing.T) {
	r := load.Results{Started: time.Unix(1000, 0)}
	for i := range 100 {
		r.Samples = append(r.Samples, load.Sample{Due: time.Duration(i) * time.Second, Latency: time.Duration(100-i) * time.Millisecond})
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 0.991: 100, 1: 100} {
		if got := r.Samples.LatencyQuantile(q); got != want*time.Millisecond {
			t.Errorf("quantile %g is %s, want %s", q, got, want*time.Millisecond)
		}
	}
	before, after := r.Split(time.Unix(1030, 0))
	between := r.Between(time.Unix(1010, 0), time.Unix(1030, 0))
	if len(before) != 30 || len(after) != 70 || len(between) != 20 || between[0].Due != 10*time.Second {
		t.Errorf("%d before, %d after, %d between", len(before), len(after), len(between))
	}
	if none := r.Between(time.Unix(1030, 0), time.Unix(1010, 0)); len(none) != 0 || none.LatencyQuantile(0.5) != 0 {
		t.Errorf("%d samples between a time and an earlier time", len(none))
	}
}

func Example() {
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		decoder := json.NewDecoder(r.Body)
		for i := 0; decoder.More(); i++ {
			_ = decoder.Decode(new(any))
			_, _ = fmt.Fprintf(w, `{"id":"%d","index":%d,"status":"accepted","attempts":[]}`+"\n", i, i)
		}
	}))
	defer gateway.Close()
	generator := load.Generator{
		URL: gateway.URL, Apps: []string{"shop"}, Key: "slk_…", Stream: true, Rate: 1000, Count: 50,
		Append: func(b []byte, i int) []byte {
			return fmt.Appendf(b, `{"platform":"apns","token":"%064x","title":"Hi"}`, i)
		},
	}
	got, err := generator.Collect(context.Background())
	if err != nil {
		fmt.Println(err)
	}
	accepted := got.Samples.Count(func(s *load.Sample) bool { return s.Status == "accepted" })
	fmt.Println(accepted, "accepted, half of them within a minute:", got.Samples.LatencyQuantile(0.5) < time.Minute)
	// Output: 50 accepted, half of them within a minute: true
}
