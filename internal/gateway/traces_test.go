// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/tracing/tracingtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// tracingBlock returns a configuration that traces everything.
func tracingBlock(r *tracingtest.Receiver, more string) string {
	return fmt.Sprintf("tracing: {endpoint: '%s', sample_ratio: 100%%%s}\n", r.URL, more)
}

const (
	callersTrace  = "0af7651916cd43dd8448eb211c80319c"
	callersSpan   = "b7ad6b7169203331"
	callersParent = "00-" + callersTrace + "-" + callersSpan + "-01"
)

// TestTraceOfAsynchronousNotification follows a notification through the queue, a failed attempt, a
// successful one, and a webhook.
func TestTraceOfAsynchronousNotification(t *testing.T) {
	s, dir, receiver, hook := newMockEnv(t), t.TempDir(), tracingtest.Start(t, false), newWebhookReceiver(t)
	h := s.start(t, s.webhookConfig(dir, hook.block(t, "crm", ""))+tracingBlock(receiver, ""))
	if err := s.mock.SetScript(mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.APNs, Status: 500, Reason: "InternalServerError", Times: 1}}}); err != nil {
		t.Fatal(err)
	}
	_, accepted := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async", "Traceparent", callersParent, "Tracestate", "vendor=1")
	id := fmt.Sprint(accepted["id"])
	testwait.Until(t, func() bool { return hook.received(id) }, "the webhook has the event")
	spans := receiver.Wait(t, "webhook shop/crm", 1)
	t.Logf("%s", tracingtest.Text(spans, callersTrace))
	if n := len(spans) - len(tracingtest.Named(spans, "wait endpoint")); n != 5 { // the pool connects for the first notification
		t.Fatalf("%d spans", n)
	}
	call := tracingtest.Named(spans, "POST /v1/apps/{app}/notifications")[0]
	checkSpan(t, call, "server", callersSpan, map[string]string{
		"http.request.method": "POST", "http.route": "/v1/apps/{app}/notifications", "http.response.status_code": "202", "url.scheme": "http",
		"network.protocol.version": "1.1", "messaging.message.id": id, "sluice.app": "shop",
	})
	common := map[string]string{"messaging.system": "apns", "messaging.message.id": id, "sluice.app": "shop", "sluice.lane": "normal"}
	wait := tracingtest.Named(spans, "wait queue")[0]
	checkSpan(t, wait, "internal", call.ID, common)
	attempts := tracingtest.Named(spans, "send apns")
	for i, want := range []map[string]string{
		{"sluice.attempt": "1", "sluice.verdict": "unavailable", "sluice.reason": "InternalServerError", "http.response.status_code": "500", "error.type": "unavailable"},
		{"sluice.attempt": "2", "sluice.verdict": "accepted", "http.response.status_code": "200", "http.request.resend_count": "1"},
	} {
		a := attempts[i]
		checkSpan(t, a, "client", call.ID, common)
		checkSpan(t, a, "client", call.ID, want)
		if a.Attributes["server.address"] != "127.0.0.1" || a.Attributes["server.address"]+":"+a.Attributes["server.port"] != a.Attributes["sluice.endpoint"] || a.Attributes["network.local.port"] == "" || a.Failed != (i == 0) {
			t.Errorf("%+v", a)
		}
	}
	if attempts[1].Start.Before(attempts[0].End) || attempts[0].Start.Before(wait.Start) {
		t.Error("the spans are not in the order of the attempts")
	}
	post := tracingtest.Named(spans, "webhook shop/crm")[0]
	checkSpan(t, post, "client", call.ID, map[string]string{"sluice.webhook": "shop/crm", "http.response.status_code": "200", "messaging.batch.message_count": "1"})
	if got := hook.traceParents(); len(got) != 1 || got[0] != "00-"+callersTrace+"-"+post.ID+"-01" {
		t.Errorf("traceparent %q", got)
	}
}

