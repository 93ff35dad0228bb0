// SPDX-License-Identifier: Apache-2.0

package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/rest"
)

func TestAVerdictOnTheNotificationIs200WhateverItIs(t *testing.T) {
	for verdict, http := range map[push.Verdict]int{push.Accepted: 200, push.Unregistered: 410, push.Refused: 400, push.Expired: 0} {
		d := open(t)
		d.play = func(_ context.Context, n *push.Notification) push.Receipt {
			return ended(n, push.Outcome{Verdict: verdict, HTTP: http, Reason: "Word"})
		}
		w := d.ask("POST", single, good)
		var r receipt
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != 200 || r.Status != verdict.String() || len(r.Attempts) != 1 {
			t.Errorf("%s: %d %s", verdict, w.Code, w.Body)
		}
	}
}

func TestWithoutAVerdictTheProblemHoldsTheReceiptAndSaysWhenToComeBack(t *testing.T) {
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
		d := open(t)
		d.play = func(_ context.Context, n *push.Notification) push.Receipt {
			return ended(n, push.Outcome{Verdict: verdict, Reason: "WORD", RetryAfter: 1200 * time.Millisecond})
		}
		w := d.ask("POST", single, good)
		p := d.problem(w, want.status, want.slug)
		if p.Receipt == nil || p.Receipt.ID != d.sent[0].ID || len(p.Receipt.Attempts) != 1 || !strings.Contains(p.Detail, "WORD") {
			t.Errorf("%s: %s", verdict, w.Body)
		}
		if got := w.Header().Get("Retry-After"); got != want.retry {
			t.Errorf("%s: Retry-After %q, want %q", verdict, got, want.retry)
		}
	}
}

func TestWhatTheProvidersGrammarRefusesIsTheCallersProblem(t *testing.T) {
	for reason, want := range map[string]struct {
		status int
		slug   string
	}{"InvalidNotification": {400, "invalid-field"}, "PayloadTooLarge": {413, "payload-too-large"}} {
		d := open(t)
		d.play = func(_ context.Context, n *push.Notification) push.Receipt {
			return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(&push.FieldError{Field: "token", Reason: reason, Allowed: "hex"})}
		}
		p := d.problem(d.ask("POST", single, good), want.status, want.slug)
		if p.Field != "token" || p.Detail != "token: must be hex" {
			t.Errorf("%+v", p)
		}
		r := receipts(t, d.ask("POST", batch, good, ndjson).Body)[0]
		if r.Status != "refused" || r.Field != "token" || r.Detail != p.Detail || r.Reason != reason || r.ID == "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestACallerWhoLeftIsToldNothing(t *testing.T) {
	d := open(t)
	ctx, leave := context.WithCancel(t.Context())
	d.play = func(ctx context.Context, n *push.Notification) push.Receipt {
		leave()
		<-ctx.Done()
		return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
	}
	w := d.do(ctx, "POST", single, strings.NewReader(good))
	if w.Body.Len() != 0 {
		t.Fatalf("%s", w.Body)
	}
}

func TestAnUnknownPathOrMethodIsAProblemToo(t *testing.T) {
	d := open(t)
	for _, path := range []string{"/", "/v1", "/v1/apps/shop", "/v2/apps/shop/notifications", single + "/a/b", "/metrics", "/debug/pprof"} {
		d.problem(d.ask("GET", path, ""), 404, "not-found")
	}
	w := d.ask("PUT", single+"/x", "")
	d.problem(w, 405, "method-not-allowed")
	if got := w.Header().Values("Allow"); len(got) != 2 || got[0] != "GET" || got[1] != "DELETE" {
		t.Errorf("Allow %v", got)
	}
	d.problem(d.ask("BREW", "/livez", ""), 405, "method-not-allowed")
	if w := d.ask("OPTIONS", single, ""); w.Code != 204 || w.Header().Get("Allow") != "POST" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := d.ask("HEAD", "/livez", ""); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
}

