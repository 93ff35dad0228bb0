// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestBadItemsDoNotAffectOthers(t *testing.T) {
	items := make([]string, 500)
	for i := range items {
		items[i] = fmt.Sprintf(`{"platform":"apns","token":"%04x"}`, i)
	}
	items[17] = `{"platform":"apns","token":}`
	items[250] = `{"platform":"apns","token":"00","title":"` + strings.Repeat("x", 70<<10) + `"}`
	items[499] = `{"platform":"apns","token":"dead"}`
	ts := newTestAPI(t)
	ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
		if n.Token == "dead" {
			return ended(n, push.Outcome{Verdict: push.Unregistered, HTTP: 410})
		}
		return accepted(n)
	}
	got := receipts(t, ts.request("POST", batchPath, strings.Join(items, "\n"), ndjson).Body)
	want := map[int]string{17: "refused InvalidJSON", 250: "refused BodyTooLarge", 499: "unregistered "}
	for i := range items {
		state := got[i].Status + " " + got[i].Reason
		if expected, special := want[i]; special && state != expected || !special && state != "accepted " {
			t.Errorf("%d: %s", i, state)
		}
	}
	if len(got) != 500 || ts.count() != 498 {
		t.Errorf("%d receipts, %d sent", len(got), ts.count())
	}
}

func TestBatchItemsCanQueueAndSingleNotificationsCannot(t *testing.T) {
	ts := newTestAPI(t)
	ts.request("POST", batchPath, "["+validBody+"]")
	ts.request("POST", singlePath, validBody)
	if len(ts.canQueue) != 2 || !ts.canQueue[0] || ts.canQueue[1] {
		t.Errorf("CanQueue: %v", ts.canQueue)
	}
}

func TestTooLongArrayItemIsRefusedAlone(t *testing.T) {
	wide := `{"platform":"apns","token":"00","data":{"a":"` + strings.Repeat("x", 900) + `","b":"` + strings.Repeat("y", 900) + `"}}`
	deep := `{"platform":"apns","token":"00","apns":{"payload":{"list":[` + strings.Repeat(`{"a":[1,2]},`, 1000) + `0]}}}`
	ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.Item = 1 << 10 })
	w := ts.request("POST", batchPath, "["+validBody+","+wide+","+validBody+" , "+deep+","+validBody+"]")
	got := receipts(t, w.Body)
	if len(got) != 5 || got[1].Reason != "BodyTooLarge" || got[3].Reason != "BodyTooLarge" || got[4].Status != "accepted" || ts.count() != 3 {
		t.Fatalf("%+v", got)
	}
}

func TestTooLongStringEndsBatch(t *testing.T) {
	ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.Item = 1 << 10 })
	got := receipts(t, ts.request("POST", batchPath, `[`+validBody+`,{"platform":"`+strings.Repeat("x", 100<<10)).Body)
	if len(got) != 2 || got[1].Reason != "BodyTooLarge" || !strings.Contains(got[1].Detail, "not read") || ts.count() != 1 {
		t.Fatalf("%+v", got)
	}
}

func TestBatchOverItemLimitIsSentUpToLimit(t *testing.T) {
	for media, body := range map[string]string{
		"application/json": "[" + validBody + "," + validBody + "," + validBody + "," + validBody + "]", "application/x-ndjson": strings.Repeat(validBody+"\n", 4),
	} {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.Batch = 2 })
		got := receipts(t, ts.request("POST", batchPath, body, "Content-Type: "+media).Body)
		if len(got) != 3 || got[2].Reason != "BatchTooLarge" || !strings.Contains(got[2].Detail, "at most 2") || ts.count() != 2 {
			t.Errorf("%s: %+v", media, got)
		}
		exact := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.Batch = 4 })
		if got := receipts(t, exact.request("POST", batchPath, body, "Content-Type: "+media).Body); len(got) != 4 || exact.count() != 4 {
			t.Errorf("%s: %+v", media, got)
		}
	}
}

