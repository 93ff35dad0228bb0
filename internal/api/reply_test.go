// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

func TestVerdictIsStatus200(t *testing.T) {
	for verdict, http := range map[push.Verdict]int{push.Accepted: 200, push.Unregistered: 410, push.Refused: 400, push.Expired: 0} {
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			return ended(n, push.Outcome{Verdict: verdict, HTTP: http, Reason: "Word"})
		}
		w := ts.request("POST", singlePath, validBody)
		var r receipt
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != 200 || r.Status != verdict.String() || len(r.Attempts) != 1 {
			t.Errorf("%s: %d %s", verdict, w.Code, w.Body)
		}
	}
}

func TestProblemHoldsReceiptAndRetryAfter(t *testing.T) {
	for verdict, want := range map[push.Verdict]struct {
		status int
		slug   string
		retry  string
	}{
		push.Throttled:    {429, "throttled", "2"},
		push.Unauthorized: {502, "unauthorized", ""},
		push.Unavailable:  {503, "unavailable", "2"},
		push.Unsent:       {503, "unavailable", "2"},
		push.Abandoned:    {503, "unavailable", "2"},
		push.Unknown:      {504, "unknown", ""},
	} {
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			return ended(n, push.Outcome{Verdict: verdict, Reason: "WORD", RetryAfter: 1200 * time.Millisecond})
		}
		w := ts.request("POST", singlePath, validBody)
		p := ts.wantProblem(w, want.status, want.slug)
		if p.Receipt == nil || p.Receipt.ID != ts.sent[0].ID || len(p.Receipt.Attempts) != 1 || !strings.Contains(p.Detail, "WORD") {
			t.Errorf("%s: %s", verdict, w.Body)
		}
		if got := w.Header().Get("Retry-After"); got != want.retry {
			t.Errorf("%s: Retry-After %q, want %q", verdict, got, want.retry)
		}
	}
}

func TestProblemDetailSaysWhatToFix(t *testing.T) {
	for verdict, want := range map[push.Verdict]string{
		push.Unauthorized: "WORD: enable the API", push.Unavailable: "WORD: enable the API; send it again after the time in Retry-After",
	} {
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			return ended(n, push.Outcome{Verdict: verdict, Reason: "WORD", Detail: "enable the API"})
		}
		var p struct{ Detail string }
		if err := json.Unmarshal(ts.request("POST", singlePath, validBody).Body.Bytes(), &p); err != nil || p.Detail != want {
			t.Errorf("%s: %q, %v", verdict, p.Detail, err)
		}
	}
}

func TestNotificationInvalidForProviderIsClientError(t *testing.T) {
	for reason, want := range map[string]struct {
		status int
		slug   string
	}{"InvalidNotification": {400, "invalid-field"}, "PayloadTooLarge": {413, "payload-too-large"}} {
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(&push.FieldError{Field: "token", Reason: reason, Allowed: "hex"})}
		}
		p := ts.wantProblem(ts.request("POST", singlePath, validBody), want.status, want.slug)
		if p.Field != "token" || p.Detail != "token: must be hex" {
			t.Errorf("%+v", p)
		}
		r := receipts(t, ts.request("POST", batchPath, validBody, ndjson).Body)[0]
		if r.Status != "refused" || r.Field != "token" || r.Detail != p.Detail || r.Reason != reason || r.ID == "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestNoResponseAfterClientDisconnect(t *testing.T) {
	ts := newTestAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
		cancel()
		<-ctx.Done()
		return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
	}
	w := ts.requestWith(ctx, "POST", singlePath, strings.NewReader(validBody))
	if w.Body.Len() != 0 {
		t.Fatalf("%s", w.Body)
	}
}