// TestTraceContinuesAfterRestart stops a gateway after a failed attempt. The next one continues the trace
// with what the queue has stored.
func TestTraceContinuesAfterRestart(t *testing.T) {
	s, dir, receiver, hook := newMockEnv(t), t.TempDir(), tracingtest.Start(t, false), newWebhookReceiver(t)
	text := s.webhookConfig(dir, hook.block(t, "crm", "")) + tracingBlock(receiver, "")
	text = strings.Replace(text, "retry: {", "retry: {attempts: 1, ", 1)
	h := s.start(t, text)
	script := func(faults ...mockprovider.Fault) {
		if err := s.mock.SetScript(mockprovider.Script{Faults: faults}); err != nil {
			t.Fatal(err)
		}
	}
	script(mockprovider.Fault{Service: mockprovider.APNs, Status: 503, Reason: "ServiceUnavailable"})
	_, accepted := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async", "Traceparent", callersParent, "Tracestate", "vendor=1")
	testwait.Until(t, func() bool { return s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}) > 0 }, "the first attempt")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	before := receiver.Spans()
	call, failed := tracingtest.Named(before, "POST /v1/apps/{app}/notifications"), tracingtest.Named(before, "send apns")
	if len(call) != 1 || len(failed) == 0 || len(tracingtest.Named(before, "webhook shop/crm")) != 0 {
		t.Fatalf("%+v", before)
	}
	script()
	h = s.start(t, text)
	testwait.Until(t, func() bool { return hook.received(accepted["id"]) }, "the webhook has the event")
	spans := receiver.Wait(t, "webhook shop/crm", 1)
	attempts, waits := tracingtest.Named(spans, "send apns"), tracingtest.Named(spans, "wait queue")
	last := attempts[len(attempts)-1]
	checkSpan(t, last, "client", call[0].ID, map[string]string{"sluice.verdict": "accepted", "messaging.message.id": fmt.Sprint(accepted["id"])})
	if len(attempts) != len(failed)+1 || len(waits) < len(attempts) || waits[len(waits)-1].Start.Before(failed[0].End.Add(-time.Millisecond)) { // records have milliseconds
		t.Errorf("%s", tracingtest.Text(spans, callersTrace))
	}
	if got := hook.traceParents(); len(got) != 1 || !strings.HasPrefix(got[0], "00-"+callersTrace+"-") || strings.Contains(got[0], call[0].ID) {
		t.Errorf("traceparent %q", got)
	}
}

// TestTraceContinuesInCluster lets one gateway accept a notification and end before it is due. The other one
// sends it in the same trace, with what the log has stored.
func TestTraceContinuesInCluster(t *testing.T) {
	s, url := newMockEnv(t), jetstreamtest.StartServer(t)
	start := func() (testGateway, *tracingtest.Receiver) {
		receiver := tracingtest.Start(t, false)
		return s.start(t, listenConfig+slowTimeouts+fmt.Sprintf("queue: {nats: {url: '%s', replicas: 1}}\n", url)+"apps:\n"+s.appBlock("shop", s.apnsBlock())+tracingBlock(receiver, "")), receiver
	}
	accepting, acceptingSpans := start()
	sending, sendingSpans := start()
	code, accepted := accepting.request("POST", "", apnsNotificationWith(deviceToken, `,"send_at":"+2s"`), "Prefer", "respond-async", "Traceparent", callersParent, "Tracestate", "vendor=1")
	if code != 202 {
		t.Fatal(code, accepted)
	}
	if err := accepting.stop(); err != nil {
		t.Fatal(err)
	}
	sending.waitStatus(accepted["id"], "accepted")
	call := tracingtest.Named(acceptingSpans.Wait(t, "POST /v1/apps/{app}/notifications", 1), "POST /v1/apps/{app}/notifications")[0]
	checkSpan(t, call, "server", callersSpan, map[string]string{"messaging.message.id": fmt.Sprint(accepted["id"])})
	spans := sendingSpans.Wait(t, "send apns", 1)
	t.Logf("%s", tracingtest.Text(spans, callersTrace))
	for name, kind := range map[string]string{"send apns": "client", "wait queue": "internal"} {
		found := tracingtest.Named(spans, name)
		if len(found) != 1 {
			t.Fatalf("%d spans %s, want 1", len(found), name)
		}
		checkSpan(t, found[0], kind, call.ID, map[string]string{"messaging.message.id": fmt.Sprint(accepted["id"]), "sluice.app": "shop"})
	}
	if early := tracingtest.Named(acceptingSpans.Spans(), "send apns"); len(early) != 0 {
		t.Errorf("the first gateway has sent: %+v", early)
	}
}