func TestBrokenArrayIsSentUpToError(t *testing.T) {
	for body, reason := range map[string]string{
		"[" + validBody + "," + validBody + ` {"token"`:   "InvalidJSON",
		"[" + validBody + "," + validBody + "] " + canary: "InvalidJSON",
		"[" + validBody + "," + validBody + "][]":         "InvalidJSON",
		"[" + validBody + "," + validBody + ",":           "BodyIncomplete",
		"[" + validBody + "," + validBody + `,{"a`:        "BodyIncomplete",
	} {
		ts := newTestAPI(t)
		got := receipts(t, ts.request("POST", batchPath, body).Body)
		if len(got) != 3 || got[2].Reason != reason || got[2].ID != "" || ts.count() != 2 {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

func TestBodyThatIsNotABatch(t *testing.T) {
	for body, slug := range map[string]string{validBody: "invalid-json", "": "invalid-json", "7": "invalid-json", canary: "invalid-json", "[}": "invalid-json"} {
		ts := newTestAPI(t)
		w := ts.request("POST", batchPath, body)
		if ts.wantProblem(w, 400, slug); strings.Contains(w.Body.String(), canary) || ts.count() != 0 {
			t.Errorf("%q: %s", body, w.Body)
		}
	}
}

func TestEmptyBatch(t *testing.T) {
	for media, body := range map[string]string{"application/json": " [ ] ", "application/x-ndjson": "\n \n"} {
		if w := newTestAPI(t).request("POST", batchPath, body, "Content-Type: "+media); w.Code != 200 || w.Body.Len() != 0 {
			t.Errorf("%s: %d %s", media, w.Code, w.Body)
		}
	}
}

func TestLastLineNeedsNoNewlineButMustBeComplete(t *testing.T) {
	ts := newTestAPI(t)
	cut := io.MultiReader(strings.NewReader(validBody+"\n"+validBody), truncatedReader{})
	got := receipts(t, ts.requestWith(t.Context(), "POST", batchPath, cut, ndjson).Body)
	if len(got) != 2 || got[1].Reason != "BodyIncomplete" || ts.count() != 1 {
		t.Fatalf("%+v", got)
	}
}

// truncatedReader fails like a body whose connection broke.
type truncatedReader struct{}

func (truncatedReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestBatchConcurrencyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.InFlight = 8 })
		var current, maxSeen atomic.Int64
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			maxSeen.Store(max(maxSeen.Load(), current.Add(1)))
			time.Sleep(time.Second)
			current.Add(-1)
			return accepted(n)
		}
		start := time.Now()
		got := receipts(t, ts.request("POST", batchPath, strings.Repeat(validBody+"\n", 80), ndjson).Body)
		if took := time.Since(start); maxSeen.Load() != 8 || took != 10*time.Second || len(got) != 80 {
			t.Errorf("%d at a time, %v", maxSeen.Load(), took)
		}
	})
}

func TestPlatformWithoutResponseDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.InFlight = 8 })
		start := time.Now()
		var took atomic.Int64 // until the last one to APNs ended
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			if n.Platform == push.FCM {
				time.Sleep(time.Minute)
			} else {
				took.Store(int64(time.Since(start)))
			}
			return accepted(n)
		}
		items := strings.Repeat(`{"platform":"fcm","token":"x","title":"t"}`+"\n", 8) + strings.Repeat(validBody+"\n", 8)
		got := receipts(t, ts.request("POST", batchPath, items, ndjson).Body)
		if took := time.Duration(took.Load()); took != 0 || len(got) != 16 {
			t.Errorf("%d receipts, APNs after %v", len(got), took)
		}
	})
}

// stream is a batch request over a real connection, whose body the test writes while it reads the
// response.
type stream struct {
	*io.PipeWriter
	answer chan *http.Response
}

func (ts *testAPI) stream(media string, headers ...string) (*stream, func()) {
	ts.t.Helper()
	server := httptest.NewServer(ts)
	from, to := io.Pipe()
	s := &stream{to, make(chan *http.Response, 1)}
	r, err := http.NewRequest("POST", server.URL+batchPath, from)
	if err != nil {
		ts.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+sendKey)
	r.Header.Set("Content-Type", media)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	go func() {
		defer close(s.answer)
		if res, err := server.Client().Do(r); err == nil {
			s.answer <- res
		}
	}()
	return s, server.Close
}

func (s *stream) write(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s, text); err != nil {
		t.Fatal(err)
	}
}

func TestReceiptsAreStreamed(t *testing.T) {
	for media, text := range map[string][3]string{"application/x-ndjson": {"", "\n", ""}, "application/json": {"[", ",", validBody + "]"}} {
		ts := newTestAPI(t)
		s, closeServer := ts.stream(media)
		s.write(t, text[0]+validBody+text[1])
		res := testwait.For(t, s.answer, "the response")
		lines := bufio.NewReader(res.Body)
		for range 3 {
			if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, `"accepted"`) {
				t.Fatalf("%s: %q %v", media, line, err)
			}
			s.write(t, validBody+text[1])
		}
		s.write(t, text[2])
		if s.Close() != nil {
			t.Error("close")
		}
		remaining, err := io.ReadAll(lines)
		if err != nil || strings.Count(string(remaining), "accepted") < 1 || res.Body.Close() != nil {
			t.Errorf("%s: %q %v", media, remaining, err)
		}
		closeServer()
	}
}

func TestClientMayReadAfterWritingWholeBatch(t *testing.T) {
	ts := newTestAPI(t)
	s, closeServer := ts.stream("application/x-ndjson")
	defer closeServer()
	for range 5_000 {
		s.write(t, validBody+"\n")
	}
	if s.Close() != nil {
		t.Error("close")
	}
	res := testwait.For(t, s.answer, "the response")
	defer func() { _ = res.Body.Close() }()
	if got := receipts(t, res.Body); len(got) != 5_000 {
		t.Error(len(got))
	}
}

func TestBatchWaitingForSlotEndsWithRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.InFlight = 2 })
		ts.respond = respondAfter(time.Hour)
		ctx, closeServer := context.WithTimeout(t.Context(), 20*time.Second)
		defer closeServer()
		start := time.Now()
		ts.requestWith(ctx, "POST", batchPath, strings.NewReader(strings.Repeat(validBody+"\n", 10)), ndjson)
		if took := time.Since(start); took != 20*time.Second || ts.count() != 2 {
			t.Errorf("after %v, %d sent", took, ts.count())
		}
	})
}
