// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

const (
	respondAsyncHeader = "Prefer: respond-async"
	scheduled          = `{"platform":"apns","token":"00ff","title":"Hi","send_at":"2999-01-01T00:00:00Z"}`
)

// wantAccepted checks that the status is 202 and returns the receipt.
func (ts *testAPI) wantAccepted(w *httptest.ResponseRecorder) receipt {
	ts.t.Helper()
	var r receipt
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != 202 {
		ts.t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
	}
	if got := w.Header().Get("Location"); got != singlePath+"/"+r.ID {
		ts.t.Errorf("Location: %q", got)
	}
	return r
}

func TestRespondAsyncReturns202OnceQueued(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	for body, status := range map[string]string{validBody: "queued", scheduled: "scheduled"} {
		w := ts.request("POST", singlePath, body, respondAsyncHeader)
		if r := ts.wantAccepted(w); r.Status != status || w.Header().Get("Preference-Applied") != "respond-async" {
			t.Errorf("%+v %v", r, w.Header())
		}
	}
	if store.count() != 2 || ts.count() != 0 {
		t.Errorf("queued %d, sent %d", store.count(), ts.count())
	}
}

func TestFutureSendAtRequiresRespondAsync(t *testing.T) {
	ts, _ := newTestAPIWithStorage(t)
	p := ts.wantProblem(ts.request("POST", singlePath, scheduled), 400, "invalid-field")
	if p.Field != "send_at" || !strings.Contains(p.Detail, "Prefer: respond-async") {
		t.Errorf("%+v", p)
	}
	if got := receipts(t, ts.request("POST", batchPath, scheduled, ndjson).Body); got[0].Status != "refused" || got[0].Field != "send_at" {
		t.Errorf("%+v", got)
	}
}

func TestRelativeSendAtCountsFromAcceptance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		for relative, wait := range map[string]time.Duration{"+10m": 10 * time.Minute, "+1h30m": 90 * time.Minute, "+1.5s": 1500 * time.Millisecond, "+0s": 0} {
			body := fmt.Sprintf(`{"platform":"apns","token":"00ff","title":"Hi","send_at":%q,"ttl":"1m"}`, relative)
			status := "scheduled"
			if wait == 0 {
				status = "queued"
			}
			if r := ts.wantAccepted(ts.request("POST", singlePath, body, respondAsyncHeader)); r.Status != status {
				t.Errorf("%s: %+v", relative, r)
			}
			for _, media := range []string{"application/json", "application/x-ndjson"} {
				text := body
				if media == "application/json" {
					text = "[" + body + "]"
				}
				w := ts.request("POST", batchPath, text, respondAsyncHeader, "Content-Type: "+media)
				if got := receipts(t, w.Body); w.Code != 202 || got[0].Status != status {
					t.Errorf("%s, batch: %d %+v", relative, w.Code, got)
				}
			}
			for _, n := range store.queued[store.count()-3:] {
				if expiry, ok := n.Expiry(); n.Due().Sub(n.AcceptedAt) != wait || !ok || expiry.Sub(n.Due()) != time.Minute {
					t.Errorf("%s: accepted %v, due %v", relative, n.AcceptedAt, n.Due())
				}
			}
		}
		p := ts.wantProblem(ts.request("POST", singlePath, strings.Replace(scheduled, "2999-01-01T00:00:00Z", "+10m", 1)), 400, "invalid-field")
		if p.Field != "send_at" || !strings.Contains(p.Detail, "Prefer: respond-async") {
			t.Errorf("%+v", p)
		}
	})
}

// TestRepeatedRelativeSendAtIsReplayed checks that the key of a relative time belongs to its text: a
// repeated request gets the notification of the first one, whose time does not move.
func TestRepeatedRelativeSendAtIsReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		body := strings.Replace(scheduled, "2999-01-01T00:00:00Z", "+10m", 1)
		first := ts.wantAccepted(ts.request("POST", singlePath, body, respondAsyncHeader, keyHeader))
		time.Sleep(time.Minute)
		second := ts.wantAccepted(ts.request("POST", singlePath, body, respondAsyncHeader, keyHeader))
		if first.ID != second.ID || store.count() != 1 {
			t.Errorf("%v, then %v: %d queued", first, second, store.count())
		}
	})
}

