// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/mockprovider"
)

// leakDetector keeps what comes out of a gateway, and knows what must not.
type leakDetector struct {
	mu      sync.Mutex
	out     bytes.Buffer
	secrets map[string]string // what must not come out, by its name
}

// newLeakDetector cages what no gateway may show, whatever it does: tokens of the kinds that it mints and fetches.
func newLeakDetector() *leakDetector {
	return &leakDetector{secrets: map[string]string{"a signed token": "eyJ", "an access token of Google's": "ya29.", "a private key": "PRIVATE KEY"}}
}

func (a *leakDetector) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Write(p)
}

func (a *leakDetector) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.String()
}

// logger is a log of everything, into the aviary.
func (a *leakDetector) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(a, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
}

// addEnvSecrets cages the secrets of a street, and what stands on it in most tests.
func (a *leakDetector) addEnvSecrets(t testing.TB, s mockEnv) {
	t.Helper()
	a.secrets["the API key"], a.secrets["a device token"] = s.key, deviceToken
	for _, file := range []string{s.ready.APNsKeyFile, s.files.ClientKey, s.ready.ServiceAccountFile} {
		if file != "" {
			a.secrets[file] = keyExcerpt(t, file)
		}
	}
}

// fillCanaries puts a canary into each place of a text that says CANARY, and cages it.
func (a *leakDetector) fillCanaries(text string) string {
	for i := 1; strings.Contains(text, "CANARY"); i++ {
		bird := newCanary()
		a.secrets[fmt.Sprintf("canary %d of %s (%d caged before)", i, text, len(a.secrets))] = bird
		text = strings.Replace(text, "CANARY", bird, 1)
	}
	return text
}

// checkLeaks fails the test for everything that came out.
func (a *leakDetector) checkLeaks(t testing.TB) {
	t.Helper()
	out := a.text()
	for name, secret := range a.secrets {
		if at := strings.Index(out, secret); at >= 0 {
			t.Errorf("%s came out after …%s", name, out[max(0, at-80):at])
		}
	}
}

// newCanary is a text that there is only once in the world. It is made of hex digits, so that it can be a part of all that
// a caller gives.
func newCanary() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// TestNoSecretLeaks sends notifications to all kinds of ends, at debug level, through everything that there
// is, and looks for what was put in: keys, device tokens, texts.
func TestNoSecretLeaks(t *testing.T) {
	s := newMockEnv(t, mockprovider.Config{Endpoints: 2})
	a := newLeakDetector()
	a.addEnvSecrets(t, s)
	sts := httptest.NewTLSServer(s.tokenServer(t))
	defer sts.Close()
	g, err := gateway.New(parse(t, s.fullConfig(t, a, sts)), a.logger())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.mock.Play(mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.OAuth, Status: 400, Times: 1}}}); err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()

	base, admin := "http://"+g.Addr().String(), "http://"+g.AdminAddr().String()
	waitUntil(func() bool { return strings.Contains(a.text(), "invalid_grant") })
	for _, trouble := range faultCases {
		if err := s.mock.Play(mockprovider.Script{Faults: trouble.faults}); err != nil {
			t.Fatal(err)
		}
		for sent := false; !sent || !strings.Contains(a.text(), `"status":"`+trouble.said+`"`); sent = true { // a slow machine may hear nothing in time
			s.sendAll(t, a, base)
		}
	}
	a.recordExchange(t, "POST", base+"/v1/apps/shop/notifications", "wrong-"+s.key, `{}`)
	for _, path := range []string{
		"GET /v1/status", "GET /readyz", "GET /healthz", "GET /openapi.yaml", "GET /v1/apps/shop/notifications/CANARY", "DELETE /v1/apps/shop/notifications/CANARY",
		"GET /v1/apps/shop/events?after=CANARY", "GET /v1/apps/CANARY/events", "POST /v1/apps/CANARY/notifications", "GET /CANARY", "PUT /v1/status?CANARY",
	} {
		method, path, _ := strings.Cut(a.fillCanaries(path), " ")
		a.recordExchange(t, method, base+path, s.key, "")
	}
	for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline"} {
		a.recordExchange(t, "GET", admin+path, s.key, "")
	}
	_, _ = fmt.Fprintln(a, runChecks(t, g))
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, sign := range []string{`"level":"DEBUG"`, "sluice_attempts_total", "invalid_grant"} {
		if !strings.Contains(a.text(), sign) {
			t.Errorf("nothing says %s: too little came out to look through", sign)
		}
	}
	a.checkLeaks(t)
	t.Logf("%d secrets, %d bytes of output", len(a.secrets), len(a.text()))
}

