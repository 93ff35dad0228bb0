// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

const (
	respondAsyncHeader = "Prefer: respond-async"
	scheduled          = `{"platform":"apns","token":"00ff","title":"Hi","send_at":"2999-01-01T00:00:00Z"}`
)

// wantAccepted checks that the answer is 202 and returns its receipt.
func (d *testAPI) wantAccepted(w *httptest.ResponseRecorder) receipt {
	d.t.Helper()
	var r receipt
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != 202 {
		d.t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
	}
	if got := w.Header().Get("Location"); got != singlePath+"/"+r.ID {
		d.t.Errorf("Location: %q", got)
	}
	return r
}

func TestRespondAsyncReturns202OnceQueued(t *testing.T) {
	d, a := newTestAPIWithStorage(t)
	for body, status := range map[string]string{validBody: "queued", scheduled: "scheduled"} {
		w := d.request("POST", singlePath, body, respondAsyncHeader)
		if r := d.wantAccepted(w); r.Status != status || w.Header().Get("Preference-Applied") != "respond-async" {
			t.Errorf("%+v %v", r, w.Header())
		}
	}
	if a.count() != 2 || d.count() != 0 {
		t.Errorf("kept %d, sent %d", a.count(), d.count())
	}
}

func TestFutureSendAtRequiresRespondAsync(t *testing.T) {
	d, _ := newTestAPIWithStorage(t)
	p := d.wantProblem(d.request("POST", singlePath, scheduled), 400, "invalid-field")
	if p.Field != "send_at" || !strings.Contains(p.Detail, "Prefer: respond-async") {
		t.Errorf("%+v", p)
	}
	if got := receipts(t, d.request("POST", batch, scheduled, ndjson).Body); got[0].Status != "refused" || got[0].Field != "send_at" {
		t.Errorf("%+v", got)
	}
}

func TestQueueErrorsAreReported(t *testing.T) {
	for _, c := range []struct {
		err        error
		status     int
		slug, line string
		retry      bool
	}{
		{fmt.Errorf("engine: %w", push.ErrQueueFull), 503, "queue-full", "unavailable QueueFull", true},
		{errors.New("SECRET address"), 503, "queue-unavailable", "unknown QueueUnavailable", true},
		{&push.FieldError{Field: "token", Reason: "InvalidField", Allowed: "hex"}, 400, "invalid-field", "refused InvalidField", false},
		{&push.FieldError{Field: "apns", Reason: "PayloadTooLarge", Allowed: "less"}, 413, "payload-too-large", "refused PayloadTooLarge", false},
	} {
		d, a := newTestAPIWithStorage(t)
		a.refuse = func(*push.Notification) error { return c.err }
		w := d.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader)
		d.wantProblem(w, c.status, c.slug)
		if (w.Header().Get("Retry-After") != "") != c.retry || strings.Contains(w.Body.String(), "SECRET") {
			t.Errorf("%s: %v %s", c.slug, w.Header(), w.Body)
		}
		if got := receipts(t, d.request("POST", batch, validBody, ndjson, respondAsyncHeader).Body)[0]; got.Status+" "+got.Reason != c.line {
			t.Errorf("in a batch: %+v", got)
		}
		a.refuse = nil
		if r := d.wantAccepted(d.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader)); r.Status != "queued" {
			t.Errorf("the key of what was not kept is not free: %+v", r)
		}
	}
}

func TestKeyIdentifiesOneNotificationForSyncAndAsyncCalls(t *testing.T) {
	for _, c := range []struct{ first, second string }{{respondAsyncHeader, respondAsyncHeader}, {respondAsyncHeader, "X: y"}, {"X: y", respondAsyncHeader}, {"X: y", "X: y"}} {
		d, a := newTestAPIWithStorage(t)
		first, second := d.request("POST", singlePath, validBody, keyHeader, c.first), d.request("POST", singlePath, validBody, keyHeader, c.second)
		var one, two receipt
		if json.Unmarshal(first.Body.Bytes(), &one) != nil || json.Unmarshal(second.Body.Bytes(), &two) != nil || one.ID == "" || one.ID != two.ID {
			t.Errorf("%v: %s, %s", c, first.Body, second.Body)
		}
		if second.Header().Get("Idempotency-Replayed") != "true" || first.Header().Get("Idempotency-Replayed") != "" {
			t.Errorf("%v: %v", c, second.Header())
		}
		if a.count()+d.count() != 1 {
			t.Errorf("%v: kept %d, sent %d", c, a.count(), d.count())
		}
		d.wantProblem(d.request("POST", singlePath, validBody+" ", keyHeader, c.second), 422, "idempotency-key-reused")
	}
}