func TestQueueErrorsAreReported(t *testing.T) {
	for _, c := range []struct {
		err        error
		status     int
		slug, line string
		retry      bool
	}{
		{fmt.Errorf("jetstream: %w", push.ErrQueueFull), 503, "queue-full", "unavailable QueueFull", true},
		{errors.New("SECRET address"), 503, "queue-unavailable", "unknown QueueUnavailable", true},
		{&push.FieldError{Field: "token", Reason: "InvalidField", Allowed: "hex"}, 400, "invalid-field", "refused InvalidField", false},
		{&push.FieldError{Field: "send_at", Reason: "TooFarAhead", Allowed: "less"}, 400, "invalid-field", "refused TooFarAhead", false},
		{&push.FieldError{Field: "apns", Reason: "PayloadTooLarge", Allowed: "less"}, 413, "payload-too-large", "refused PayloadTooLarge", false},
	} {
		ts, store := newTestAPIWithStorage(t)
		store.refuse = func(*push.Notification) error { return c.err }
		w := ts.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader)
		ts.wantProblem(w, c.status, c.slug)
		if (w.Header().Get("Retry-After") != "") != c.retry || strings.Contains(w.Body.String(), "SECRET") {
			t.Errorf("%s: %v %s", c.slug, w.Header(), w.Body)
		}
		if got := receipts(t, ts.request("POST", batchPath, validBody, ndjson, respondAsyncHeader).Body)[0]; got.Status+" "+got.Reason != c.line {
			t.Errorf("in a batch: %+v", got)
		}
		store.refuse = nil
		if r := ts.wantAccepted(ts.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader)); r.Status != "queued" {
			t.Errorf("the key is not free although nothing was stored: %+v", r)
		}
	}
}

func TestQueueErrorIsLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ts, store := newTestAPIWithStorage(t, func(cfg *testConfig) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		store.refuse = func(*push.Notification) error { return errors.New("no majority") }
		for range 180 {
			ts.wantProblem(ts.request("POST", singlePath, validBody, respondAsyncHeader), 503, "queue-unavailable")
			time.Sleep(time.Second)
		}
		if text := log.String(); strings.Count(text, "\n") != 3 || strings.Count(text, `err="no majority" not_logged=59`) != 2 {
			t.Errorf("three minutes have these lines:\n%s", text)
		}
	})
}

func TestKeyIdentifiesOneNotificationForSyncAndAsyncCalls(t *testing.T) {
	for _, c := range []struct{ first, second string }{{respondAsyncHeader, respondAsyncHeader}, {respondAsyncHeader, "X: y"}, {"X: y", respondAsyncHeader}, {"X: y", "X: y"}} {
		ts, store := newTestAPIWithStorage(t)
		first, second := ts.request("POST", singlePath, validBody, keyHeader, c.first), ts.request("POST", singlePath, validBody, keyHeader, c.second)
		var r1, r2 receipt
		if json.Unmarshal(first.Body.Bytes(), &r1) != nil || json.Unmarshal(second.Body.Bytes(), &r2) != nil || r1.ID == "" || r1.ID != r2.ID {
			t.Errorf("%v: %s, %s", c, first.Body, second.Body)
		}
		if second.Header().Get("Idempotency-Replayed") != "true" || first.Header().Get("Idempotency-Replayed") != "" {
			t.Errorf("%v: %v", c, second.Header())
		}
		if store.count()+ts.count() != 1 {
			t.Errorf("%v: queued %d, sent %d", c, store.count(), ts.count())
		}
		ts.wantProblem(ts.request("POST", singlePath, validBody+" ", keyHeader, c.second), 422, "idempotency-key-reused")
	}
}

func TestReplayReturnsFinalReceipt(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	id := ts.wantAccepted(ts.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)).ID
	closeServer := push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unregistered},
		Attempts: []push.Attempt{{Endpoint: "e", Outcome: push.Outcome{Verdict: push.Unregistered}}}}
	store.addResult(closeServer, "shop")
	if r := ts.wantAccepted(ts.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)); r.ID != id || r.Status != "unregistered" {
		t.Errorf("%+v", r)
	}
	if w := ts.request("POST", singlePath, validBody, keyHeader); w.Code != 200 || !strings.Contains(w.Body.String(), id) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestConcurrentAsyncCallsWithOneKeyEnqueueOnce(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() { ts.wantAccepted(ts.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)) })
	}
	testwait.Call(t, callers.Wait, "the end of all calls")
	if store.count() != 1 {
		t.Error(store.count())
	}
}

func TestKeyInUseElsewhereIs409(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys idempotency.Store
		ts, _ := newTestAPIWithStorage(t, func(cfg *testConfig) { keys = cfg.Idempotency })
		keyHash, bodyHash := sha256.Sum256([]byte("shop\x00order-81273")), sha256.Sum256([]byte(validBody))
		if _, _, err := keys.Claim(t.Context(), &push.Notification{KeyHash: keyHash[:], BodyHash: bodyHash[:]}); err != nil {
			t.Fatal(err)
		}
		w := ts.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)
		if ts.wantProblem(w, 409, "idempotency-key-in-use"); w.Header().Get("Retry-After") != "1" {
			t.Error(w.Header())
		}
	})
}

