// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
)

const threeTokens = `{"platform":"apns","tokens":["00aa","11bb","22cc"],"title":"Hi","data":{"k":"v"}}`

// tokens returns a body with n different tokens.
func tokens(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"%08x"`, i)
	}
	return `{"platform":"apns","tokens":[` + strings.Join(list, ",") + `],"title":"Hi"}`
}

// targetReceipts returns the receipts of a response to a request with several targets.
func targetReceipts(t testing.TB, w *httptest.ResponseRecorder, status int) []receipt {
	t.Helper()
	var body struct{ Receipts []receipt }
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != status || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %s: %v", w.Code, w.Header(), w.Body, err)
	}
	for i, r := range body.Receipts {
		if r.Index != nil || r.TargetIndex == nil || *r.TargetIndex != i {
			t.Fatalf("receipt %d is not in order: %s", i, w.Body)
		}
	}
	return body.Receipts
}

// statuses returns the statuses of receipts, and "replayed" for those of an earlier request.
func statuses(all []receipt) string {
	var list []string
	for _, r := range all {
		if r.Replayed {
			r.Status += "/replayed"
		}
		list = append(list, r.Status)
	}
	return strings.Join(list, " ")
}

// sentTokens returns the tokens of the notifications that were sent, sorted.
func (s *sender) sentTokens() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, n := range s.sent {
		all = append(all, n.Token)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestEachTokenGetsAReceipt(t *testing.T) {
	ts := newTestAPI(t)
	ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
		if n.Token == "11bb" {
			return ended(n, push.Outcome{Verdict: push.Unregistered, HTTP: 410})
		}
		return accepted(n)
	}
	got := targetReceipts(t, ts.request("POST", singlePath, threeTokens), 200)
	if statuses(got) != "accepted unregistered accepted" || ts.sentTokens() != "00aa 11bb 22cc" {
		t.Fatalf("%+v, sent %s", got, ts.sentTokens())
	}
	seen := map[string]bool{}
	for i, n := range ts.sent {
		seen[n.ID] = true
		if n.App != "shop" || n.Title != "Hi" || n.Data["k"] != "v" || n.AcceptedAt.IsZero() || !ts.canQueue[i] {
			t.Errorf("%d: %+v", i, n)
		}
	}
	for _, r := range got {
		delete(seen, r.ID)
	}
	if len(seen) != 0 {
		t.Errorf("notifications without a receipt: %v", seen)
	}
}

func TestInstallationsAndSubscriptions(t *testing.T) {
	ts := newTestAPI(t)
	got := targetReceipts(t, ts.request("POST", singlePath, `{"platform":"fcm","installations":["a","b"]}`), 200)
	if statuses(got) != "accepted accepted" || ts.sent[0].Installation+ts.sent[1].Installation != "ab" && ts.sent[0].Installation+ts.sent[1].Installation != "ba" {
		t.Errorf("%+v", got)
	}
	ts = newTestAPI(t)
	const subscriptions = `[{"endpoint":"https://a.example","keys":{"p256dh":"p","auth":"a"},"new":1},{"endpoint":"https://b.example"},{"endpoint":"https://a.example"}]`
	got = targetReceipts(t, ts.request("POST", singlePath, `{"platform":"webpush","subscriptions":`+subscriptions+`}`), 200)
	if statuses(got) != "accepted accepted refused" || got[2].Field != "subscriptions[2]" || ts.count() != 2 {
		t.Errorf("%+v", got)
	}
}

func TestListsOfTargetsAreChecked(t *testing.T) {
	const exactlyOne = "exactly one of token"
	for name, c := range map[string]struct{ body, field, detail string }{
		"empty":                   {`{"platform":"apns","tokens":[]}`, "tokens", "1 to 1,000"},
		"too many":                {tokens(1001), "tokens", "1 to 1,000"},
		"no subscriptions":        {`{"platform":"webpush","subscriptions":[]}`, "subscriptions", "1 to 1,000"},
		"token and tokens":        {`{"platform":"apns","token":"` + canary + `","tokens":["00"]}`, "tokens", exactlyOne},
		"tokens and topic":        {`{"platform":"fcm","tokens":["` + canary + `"],"topic":"t"}`, "topic", exactlyOne},
		"two lists":               {`{"platform":"fcm","tokens":["` + canary + `"],"installations":[]}`, "installations", exactlyOne},
		"token and empty list":    {`{"platform":"apns","token":"` + canary + `","tokens":[]}`, "tokens", exactlyOne},
		"a text":                  {`{"platform":"apns","tokens":"` + canary + `"}`, "tokens", "must be a list"},
		"a number as entry":       {`{"platform":"apns","tokens":["` + canary + `",1]}`, "tokens[1]", "must be a string"},
		"an entry of another":     {`{"platform":"webpush","subscriptions":[{},"` + canary + `"]}`, "subscriptions[1]", "must be an object"},
		"a number in an entry":    {`{"platform":"webpush","subscriptions":[{"keys":{"auth":1}}]}`, "subscriptions[0].keys.auth", "must be a string"},
		"no platform":             {`{"tokens":["` + canary + `"]}`, "platform", "apns"},
		"null is absent":          {`{"platform":"apns","tokens":null}`, "token", exactlyOne},
		"an invalid common field": {`{"platform":"apns","tokens":["00"],"retry":{"attempts":0}}`, "retry.attempts", "1 to 10"},
	} {
		ts := newTestAPI(t)
		w := ts.request("POST", singlePath, c.body)
		if p := ts.wantProblem(w, 400, "invalid-field"); p.Field != c.field || !strings.Contains(p.Detail, c.detail) || strings.Contains(w.Body.String(), canary) {
			t.Errorf("%s: %s", name, w.Body)
		}
		got := receipts(t, ts.request("POST", batchPath, c.body+"\n"+validBody, ndjson).Body)
		if r := got[0]; r.Status != "refused" || r.Field != c.field || r.TargetIndex != nil || got[1].Status != "accepted" {
			t.Errorf("%s: in a batch %+v", name, got)
		}
		if ts.count() != 1 {
			t.Errorf("%s: sent", name)
		}
	}
	ts := newTestAPI(t)
	if got := targetReceipts(t, ts.request("POST", singlePath, tokens(1000)), 200); len(got) != 1000 || ts.count() != 1000 {
		t.Errorf("%d receipts, %d sent", len(got), ts.count())
	}
}

func TestInvalidTargetsDoNotAffectOthers(t *testing.T) {
	ts := newTestAPI(t)
	ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
		if n.Token == "x" {
			return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(&push.FieldError{Field: "token", Reason: "InvalidTarget", Allowed: "hex"})}
		}
		return accepted(n)
	}
	got := targetReceipts(t, ts.request("POST", singlePath, `{"platform":"apns","tokens":["00aa","","x","00AA",null,"11"]}`), 200)
	if statuses(got) != "accepted refused refused refused refused accepted" || ts.sentTokens() != "00aa 11 x" {
		t.Fatalf("%+v, sent %s", got, ts.sentTokens())
	}
	for i, want := range map[int]string{
		1: "tokens[1]: must not be empty",
		2: "tokens[2]: must be hex",
		3: "tokens[3]: must differ from tokens[0], to which it is sent",
		4: "tokens[4]: must not be empty",
	} {
		if got[i].Detail != want || got[i].Field != fmt.Sprintf("tokens[%d]", i) || got[i].Reason == "" {
			t.Errorf("%+v", got[i])
		}
	}
	if got := targetReceipts(t, ts.request("POST", singlePath, `{"platform":"apns","tokens":["",""]}`), 200); statuses(got) != "refused refused" {
		t.Errorf("%+v", got)
	}
}

// batchReceipts returns the statuses of a batch's receipts by index and target.
func batchReceipts(t testing.TB, w *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	got := map[string]string{}
	for lines := json.NewDecoder(w.Body); lines.More(); {
		var r receipt
		if err := lines.Decode(&r); err != nil || r.Index == nil {
			t.Fatalf("%+v: %v", r, err)
		}
		place := fmt.Sprint(*r.Index)
		if r.TargetIndex != nil {
			place += fmt.Sprintf("[%d]", *r.TargetIndex)
		}
		if _, twice := got[place]; twice {
			t.Fatalf("two receipts for %s", place)
		}
		got[place] = statuses([]receipt{r})
	}
	return got
}

func TestBatchItemsWithSeveralTargets(t *testing.T) {
	for media, body := range map[string]string{
		"application/x-ndjson": validBody + "\n" + threeTokens + "\n" + `{"platform":"apns","tokens":["33","33"]}`,
		"application/json":     "[" + validBody + "," + threeTokens + "," + `{"platform":"apns","tokens":["33","33"]}]`,
	} {
		ts := newTestAPI(t)
		got := batchReceipts(t, ts.request("POST", batchPath, body, "Content-Type: "+media))
		want := map[string]string{"0": "accepted", "1[0]": "accepted", "1[1]": "accepted", "1[2]": "accepted", "2[0]": "accepted", "2[1]": "refused"}
		if !maps.Equal(got, want) || ts.sentTokens() != "00aa 00ff 11bb 22cc 33" {
			t.Errorf("%s: %v, sent %s", media, got, ts.sentTokens())
		}
	}
}

func TestTargetsCountForTheLimitOfABatch(t *testing.T) {
	ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.Batch = 5 })
	got := batchReceipts(t, ts.request("POST", batchPath, threeTokens+"\n"+validBody+"\n"+threeTokens+"\n"+validBody, ndjson))
	want := map[string]string{"0[0]": "accepted", "0[1]": "accepted", "0[2]": "accepted", "1": "accepted", "2": "refused"}
	if !maps.Equal(got, want) || ts.count() != 4 {
		t.Errorf("%v", got)
	}
	ts.wantProblem(ts.request("POST", batchPath, tokens(6), ndjson), 413, "batch-too-large")
}

func TestMoreTargetsThanSlots(t *testing.T) {
	for _, headers := range [][]string{nil, {keyHeader}} {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.InFlight = 3 })
		if got := targetReceipts(t, ts.request("POST", singlePath, tokens(200), headers...), 200); len(got) != 200 || ts.count() != 200 {
			t.Errorf("%d receipts, %d sent", len(got), ts.count())
		}
	}
}

// forEachStorage runs a test without and with a queue.
func forEachStorage(t *testing.T, test func(t *testing.T, ts *testAPI)) {
	t.Run("without a queue", func(t *testing.T) { test(t, newTestAPI(t)) })
	t.Run("with a queue", func(t *testing.T) {
		ts, _ := newTestAPIWithStorage(t)
		test(t, ts)
	})
}

func TestRepeatedCallReplaysEachTarget(t *testing.T) {
	forEachStorage(t, func(t *testing.T, ts *testAPI) {
		failing := true
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			if failing && n.Token == "11bb" {
				return throttledReceipt(t.Context(), n)
			}
			return accepted(n)
		}
		if got := targetReceipts(t, ts.request("POST", singlePath, threeTokens, keyHeader), 200); statuses(got) != "accepted throttled accepted" {
			t.Fatalf("%+v", got)
		}
		failing = false
		w := ts.request("POST", singlePath, threeTokens, keyHeader)
		if got := targetReceipts(t, w, 200); statuses(got) != "accepted/replayed accepted accepted/replayed" || w.Header().Get("Idempotency-Replayed") != "" {
			t.Fatalf("%+v", got)
		}
		w = ts.request("POST", singlePath, threeTokens, keyHeader)
		if got := targetReceipts(t, w, 200); statuses(got) != "accepted/replayed accepted/replayed accepted/replayed" || w.Header().Get("Idempotency-Replayed") != "true" {
			t.Fatalf("%+v", got)
		}
		if ts.sentTokens() != "00aa 11bb 11bb 22cc" {
			t.Errorf("sent %s", ts.sentTokens())
		}
	})
}

func TestSameKeyWithOtherTargetsSendsNothing(t *testing.T) {
	forEachStorage(t, func(t *testing.T, ts *testAPI) {
		targetReceipts(t, ts.request("POST", singlePath, threeTokens, keyHeader), 200)
		for _, body := range []string{tokens(5), tokens(2), validBody, threeTokens + " "} {
			ts.wantProblem(ts.request("POST", singlePath, body, keyHeader), 422, "idempotency-key-reused")
		}
		if ts.count() != 3 {
			t.Errorf("sent %s", ts.sentTokens())
		}
	})
}

func TestConcurrentCallsWithSeveralTargetsSendOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			time.Sleep(time.Second)
			return accepted(n)
		}
		results := make(chan *httptest.ResponseRecorder, 2)
		for range 2 {
			go func() { results <- ts.request("POST", singlePath, tokens(100), keyHeader) }()
		}
		for range 2 {
			if got := targetReceipts(t, <-results, 200); len(got) != 100 {
				t.Errorf("%d receipts", len(got))
			}
		}
		if ts.count() != 100 {
			t.Errorf("%d sent", ts.count())
		}
	})
}

func TestTargetsAreQueued(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	w := ts.request("POST", singlePath, threeTokens, respondAsyncHeader, keyHeader)
	got := targetReceipts(t, w, 202)
	if statuses(got) != "queued queued queued" || store.count() != 3 || ts.sender.count() != 0 || w.Header().Get("Preference-Applied") != "respond-async" {
		t.Fatalf("%+v %v", got, w.Header())
	}
	for i, r := range got {
		if found, _, err := store.Find(t.Context(), "shop", r.ID); err != nil || found.Status() != push.StatusQueued {
			t.Errorf("%d: %+v, %v", i, found, err)
		}
	}
	if got := targetReceipts(t, ts.request("POST", singlePath, threeTokens, respondAsyncHeader, keyHeader), 202); statuses(got) != "queued/replayed queued/replayed queued/replayed" {
		t.Errorf("%+v", got)
	}
	ts.wantProblem(ts.request("POST", singlePath, tokens(5), respondAsyncHeader, keyHeader), 422, "idempotency-key-reused")
	if store.count() != 3 {
		t.Errorf("%d in the queue", store.count())
	}
	scheduled := strings.Replace(threeTokens, "{", `{"send_at":"+10m",`, 1)
	if got := targetReceipts(t, ts.request("POST", singlePath, scheduled, respondAsyncHeader), 202); statuses(got) != "scheduled scheduled scheduled" {
		t.Errorf("%+v", got)
	}
	ts.wantProblem(ts.request("POST", singlePath, scheduled), 400, "invalid-field")
	if got := targetReceipts(t, ts.request("POST", singlePath, tokens(1000), respondAsyncHeader), 202); len(got) != 1000 || store.count() != 1006 {
		t.Errorf("%d receipts, %d in the queue", len(got), store.count())
	}
	ts.wantProblem(newTestAPI(t).request("POST", singlePath, threeTokens, respondAsyncHeader), 501, "needs-queue")
}

func TestTargetsThatTheQueueRefuses(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	store.refuse = func(n *push.Notification) error {
		switch n.Token {
		case "00aa":
			return push.ErrQueueFull
		case "11bb":
			return &push.FieldError{Field: "token", Reason: "InvalidTarget", Allowed: "hex"}
		}
		return nil
	}
	got := targetReceipts(t, ts.request("POST", singlePath, threeTokens, respondAsyncHeader), 202)
	if statuses(got) != "unavailable refused queued" || got[0].Reason != "QueueFull" || got[1].Field != "tokens[1]" || got[1].Detail != "tokens[1]: must be hex" {
		t.Errorf("%+v", got)
	}
}

func TestBatchItemsWithSeveralTargetsAndKeys(t *testing.T) {
	withKey := func(body, key string) string { return strings.Replace(body, "{", `{"idempotency_key":"`+key+`",`, 1) }
	batch := withKey(threeTokens, "a") + "\n" + withKey(validBody, "b") + "\n" + withKey(tokens(150), "c")
	check := func(t *testing.T, ts *testAPI, count func() int, headers ...string) {
		for round, want := range []string{"", "/replayed"} {
			got := batchReceipts(t, ts.request("POST", batchPath, batch, append(headers, ndjson)...))
			if len(got) != 154 || count() != 154 {
				t.Fatalf("round %d: %d receipts, %d sent", round, len(got), count())
			}
			for place, status := range got {
				if replayed := strings.HasSuffix(status, "/replayed"); replayed != (want != "") {
					t.Errorf("round %d: %s %s", round, place, status)
				}
			}
		}
		before := count()
		for place, status := range batchReceipts(t, ts.request("POST", batchPath, withKey(tokens(2), "c"), append(headers, ndjson)...)) {
			if status != "refused" || count() != before {
				t.Errorf("the same key with other targets: %s %s, %d sent", place, status, count()-before)
			}
		}
	}
	forEachStorage(t, func(t *testing.T, ts *testAPI) { check(t, ts, ts.count) })
	t.Run("queued", func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		check(t, ts, store.count, respondAsyncHeader)
	})
}

func TestTargetsStopWhenTheClientDisconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t)
		ctx, cancel := context.WithCancel(t.Context())
		ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
			<-ctx.Done()
			return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
		}
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		if w := ts.requestWith(ctx, "POST", singlePath, strings.NewReader(threeTokens)); w.Body.Len() != 0 || time.Since(start) != time.Second {
			t.Errorf("after %s: %s", time.Since(start), w.Body)
		}
	})
}

func TestPreferWaitLimitsAllTargets(t *testing.T) {
	for _, headers := range [][]string{{"Prefer: wait=3"}, {"Prefer: wait=3", keyHeader}} {
		synctest.Test(t, func(t *testing.T) {
			ts := newTestAPI(t)
			ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
				<-ctx.Done()
				return ended(n, push.Outcome{Verdict: push.Unavailable})
			}
			start := time.Now()
			got := targetReceipts(t, ts.request("POST", singlePath, threeTokens, headers...), 200)
			if statuses(got) != "unavailable unavailable unavailable" || time.Since(start) > 3*time.Second {
				t.Errorf("after %s: %+v", time.Since(start), got)
			}
		})
	}
}

func TestPanicOfOneTarget(t *testing.T) {
	for _, headers := range [][]string{nil, {keyHeader}} {
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			if n.Token == "11bb" {
				panic(canary)
			}
			return accepted(n)
		}
		got := targetReceipts(t, ts.request("POST", singlePath, threeTokens, headers...), 200)
		if statuses(got) != "accepted unknown accepted" || got[1].Reason != "Internal" || got[1].ID == "" {
			t.Errorf("%+v", got)
		}
	}
}