func TestReplayReturnsFinalReceipt(t *testing.T) {
	d, a := newTestAPIWithStorage(t)
	id := d.wantAccepted(d.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)).ID
	end := push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unregistered},
		Attempts: []push.Attempt{{Endpoint: "e", Outcome: push.Outcome{Verdict: push.Unregistered}}}}
	a.addResult(end, "shop")
	if r := d.wantAccepted(d.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)); r.ID != id || r.Status != "unregistered" {
		t.Errorf("%+v", r)
	}
	if w := d.request("POST", singlePath, validBody, keyHeader); w.Code != 200 || !strings.Contains(w.Body.String(), id) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestConcurrentAsyncCallsWithOneKeyEnqueueOnce(t *testing.T) {
	d, a := newTestAPIWithStorage(t)
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() { d.wantAccepted(d.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)) })
	}
	callers.Wait()
	if a.count() != 1 {
		t.Error(a.count())
	}
}

func TestKeyInUseElsewhereIs409(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := newTestAPIWithStorage(t)
		d.wantAccepted(d.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader))
		a.mu.Lock()
		key := a.events[0].KeyHash
		a.keys[string(key)] = &claim{body: a.events[0].BodyHash, done: make(chan struct{})}
		a.mu.Unlock()
		w := d.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader)
		if d.wantProblem(w, 409, "idempotency-key-in-use"); w.Header().Get("Retry-After") != "1" {
			t.Error(w.Header())
		}
	})
}

func TestAsyncBatchHasNoItemLimit(t *testing.T) {
	for media, body := range map[string]string{
		"application/json":     "[" + strings.Repeat(validBody+",", 299) + scheduled + "]",
		"application/x-ndjson": strings.Repeat(validBody+"\n", 299) + scheduled,
	} {
		d, a := newTestAPIWithStorage(t, func(cfg *api.Config) { cfg.Limits.Batch = 2 })
		w := d.request("POST", batch, body, "Content-Type: "+media, respondAsyncHeader)
		got := receipts(t, w.Body)
		if w.Code != 202 || w.Header().Get("Preference-Applied") != "respond-async" || len(got) != 300 || a.count() != 300 {
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
		for _, opened := range []func() *testAPI{
			func() *testAPI { d, _ := newTestAPIWithStorage(t); return d },
			func() *testAPI { return newTestAPI(t) },
		} {
			d := opened()
			if prefer == respondAsyncHeader && d.request("POST", singlePath, validBody, respondAsyncHeader).Code == 501 {
				continue
			}
			lines := strings.Join([]string{withKey("a", "Hi"), withKey("b", "Hi"), withKey("a", "Hi"), validBody, withKey("a b", "")}, "\n")
			w := d.request("POST", batch, lines, ndjson, prefer)
			text := w.Body.String()
			got := receipts(t, w.Body)
			if got[0].ID != got[2].ID || got[0].ID == got[1].ID || strings.Count(text, `"replayed":true`) != 1 {
				t.Errorf("%s %s", prefer, text)
			}
			if got[4].Reason != "InvalidField" || got[4].Field != "idempotency_key" {
				t.Errorf("%+v", got[4])
			}
			again := d.request("POST", batch, withKey("b", "Hi")+"\n"+withKey("a", "Ho"), ndjson, prefer)
			if text := again.Body.String(); strings.Count(text, `{"replayed":true,"id":"`+got[1].ID) != 1 || !strings.Contains(text, "IdempotencyKeyReused") {
				t.Error(text)
			}
		}
	}
	d := newTestAPI(t)
	if p := d.wantProblem(d.request("POST", singlePath, withKey("a", "Hi")), 400, "unknown-field"); p.Field != "idempotency_key" {
		t.Errorf("%+v", p)
	}
	d.wantProblem(d.request("POST", batch, "[]", keyHeader), 400, "invalid-header")
}

func TestConcurrentBatchesWithSameKeysDoNotDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := newTestAPIWithStorage(t)
		before := time.Now()
		var callers sync.WaitGroup
		for turn := range 4 {
			var lines []string
			for i := range 300 {
				lines = append(lines, withKey(fmt.Sprint((i*(2*turn+1)+37*turn)%300), "Hi"))
			}
			callers.Go(func() {
				for i, r := range receipts(t, d.request("POST", batch, strings.Join(lines, "\n"), ndjson, respondAsyncHeader).Body) {
					if r.Status != "queued" {
						t.Errorf("%d: %+v", i, r)
					}
				}
			})
		}
		callers.Wait()
		if a.count() != 300 || time.Since(before) != 0 {
			t.Errorf("kept %d in %v", a.count(), time.Since(before))
		}
	})
}