func TestAsyncBatchHasNoItemLimit(t *testing.T) {
	for media, body := range map[string]string{
		"application/json":     "[" + strings.Repeat(validBody+",", 299) + scheduled + "]",
		"application/x-ndjson": strings.Repeat(validBody+"\n", 299) + scheduled,
	} {
		ts, store := newTestAPIWithStorage(t, func(cfg *testConfig) { cfg.Limits.Batch = 2 })
		w := ts.request("POST", batchPath, body, "Content-Type: "+media, respondAsyncHeader)
		got := receipts(t, w.Body)
		if w.Code != 202 || w.Header().Get("Preference-Applied") != "respond-async" || len(got) != 300 || store.count() != 300 {
			t.Fatalf("%s: %d %v, %d receipts", media, w.Code, w.Header(), len(got))
		}
		if got[0].Status != "queued" || got[299].Status != "scheduled" || got[7].ID == "" {
			t.Errorf("%+v %+v", got[0], got[299])
		}
	}
}

func withKey(key, title string) string {
	return fmt.Sprintf(`{"platform":"apns","token":"00ff","title":%q,"idempotency_key":%q}`, title, key)
}

func TestBatchItemsHaveTheirOwnKeys(t *testing.T) {
	for _, prefer := range []string{respondAsyncHeader, "X: y"} {
		for _, newAPI := range []func() *testAPI{
			func() *testAPI { ts, _ := newTestAPIWithStorage(t); return ts },
			func() *testAPI { return newTestAPI(t) },
		} {
			ts := newAPI()
			if prefer == respondAsyncHeader && ts.request("POST", singlePath, validBody, respondAsyncHeader).Code == 501 {
				continue
			}
			lines := strings.Join([]string{withKey("a", "Hi"), withKey("b", "Hi"), withKey("a", "Hi"), validBody, withKey("a b", "")}, "\n")
			w := ts.request("POST", batchPath, lines, ndjson, prefer)
			text := w.Body.String()
			got := receipts(t, w.Body)
			if got[0].ID != got[2].ID || got[0].ID == got[1].ID || strings.Count(text, `"replayed":true`) != 1 {
				t.Errorf("%s %s", prefer, text)
			}
			if got[4].Reason != "InvalidField" || got[4].Field != "idempotency_key" {
				t.Errorf("%+v", got[4])
			}
			repeated := ts.request("POST", batchPath, withKey("b", "Hi")+"\n"+withKey("a", "Ho"), ndjson, prefer)
			if text := repeated.Body.String(); strings.Count(text, `{"replayed":true,"id":"`+got[1].ID) != 1 || !strings.Contains(text, "IdempotencyKeyReused") {
				t.Error(text)
			}
		}
	}
	ts := newTestAPI(t)
	if p := ts.wantProblem(ts.request("POST", singlePath, withKey("a", "Hi")), 400, "unknown-field"); p.Field != "idempotency_key" {
		t.Errorf("%+v", p)
	}
	ts.wantProblem(ts.request("POST", batchPath, "[]", keyHeader), 400, "invalid-header")
}

func TestConcurrentBatchesWithSameKeysDoNotDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		start := time.Now()
		var callers sync.WaitGroup
		for round := range 4 {
			var lines []string
			for i := range 300 {
				lines = append(lines, withKey(fmt.Sprint((i*(2*round+1)+37*round)%300), "Hi"))
			}
			callers.Go(func() {
				for i, r := range receipts(t, ts.request("POST", batchPath, strings.Join(lines, "\n"), ndjson, respondAsyncHeader).Body) {
					if r.Status != "queued" {
						t.Errorf("%d: %+v", i, r)
					}
				}
			})
		}
		callers.Wait()
		if store.count() != 300 || time.Since(start) != 0 {
			t.Errorf("queued %d in %v", store.count(), time.Since(start))
		}
	})
}

func TestAsyncReceiptIsWrittenOnceItemIsQueued(t *testing.T) {
	ts, _ := newTestAPIWithStorage(t)
	s, closeServer := ts.stream("application/x-ndjson", respondAsyncHeader)
	defer closeServer()
	s.write(t, validBody+"\n")
	res := testwait.For(t, s.answer, "the response")
	lines := bufio.NewReader(res.Body)
	for range 3 {
		if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, `"queued"`) {
			t.Fatalf("%q %v", line, err)
		}
		s.write(t, validBody+"\n")
	}
	if s.Close() != nil {
		t.Error("close")
	}
	if text, err := io.ReadAll(lines); err != nil || strings.Count(string(text), "queued") != 1 || res.Body.Close() != nil {
		t.Errorf("%q %v", text, err)
	}
}