// fullConfig is a configuration with every kind of platform and credential.
func (s mockEnv) fullConfig(t *testing.T, a *leakDetector, sts *httptest.Server) string {
	t.Helper()
	key := vapidKeyFile(t)
	a.secrets["the VAPID key"] = keyExcerpt(t, key)
	workload := s.workloadFile(t, sts.URL)
	a.secrets["the workload's own token"] = subjectToken
	web := fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'mailto:ops@example.com'}", s.ready.WebPush, s.ready.CAFile, key)
	cloud := fmt.Sprintf("fcm: {url: '%s', endpoints: ['%s'], ca_file: %q, project_id: %s, service_account_file: %q}",
		s.ready.FCM, strings.Join(s.ready.FCMEndpoints, "', '"), s.caFileWith(t, sts.Certificate()), s.ready.ProjectID, workload)
	return listenConfig + "limits: {send_timeout: 500ms}\npool: {breaker: {consecutive: 1000, min_outcomes: 100000, ejection: 100ms}}\n" +
		"retry: {attempts: 2, attempt_timeout: 200ms, backoff: 1ms, throttled_backoff: 10ms, max_backoff: 10ms, max_retry_after: 1ms}\n" +
		"apps:\n" + s.appBlock("shop", s.apnsBlock(), s.fcmBlock(), web) + s.appBlock("courier", s.apnsCertBlock(), cloud)
}

// faultCases are what the services play, one after the other, and what must be said of each; one of them has a reason that nobody
// knows.
var faultCases = []struct {
	said   string
	faults []mockprovider.Fault
}{
	{"accepted", nil},
	{"unregistered", []mockprovider.Fault{{Service: mockprovider.APNs, Status: 410}, {Service: mockprovider.FCM, Status: 404}, {Service: mockprovider.WebPush, Status: 410}}},
	{"unauthorized", []mockprovider.Fault{{Service: mockprovider.APNs, Status: 403}, {Service: mockprovider.FCM, Status: 401}, {Service: mockprovider.WebPush, Status: 403}}},
	{"unavailable", []mockprovider.Fault{{Service: mockprovider.APNs, Status: 500}, {Service: mockprovider.FCM, Status: 503}, {Service: mockprovider.WebPush, Status: 500}}},
	{"refused", []mockprovider.Fault{{Service: mockprovider.APNs, Status: 400, Reason: "eyJ"}, {Service: mockprovider.FCM, Status: 400, Reason: "eyJ"}, {Service: mockprovider.WebPush, Status: 400, Reason: "eyJ"}}},
	{"unknown", []mockprovider.Fault{{Service: mockprovider.APNs, RST: "INTERNAL_ERROR"}, {Service: mockprovider.FCM, RST: "REFUSED_STREAM"}, {Service: mockprovider.WebPush, RST: "CANCEL"}}},
	{"unknown", []mockprovider.Fault{{Reset: &mockprovider.Reset{Every: 2}}}},
	{"accepted", []mockprovider.Fault{{GoAway: &mockprovider.GoAway{Every: 1}}}},
	{"unknown", []mockprovider.Fault{{Stall: &mockprovider.Stall{}}}},
	{"throttled", []mockprovider.Fault{{Service: mockprovider.APNs, Status: 429}, {Service: mockprovider.FCM, Status: 429}, {Service: mockprovider.WebPush, Status: 429}}},
}