// TestTraceOfSynchronousCall exports over HTTP with TLS and a secret header. Then it reloads: with another
// secret, without tracing, and with it again.
func TestTraceOfSynchronousCall(t *testing.T) {
	s, receiver := newMockEnv(t), tracingtest.Start(t, true)
	file := filepath.Join(t.TempDir(), "headers")
	writeHeaders := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeHeaders("Authorization: Bearer 5ecre7-1\n\nX-Team: push\n")
	plain := listenConfig + slowTimeouts + "zone: tokyo-a\napps:\n" + s.appBlock("shop", s.apnsBlock())
	text := plain + tracingBlock(receiver, fmt.Sprintf(", protocol: http, ca_file: %q, headers_file: %q, service_name: gateways", receiver.CAFile(t), file))
	h := s.start(t, text)
	calls := 0
	send := func(traced bool) {
		t.Helper()
		if code, got := h.request("POST", "", apnsNotification(deviceToken)); code != 200 {
			t.Fatal(code, got)
		}
		if traced {
			calls++
			receiver.Wait(t, "send apns", calls)
		}
	}
	reload := func(text, want string) {
		t.Helper()
		changes, err := h.gw.Reload(parse(t, text))
		if err != nil || !strings.Contains(strings.Join(changes, "\n"), want) || strings.Contains(fmt.Sprint(changes), "5ecre7") {
			t.Errorf("%q, %v", changes, err)
		}
	}
	send(true)
	spans := receiver.Wait(t, "POST /v1/apps/{app}/notifications", 1)
	call, attempt := tracingtest.Named(spans, "POST /v1/apps/{app}/notifications")[0], tracingtest.Named(spans, "send apns")[0]
	if call.Parent != "" || attempt.Parent != call.ID || attempt.TraceID != call.TraceID || call.Attributes["http.response.status_code"] != "200" {
		t.Errorf("%s", tracingtest.Text(spans, call.TraceID))
	}
	if r := call.Resource; r["service.name"] != "gateways" || r["cloud.availability_zone"] != "tokyo-a" || r["service.version"] == "" || r["service.instance.id"] == "" {
		t.Errorf("%v", r)
	}
	lastHeader := func(name string) string {
		headers := receiver.Headers()
		return headers[len(headers)-1].Get(name)
	}
	if lastHeader("Authorization") != "Bearer 5ecre7-1" || lastHeader("X-Team") != "push" {
		t.Errorf("%v", receiver.Headers())
	}
	reload(text, "")
	writeHeaders("authorization:Bearer 5ecre7-2")
	reload(text, "tracing: reconnecting")
	send(true)
	if lastHeader("Authorization") != "Bearer 5ecre7-2" {
		t.Errorf("%v", receiver.Headers())
	}
	reload(plain, "tracing.endpoint: "+receiver.URL+" → (none)")
	send(false)
	reload(text, "tracing.endpoint: (none) → "+receiver.URL)
	send(true)
	if n := len(tracingtest.Named(receiver.Spans(), "send apns")); n != calls {
		t.Errorf("%d attempts have spans, want %d", n, calls)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(tracingtest.Named(receiver.Spans(), "POST /v1/apps/{app}/notifications")); n != calls {
		t.Errorf("%d calls have spans after the drain, want %d", n, calls)
	}
}

// TestTraceOfBatch sends batches and a notification to several targets, with and without the queue. Of
// a call that is traced, the first notification is, and others by the sample ratio.
func TestTraceOfBatch(t *testing.T) {
	const items = 200
	var lines strings.Builder
	for i := range items {
		lines.WriteString(apnsNotification(fmt.Sprintf("%02x%s", i, deviceToken[2:])) + "\n")
	}
	for name, c := range map[string]struct {
		settings, path, prefer string
		call                   string
		attempts               int
	}{
		"everything": {"100%", "/batch", "", "POST /v1/apps/{app}/notifications/batch", items},
		"first":      {"0%", "/batch", "", "POST /v1/apps/{app}/notifications/batch", 1},
		"queue":      {"100%", "/batch", "respond-async", "POST /v1/apps/{app}/notifications/batch", items},
		"targets":    {"100%", "", "", "POST /v1/apps/{app}/notifications", 3},
	} {
		t.Run(name, func(t *testing.T) {
			s, receiver := newMockEnv(t), tracingtest.Start(t, false)
			h := s.start(t, listenConfig+slowTimeouts+fmt.Sprintf("tracing: {endpoint: '%s', sample_ratio: %s}\nqueue: {dir: %q}\napps:\n", receiver.URL, c.settings, t.TempDir())+s.appBlock("shop", s.apnsBlock()))
			body, media := lines.String(), "application/x-ndjson"
			if c.path == "" {
				body, media = fmt.Sprintf(`{"platform":"apns","tokens":["a0%[1]s","a1%[1]s","a2%[1]s"],"title":"t"}`, deviceToken[2:]), "application/json"
			}
			request, err := http.NewRequest("POST", h.url+"/v1/apps/shop/notifications"+c.path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range map[string]string{"Authorization": "Bearer " + h.key, "Content-Type": media, "Prefer": c.prefer, "Traceparent": callersParent, "Tracestate": "vendor=1"} {
				request.Header.Set(name, value)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, response.Body)
			if err := errors.Join(err, response.Body.Close()); err != nil || response.StatusCode/100 != 2 {
				t.Fatal(response.Status, err)
			}
			receiver.Wait(t, "send apns", c.attempts)
			spans := receiver.Wait(t, c.call, 1)
			call := tracingtest.Named(spans, c.call)
			count := items
			if c.path == "" {
				count = c.attempts
			}
			checkSpan(t, call[0], "server", callersSpan, map[string]string{"messaging.batch.message_count": fmt.Sprint(count)})
			attempts := tracingtest.Named(spans, "send apns")
			if len(attempts) != c.attempts || len(call) != 1 {
				t.Errorf("%d attempts and %d calls have spans", len(attempts), len(call))
			}
			ids := map[string]bool{}
			for _, a := range attempts {
				checkSpan(t, a, "client", call[0].ID, map[string]string{"sluice.verdict": "accepted"})
				ids[a.Attributes["messaging.message.id"]] = true
			}
			if len(ids) != c.attempts {
				t.Errorf("spans of %d notifications", len(ids))
			}
		})
	}
}

// TestCallersDecideAboutTraces sends calls that are traced by their callers, or are not, with and without
// parent_based.
func TestCallersDecideAboutTraces(t *testing.T) {
	for name, c := range map[string]struct {
		settings, parent string
		traced           bool
	}{
		"sampled":                     {"0%", callersParent, true},
		"not sampled":                 {"100%", callersParent[:53] + "00", false},
		"sampled, own decision":       {"0%, parent_based: false", callersParent, false},
		"not sampled, own decision":   {"100%, parent_based: false", callersParent[:53] + "00", true},
		"without parent":              {"0%", "", false},
		"invalid parent is no parent": {"100%", "00-" + callersTrace + "-0000000000000000-00", true},
	} {
		t.Run(name, func(t *testing.T) {
			s, receiver, hook := newMockEnv(t), tracingtest.Start(t, false), newWebhookReceiver(t)
			h := s.start(t, s.webhookConfig(t.TempDir(), hook.block(t, "crm", ""))+fmt.Sprintf("tracing: {endpoint: '%s', sample_ratio: %s}\n", receiver.URL, c.settings))
			_, got := h.request("POST", "", apnsNotification(deviceToken), "Traceparent", c.parent)
			testwait.Until(t, func() bool { return hook.received(got["id"]) }, "the webhook has the event")
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			if spans := receiver.Spans(); len(spans) > 0 != c.traced || c.traced && len(tracingtest.Named(spans, "webhook shop/crm")) != 1 {
				t.Errorf("%+v", spans)
			}
			parent := hook.traceParents()[0]
			switch {
			case c.traced && (!strings.HasSuffix(parent, "-01") || strings.HasSuffix(name, "decision") != strings.Contains(parent, callersTrace) && name != "sampled"):
				t.Errorf("traceparent %q", parent)
			case !c.traced && c.parent != "" && parent != c.parent[:53]+"00", !c.traced && c.parent == "" && parent != "":
				t.Errorf("traceparent %q", parent)
			}
		})
	}
}

// TestReceiverOfTracesIsDown sends while the receiver of traces is unreachable, fails, or does not answer.
func TestReceiverOfTracesIsDown(t *testing.T) {
	for name, fail := range map[string]func(r *tracingtest.Receiver){
		"unreachable": func(r *tracingtest.Receiver) { r.Close() },
		"failing":     func(r *tracingtest.Receiver) { r.Failing.Store(true) },
		"stalled":     func(r *tracingtest.Receiver) { r.Stalled.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for the end of the flush
			s, receiver := newMockEnv(t), tracingtest.Start(t, false)
			fail(receiver)
			d := newLeakDetector()
			h := s.startLogging(t, listenConfig+slowTimeouts+tracingBlock(receiver, "")+"apps:\n"+s.appBlock("shop", s.apnsBlock()), d.logger())
			for range 50 {
				if code, got := h.request("POST", "", apnsNotification(deviceToken)); code != 200 {
					t.Fatal(code, got)
				}
			}
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(d.text(), "traces not exported"); n != 1 {
				t.Errorf("%d log lines: %s", n, d.text())
			}
		})
	}
}

func TestInvalidTraceFiles(t *testing.T) {
	s, dir := newMockEnv(t), t.TempDir()
	for text, want := range map[string]string{
		"Authorization Bearer 5ecre7": "line 1: must be a header as Name: value", "a: b\nc\x01: 5ecre7": "line 2: must be a header", "\n": "must contain a header",
	} {
		file := filepath.Join(dir, "headers")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := parse(t, listenConfig+fmt.Sprintf("tracing: {endpoint: 'http://127.0.0.1:4317', headers_file: %q}\napps:\n", file)+s.appBlock("shop", s.apnsBlock()))
		if _, err := gateway.New(cfg, nil); err == nil || !strings.Contains(err.Error(), "config: tracing.headers_file: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "5ecre7") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCheckVerifiesReceiverOfTraces(t *testing.T) {
	for _, protocol := range []string{"grpc", "http"} {
		s, receiver := newMockEnv(t), tracingtest.Start(t, true)
		text := listenConfig + tracingBlock(receiver, fmt.Sprintf(", protocol: %s, ca_file: %q", protocol, receiver.CAFile(t))) + "apps:\n" + s.appBlock("shop", s.apnsBlock())
		check := func() string {
			g, err := gateway.New(parse(t, text), nil)
			if err != nil {
				t.Fatal(err)
			}
			return runChecks(t, g)
		}
		if got, want := check(), receiver.URL+" accepts traces with "+protocol; !strings.Contains(got, want) {
			t.Errorf("%s", got)
		}
		receiver.Close()
		if got := check(); !strings.Contains(got, "the receiver does not accept traces: ") {
			t.Errorf("%s", got)
		}
	}
}

// checkSpan checks the kind, the parent and some attributes of a span in the trace of the caller.
func checkSpan(t *testing.T, s tracingtest.Span, kind, parent string, attributes map[string]string) {
	t.Helper()
	if s.Kind != kind || s.Parent != parent || s.TraceID != callersTrace || s.State != "vendor=1" || s.End.Before(s.Start) || s.Resource["service.name"] != "sluice" {
		t.Errorf("%+v", s)
	}
	for name, want := range attributes {
		if got := s.Attributes[name]; got != want {
			t.Errorf("%s: %s is %q, want %q", s.Name, name, got, want)
		}
	}
	if strings.Contains(fmt.Sprint(s), deviceToken) {
		t.Errorf("device token in %+v", s)
	}
}