func TestQueuePanicFailsOnlyItsGroup(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	store.refuse = func(n *push.Notification) error {
		if n.Title == "boom" {
			panic("boom")
		}
		return nil
	}
	got := receipts(t, ts.request("POST", batchPath, withKey("a", "boom"), ndjson, respondAsyncHeader).Body)
	if got[0].Status != "unknown" || got[0].Reason != "Internal" {
		t.Errorf("%+v", got)
	}
	if w := ts.request("POST", singlePath, `{"platform":"apns","token":"00","title":"boom"}`, respondAsyncHeader, keyHeader); w.Code != 500 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	ts.wantAccepted(ts.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader))
}

func TestQueueRequiresHistory(t *testing.T) {
	_, err := api.New(api.Config{Sender: &sender{}, Auth: newAuth(t, nil), Queue: &fakeStorage{}})
	if err == nil {
		t.Error("New accepts a queue without a history")
	}
}

func TestGetReturnsEventsWithoutInternalFields(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	id := ts.wantAccepted(ts.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader)).ID
	store.addEvent(push.Event{ID: id, App: "shop", Status: push.StatusSending, Attempt: 1})
	w := ts.request("GET", singlePath+"/"+id, "", "Authorization: Bearer "+readKey)
	var got struct {
		ID, Status string
		Attempts   []any
		Events     []map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got.ID != id || got.Status != "sending" || got.Attempts == nil {
		t.Fatalf("%d %s %v", w.Code, w.Body, err)
	}
	if len(got.Events) != 2 || got.Events[0]["status"] != "queued" || got.Events[1]["attempt"] != 1. || strings.Contains(w.Body.String(), "hash") {
		t.Errorf("%s", w.Body)
	}
}

func TestNotificationsOfOtherAppsAreNotFound(t *testing.T) {
	ts, _ := newTestAPIWithStorage(t, func(cfg *testConfig) {
		cfg.Apps["bank"] = []testKey{{Name: "bank", Hash: otherHash, Scopes: []string{"send", "read"}}}
	})
	id := ts.wantAccepted(ts.request("POST", singlePath, validBody, respondAsyncHeader)).ID
	for _, path := range []string{"/v1/apps/bank/notifications/" + id, "/v1/apps/bank/notifications/x", "/v1/apps/bank/notifications/" + strings.ToUpper(id)} {
		ts.wantProblem(ts.request("GET", path, "", "Authorization: Bearer "+otherKey), 404, "not-found")
		ts.wantProblem(ts.request("DELETE", path, "", "Authorization: Bearer "+otherKey), 404, "not-found")
	}
	ts.wantProblem(ts.request("GET", singlePath+"/"+id, "", "Authorization: Bearer "+otherKey), 403, "wrong-app")
}

func TestCancelPendingNotification(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	id := ts.wantAccepted(ts.request("POST", singlePath, scheduled, respondAsyncHeader)).ID
	for range 2 { // a repeated request gets the same response
		if w := ts.request("DELETE", singlePath+"/"+id, ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"status":"cancelled"`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	done := ts.wantAccepted(ts.request("POST", singlePath, validBody, respondAsyncHeader)).ID
	store.addEvent(push.Event{ID: done, App: "shop", Status: push.StatusSending, Attempt: 1})
	if p := ts.wantProblem(ts.request("DELETE", singlePath+"/"+done, ""), 409, "not-waiting"); p.Receipt == nil || p.Receipt.Status != "sending" {
		t.Errorf("%+v", p)
	}
}

func TestHistoryErrorIs503(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a feed waits a moment for an error of the history
		ts, store := newTestAPIWithStorage(t)
		id := ts.wantAccepted(ts.request("POST", singlePath, validBody, respondAsyncHeader)).ID
		store.err = errors.New("SECRET path")
		for _, w := range []*httptest.ResponseRecorder{
			ts.request("GET", singlePath+"/"+id, "", "Authorization: Bearer "+readKey), ts.request("DELETE", singlePath+"/"+id, ""),
			ts.request("POST", singlePath, validBody, keyHeader), ts.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader),
			ts.request("GET", "/v1/apps/shop/events", "", "Authorization: Bearer "+readKey),
		} {
			if ts.wantProblem(w, http.StatusServiceUnavailable, "queue-unavailable"); w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "SECRET") {
				t.Errorf("%v %s", w.Header(), w.Body)
			}
		}
	})
}