// notificationTemplates are notifications with canaries wherever a caller can say something: good ones, malformed ones, and ones for
// others. PUSH is the stand-in of the push services.
var notificationTemplates = []string{
	`{"platform":"apns","token":"00CANARY","title":"CANARY","subtitle":"CANARY","body":"CANARY","sound":"CANARY","collapse_key":"CANARY","data":{"CANARY":"CANARY"}}`,
	`{"platform":"apns","token":"00CANARY","image":"https://example.com/CANARY","apns":{"payload":{"aps":{"alert":"CANARY"},"CANARY":["CANARY"]}}}`,
	`{"platform":"apns","channel":"CANARY","title":"CANARY"}`,
	`{"platform":"apns","token":"CANARY/../x","title":"CANARY"}`,
	`{"platform":"apns","token":"00CANARY","title":"CANARY","apns":{"headers":{"CANARY":"CANARY","apns-collapse-id":"CANARYCANARYCANARY"}}}`,
	`{"platform":"apns","token":"00CANARY","title":"CANARY","CANARY CANARY":"CANARY"}`,
	`{"platform":"apns","token":"00CANARY","priority":"CANARY","ttl":"CANARY"}`,
	`{"platform":"apns","token":"00CANARY","apns":{"payload":{"aps":{"alert":"CANARY"`,
	`{"platform":"fcm","token":"CANARY:APA91bCANARY","title":"CANARY","image":"https://example.com/CANARY","data":{"k":"CANARY"}}`,
	`{"platform":"fcm","topic":"CANARY","title":"CANARY"}`,
	`{"platform":"fcm","condition":"'CANARY' in topics","title":"CANARY"}`,
	`{"platform":"fcm","installation":"CANARY","body":"CANARY","sound":"CANARY"}`,
	`{"platform":"fcm","token":"CANARY:x","fcm":{"message":{"notification":{"title":"CANARY"},"android":{"data":{"CANARY":"CANARY"}},"apns":{"live_activity_token":"CANARY"}}}}`,
	`{"platform":"fcm","token":"CANARY:x","fcm":{"message":{"CANARY":"CANARY","token":"CANARY"}}}`,
	`{"platform":"fcm","token":"CANARY:x","fcm":{"message":{"android":{"priority":"CANARY","CANARY CANARY":1}}}}`,
	`{"platform":"fcm","topic":"/topics/CANARY?","condition":"CANARY","title":"CANARY"}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"title":"CANARY","body":"CANARY","collapse_key":"CANARY"}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"webpush":{"payload":"CANARY","headers":{"Topic":"CANARY"}}}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"title":"CANARY","webpush":{"headers":{"CANARY":"CANARY","Urgency":"CANARY"}}}`,
	`{"platform":"webpush","subscription":{"endpoint":"https://CANARY.example/CANARY","keys":{"p256dh":"CANARY","auth":"CANARY"}},"title":"CANARY"}`,
	`{"platform":"CANARY","token":"CANARY"}`,
	`["CANARY"]`, `"CANARY"`, `CANARY`,
}

// render makes a notification of a template.
func (a *leakDetector) render(t *testing.T, template, push string) string {
	t.Helper()
	if strings.Contains(template, "SUBSCRIPTION") {
		whole := webPushNotification(t, push+a.fillCanaries("/push/CANARY"))
		_, subscription, _ := strings.Cut(whole, `"subscription":`)
		_, auth, _ := strings.Cut(subscription, `"auth":"`)
		a.secrets["the secret of "+subscription] = strings.TrimRight(auth, `"}`)
		template = strings.Replace(template, "SUBSCRIPTION", strings.TrimSuffix(subscription, "}"), 1)
	}
	return a.fillCanaries(template)
}

// sendAll sends every kind of note, each by itself, and all in a batch of lines and in one of an array that breaks
// off.
func (s mockEnv) sendAll(t *testing.T, a *leakDetector, base string) {
	t.Helper()
	var all sync.WaitGroup
	for _, app := range []string{"shop", "courier"} {
		var lines []string
		for _, template := range notificationTemplates {
			body := a.render(t, template, s.ready.WebPush)
			all.Go(func() { a.recordExchange(t, "POST", base+"/v1/apps/"+app+"/notifications", s.key, body) })
			lines = append(lines, a.render(t, template, s.ready.WebPush))
		}
		all.Go(func() {
			a.recordExchange(t, "POST", base+"/v1/apps/"+app+"/notifications/batch", s.key, strings.Join(lines, "\n"))
		})
		all.Go(func() {
			a.recordExchange(t, "POST", base+"/v1/apps/"+app+"/notifications/batch?array", s.key, "["+strings.Join(lines[:2], ",")+`,{"title":"`+s.key)
		})
	}
	all.Wait()
}

// recordExchange makes a call and keeps its answer, headers and all.
func (a *leakDetector) recordExchange(t *testing.T, method, url, key, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	if strings.HasSuffix(url, "/batch") {
		request.Header.Set("Content-Type", "application/x-ndjson")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	_, _ = fmt.Fprintln(a, answer.StatusCode, answer.Header, string(text))
}

// keyExcerpt returns a piece of a private key's file.
func keyExcerpt(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "PRIVATE KEY-----")
	if !found {
		t.Fatalf("%s holds no key", file)
	}
	return strings.TrimLeft(rest, "\\n\n")[:40]
}