func TestAsyncReceiptIsWrittenOnceItemIsQueued(t *testing.T) {
	d, _ := newTestAPIWithStorage(t)
	s, end := d.stream("application/x-ndjson", respondAsyncHeader)
	defer end()
	s.write(t, validBody+"\n")
	answer := <-s.answer
	lines := bufio.NewReader(answer.Body)
	for range 3 {
		if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, `"queued"`) {
			t.Fatalf("%q %v", line, err)
		}
		s.write(t, validBody+"\n")
	}
	if s.Close() != nil {
		t.Error("close")
	}
	if text, err := io.ReadAll(lines); err != nil || strings.Count(string(text), "queued") != 1 || answer.Body.Close() != nil {
		t.Errorf("%q %v", text, err)
	}
}

func TestQueuePanicFailsOnlyItsGroup(t *testing.T) {
	d, a := newTestAPIWithStorage(t)
	a.refuse = func(n *push.Notification) error {
		if n.Title == "boom" {
			panic("boom")
		}
		return nil
	}
	got := receipts(t, d.request("POST", batch, withKey("a", "boom"), ndjson, respondAsyncHeader).Body)
	if got[0].Status != "unknown" || got[0].Reason != "Internal" {
		t.Errorf("%+v", got)
	}
	if w := d.request("POST", singlePath, `{"platform":"apns","token":"00","title":"boom"}`, respondAsyncHeader, keyHeader); w.Code != 500 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	d.wantAccepted(d.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader))
}

func TestQueueRequiresHistory(t *testing.T) {
	_, err := api.New(api.Config{Sender: &sender{}, Queue: &fakeStorage{}})
	if err == nil {
		t.Error("taken")
	}
}

func TestGetReturnsEventsWithoutInternalFields(t *testing.T) {
	d, a := newTestAPIWithStorage(t)
	id := d.wantAccepted(d.request("POST", singlePath, validBody, respondAsyncHeader, keyHeader)).ID
	a.addEvent(push.Event{ID: id, App: "shop", Status: push.StatusSending, Attempt: 1})
	w := d.request("GET", singlePath+"/"+id, "", "Authorization: Bearer "+readKey)
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
	d, _ := newTestAPIWithStorage(t, func(cfg *api.Config) {
		cfg.Apps["bank"] = api.App{Keys: []api.Key{{Name: "bank", Hash: otherHash, Scopes: []string{"send", "read"}}}}
	})
	id := d.wantAccepted(d.request("POST", singlePath, validBody, respondAsyncHeader)).ID
	for _, path := range []string{"/v1/apps/bank/notifications/" + id, "/v1/apps/bank/notifications/x", "/v1/apps/bank/notifications/" + strings.ToUpper(id)} {
		d.wantProblem(d.request("GET", path, "", "Authorization: Bearer "+otherKey), 404, "not-found")
		d.wantProblem(d.request("DELETE", path, "", "Authorization: Bearer "+otherKey), 404, "not-found")
	}
	d.wantProblem(d.request("GET", singlePath+"/"+id, "", "Authorization: Bearer "+otherKey), 403, "wrong-app")
}

func TestCancelPendingNotification(t *testing.T) {
	d, a := newTestAPIWithStorage(t)
	id := d.wantAccepted(d.request("POST", singlePath, scheduled, respondAsyncHeader)).ID
	for range 2 { // a repeat hears the same
		if w := d.request("DELETE", singlePath+"/"+id, ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"status":"cancelled"`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	gone := d.wantAccepted(d.request("POST", singlePath, validBody, respondAsyncHeader)).ID
	a.addEvent(push.Event{ID: gone, App: "shop", Status: push.StatusSending, Attempt: 1})
	if p := d.wantProblem(d.request("DELETE", singlePath+"/"+gone, ""), 409, "not-waiting"); p.Receipt == nil || p.Receipt.Status != "sending" {
		t.Errorf("%+v", p)
	}
}

func TestHistoryErrorIs503(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a feed gives the history a moment to say so
		d, a := newTestAPIWithStorage(t)
		id := d.wantAccepted(d.request("POST", singlePath, validBody, respondAsyncHeader)).ID
		a.err = errors.New("SECRET path")
		for _, w := range []*httptest.ResponseRecorder{
			d.request("GET", singlePath+"/"+id, "", "Authorization: Bearer "+readKey), d.request("DELETE", singlePath+"/"+id, ""),
			d.request("POST", singlePath, validBody, keyHeader), d.request("POST", singlePath, validBody, keyHeader, respondAsyncHeader),
			d.request("GET", "/v1/apps/shop/events", "", "Authorization: Bearer "+readKey),
		} {
			if d.wantProblem(w, http.StatusServiceUnavailable, "queue-unavailable"); w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "SECRET") {
				t.Errorf("%v %s", w.Header(), w.Body)
			}
		}
	})
}