func TestHealthTellsWhatIsMissing(t *testing.T) {
	var missing []rest.NotReady
	d := open(t, func(cfg *rest.Config) {
		cfg.Ready = func() []rest.NotReady { return missing }
		cfg.Status = func() any { return map[string]int{"pools": 2} }
	})
	for path, want := range map[string]string{"/livez": `{"status":"alive"}`, "/readyz": `{"status":"ready"}`, "/healthz": `{"status":"ready"}`,
		"/v1/status": `{"pools":2}`} {
		if w := d.ask("GET", path, "", "Authorization: Bearer "+readKey); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	missing = []rest.NotReady{{Name: "shop/fcm", Reason: "no access token"}}
	for _, path := range []string{"/readyz", "/healthz"} {
		w := d.ask("GET", path, "", "Authorization: none")
		if w.Code != 503 || !strings.Contains(w.Body.String(), `"not_ready":[{"name":"shop/fcm","reason":"no access token"}]`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := d.ask("GET", "/livez", "", "Authorization: none"); w.Code != 200 {
		t.Error("a provider's trouble is no reason for a restart")
	}
}

func TestARequestKeepsItsOwnIDIfThatIsPlainAndGetsOneIfNot(t *testing.T) {
	d := open(t)
	if got := d.ask("GET", "/livez", "", "X-Request-ID: caller-1.a_B").Header().Get("X-Request-ID"); got != "caller-1.a_B" {
		t.Error(got)
	}
	for _, id := range []string{"", "a b", `a"b`, "é", strings.Repeat("x", 129)} {
		if got := d.ask("GET", "/livez", "", "X-Request-ID: "+id).Header().Get("X-Request-ID"); len(got) != 36 {
			t.Errorf("%q became %q", id, got)
		}
	}
}

func TestAValidTraceParentReachesTheSenderAndNoOtherDoes(t *testing.T) {
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for parent, valid := range map[string]bool{
		"00-" + id + "-" + span + "-01":                            true,
		"cc-" + id + "-" + span + "-01-more":                       true,
		"":                                                         false,
		"00-" + id + "-" + span:                                    false,
		"00-" + id + "-" + span + "-01-more":                       false,
		"ff-" + id + "-" + span + "-01":                            false,
		"00-" + strings.ToUpper(id) + "-" + span + "-01":           false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":       false,
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":         false,
		"cc-" + id + "-" + span + "-01-" + strings.Repeat("x", 99): false,
	} {
		var got string
		d := open(t)
		d.play = func(ctx context.Context, n *push.Notification) push.Receipt {
			got = rest.TraceParent(ctx)
			return accepted(n)
		}
		d.ask("POST", single, good, "traceparent: "+parent)
		if valid && got != parent || !valid && got != "" {
			t.Errorf("%q became %q", parent, got)
		}
		d.ask("POST", batch, good, ndjson, "traceparent: "+parent)
		if valid && got != parent {
			t.Errorf("batch: %q became %q", parent, got)
		}
	}
}

func TestAPanicIsAProblemAndALogLineWithoutWhatWasSent(t *testing.T) {
	var log bytes.Buffer
	d := open(t, func(cfg *rest.Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	d.play = func(_ context.Context, n *push.Notification) push.Receipt { panic("cannot send " + n.Title) }
	body := `{"platform":"apns","token":"00","title":"` + canary + `"}`
	p := d.problem(d.ask("POST", single, body), 500, "internal")
	if !strings.Contains(log.String(), p.RequestID) || !strings.Contains(log.String(), "level=ERROR") || strings.Contains(log.String(), canary) {
		t.Errorf("log: %s", &log)
	}
	got := receipts(t, d.ask("POST", batch, body+"\n"+`{}`, ndjson).Body)
	if len(got) != 2 || got[0].Status != "unknown" || got[0].Reason != "Internal" || got[0].ID == "" {
		t.Errorf("%+v", got)
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("log: %s", &log)
	}
}

func TestAHandlerThatAbortsIsNotHeldBack(t *testing.T) {
	d := open(t)
	d.play = func(context.Context, *push.Notification) push.Receipt { panic(http.ErrAbortHandler) }
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Error("it was swallowed")
		}
	}()
	d.ask("POST", single, good)
}

func TestALogLineTellsTheCallAndNoSecret(t *testing.T) {
	var log bytes.Buffer
	d := open(t, func(cfg *rest.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	d.ask("POST", single+"?token="+canary, `{"platform":"apns","token":"`+canary+`"}`, "X-Request-ID: r1")
	d.ask("GET", "/v1/apps/shop/notifications/"+canary, "")
	d.ask("GET", "/"+canary, "")
	for _, want := range []string{"method=POST", "route=/v1/apps/{app}/notifications ", "status=200", "app=shop", "key=backend", "request_id=r1", "status=403", "status=404"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in %s", want, &log)
		}
	}
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), sendKey) {
		t.Errorf("a secret in %s", &log)
	}
}