func TestUnknownPathOrMethod(t *testing.T) {
	ts := newTestAPI(t)
	for _, path := range []string{"/", "/v1", "/v1/apps/shop", "/v2/apps/shop/notifications", singlePath + "/a/b", "/metrics", "/debug/pprof"} {
		ts.wantProblem(ts.request("GET", path, ""), 404, "not-found")
	}
	for path, status := range map[string]int{
		"/v1/apps//notifications": 403, singlePath + "/": 404, "/v1/apps/shop/x/notifications": 404, "/v1/apps/shop%2Fx/notifications": 403, "/v1/apps/notifications": 404,
		"/v1/apps/%73hop/notifications": 403, "/v1/apps/shop/notifications?x=1": 200,
	} {
		if w := ts.request("POST", path, validBody); w.Code != status {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	w := ts.request("PUT", singlePath+"/x", "")
	ts.wantProblem(w, 405, "method-not-allowed")
	if got := w.Header().Values("Allow"); len(got) != 2 || got[0] != "GET" || got[1] != "DELETE" {
		t.Errorf("Allow %v", got)
	}
	ts.wantProblem(ts.request("BREW", "/livez", ""), 405, "method-not-allowed")
	if w := ts.request("OPTIONS", singlePath, ""); w.Code != 204 || strings.Join(w.Header().Values("Allow"), " ") != "GET POST" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ts.request("HEAD", "/livez", ""); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
}

func TestReadinessListsWhatIsMissing(t *testing.T) {
	var missing []api.NotReady
	ts := newTestAPI(t, func(cfg *testConfig) {
		cfg.Ready = func() []api.NotReady { return missing }
		cfg.Status = func([]string) any { return map[string]int{"pools": 2} }
	})
	for path, want := range map[string]string{"/livez": `{"status":"alive"}`, "/readyz": `{"status":"ready"}`, "/healthz": `{"status":"ready"}`,
		"/v1/status": `{"pools":2}`} {
		if w := ts.request("GET", path, "", "Authorization: Bearer "+readKey); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	missing = []api.NotReady{{Name: "shop/fcm", Reason: "no access token"}}
	for _, path := range []string{"/readyz", "/healthz"} {
		w := ts.request("GET", path, "", "Authorization: none")
		if w.Code != 503 || !strings.Contains(w.Body.String(), `"not_ready":[{"name":"shop/fcm","reason":"no access token"}]`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := ts.request("GET", "/livez", "", "Authorization: none"); w.Code != 200 {
		t.Error("liveness must not depend on providers")
	}
}

func TestRequestID(t *testing.T) {
	ts := newTestAPI(t)
	if got := ts.request("GET", "/livez", "", "X-Request-ID: caller-1.a_B").Header().Get("X-Request-ID"); got != "caller-1.a_B" {
		t.Error(got)
	}
	for _, id := range []string{"", "a b", `a"b`, "é", strings.Repeat("x", 129)} {
		if got := ts.request("GET", "/livez", "", "X-Request-ID: "+id).Header().Get("X-Request-ID"); len(got) != 36 {
			t.Errorf("%q became %q", id, got)
		}
	}
}

func TestTraceParentReachesSenderOnlyIfValid(t *testing.T) {
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	const state = "vendor=t61rcWkgMzE, other=1"
	for parent, valid := range map[string]bool{
		"00-" + id + "-" + span + "-01":                            true,
		"cc-" + id + "-" + span + "-01-more":                       true, // passed on as version 00
		"":                                                         false,
		"00-" + id + "-" + span:                                    false,
		"00-" + id + "-" + span + "-01-more":                       false,
		"ff-" + id + "-" + span + "-01":                            false,
		"00-" + strings.ToUpper(id) + "-" + span + "-01":           false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":       false,
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":         false,
		"cc-" + id + "-" + span + "-01-" + strings.Repeat("x", 99): false,
	} {
		want := push.TraceContext{}
		if valid {
			want = push.TraceContext{TraceParent: "00-" + id + "-" + span + "-01", TraceState: state}
		}
		var got push.TraceContext
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			got = n.Trace
			return accepted(n)
		}
		ts.request("POST", singlePath, validBody, "traceparent: "+parent, "tracestate: "+state)
		if got != want {
			t.Errorf("%q became %q", parent, got)
		}
		ts.request("POST", batchPath, validBody, ndjson, "traceparent: "+parent, "tracestate: "+state)
		if got != want {
			t.Errorf("batch: %q became %q", parent, got)
		}
	}
}

func TestPanicIsLoggedWithoutRequestContent(t *testing.T) {
	var log bytes.Buffer
	ts := newTestAPI(t, func(cfg *testConfig) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	ts.respond = func(_ context.Context, n *push.Notification) push.Receipt { panic("cannot send " + n.Title) }
	body := `{"platform":"apns","token":"00","title":"` + canary + `"}`
	p := ts.wantProblem(ts.request("POST", singlePath, body), 500, "internal")
	if !strings.Contains(log.String(), p.RequestID) || !strings.Contains(log.String(), "level=ERROR") || strings.Contains(log.String(), canary) {
		t.Errorf("log: %s", &log)
	}
	got := receipts(t, ts.request("POST", batchPath, body+"\n"+`{}`, ndjson).Body)
	if len(got) != 2 || got[0].Status != "unknown" || got[0].Reason != "Internal" || got[0].ID == "" {
		t.Errorf("%+v", got)
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("log: %s", &log)
	}
}

func TestErrAbortHandlerIsPassedOn(t *testing.T) {
	ts := newTestAPI(t)
	ts.respond = func(context.Context, *push.Notification) push.Receipt { panic(http.ErrAbortHandler) }
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Error("the panic did not reach the server")
		}
	}()
	ts.request("POST", singlePath, validBody)
}

func TestRequestLogHasNoSecrets(t *testing.T) {
	var log bytes.Buffer
	ts := newTestAPI(t, func(cfg *testConfig) {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	ts.request("POST", singlePath+"?token="+canary, `{"platform":"apns","token":"`+canary+`"}`, "X-Request-ID: r1")
	ts.request("GET", "/v1/apps/shop/notifications/"+canary, "")
	ts.request("GET", "/"+canary, "")
	for _, want := range []string{"method=POST", "route=/v1/apps/{app}/notifications ", "status=200", "app=shop", "key=backend", "request_id=r1", "status=403", "status=404"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s: %s", want, &log)
		}
	}
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), sendKey) {
		t.Errorf("the log contains a secret: %s", &log)
	}
}
