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
	"github.com/sluice-push/sluice/internal/identity/identitytest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/tracing/tracingtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// leakDetector records the output of a gateway and searches it for secrets.
type leakDetector struct {
	mu      sync.Mutex
	out     bytes.Buffer
	secrets map[string]string // what must not be in the output, by name
}

// newLeakDetector returns a detector that searches for private keys and for the kinds of tokens
// that a gateway creates and fetches.
func newLeakDetector() *leakDetector {
	return &leakDetector{secrets: map[string]string{"a signed token": "eyJ", "an access token of Google's": "ya29.", "a private key": "PRIVATE KEY"}}
}

func (d *leakDetector) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(p)
}

func (d *leakDetector) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// logger returns a logger that writes messages of all levels to the detector.
func (d *leakDetector) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(d, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
}

// addEnvSecrets adds the secrets of a mockEnv, and the device token of most tests.
func (d *leakDetector) addEnvSecrets(t testing.TB, s mockEnv) {
	t.Helper()
	d.secrets["the API key"], d.secrets["a device token"] = s.key, deviceToken
	for _, file := range []string{s.ready.APNsKeyFile, s.files.ClientKey, s.ready.ServiceAccountFile} {
		if file != "" {
			d.secrets[file] = keyExcerpt(t, file)
		}
	}
}

// fillCanaries replaces each CANARY in text by a new canary, and adds it to the secrets.
func (d *leakDetector) fillCanaries(text string) string {
	for i := 1; strings.Contains(text, "CANARY"); i++ {
		canary := newCanary()
		d.secrets[fmt.Sprintf("canary %d of %s (secret %d)", i, text, len(d.secrets))] = canary
		text = strings.Replace(text, "CANARY", canary, 1)
	}
	return text
}

// checkLeaks reports every secret that is in the output.
func (d *leakDetector) checkLeaks(t testing.TB) {
	t.Helper()
	out := d.text()
	for name, secret := range d.secrets {
		if at := strings.Index(out, secret); at >= 0 {
			t.Errorf("%s is in the output after …%s", name, out[max(0, at-80):at])
		}
	}
}

// newCanary returns a unique string. It consists of hex digits, so that it is valid in every field
// of a request.
func newCanary() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// TestNoSecretLeaks sends notifications with all kinds of outcomes to all platforms, with logs at
// debug level. Then it searches the logs and responses for all inputs: keys, device tokens and
// texts.
func TestNoSecretLeaks(t *testing.T) {
	s := newMockEnv(t, mockprovider.Config{Endpoints: 2})
	d := newLeakDetector()
	d.addEnvSecrets(t, s)
	sts := httptest.NewTLSServer(s.tokenServer(t))
	defer sts.Close()
	issuer := identitytest.Start(t)
	d.secrets["the secret of the console as a client"] = "canary-secret"
	auth := signInBlock(t, issuer, "https://push.example.com/console/", "claim: groups, value: push, apps: [shop], scopes: [read]", "apps: [shop], scopes: [send]", "name_claim: email", "audience: [sluice]")
	traces := tracingtest.Start(t, false)
	g, err := gateway.New(parse(t, auth+s.fullConfig(t, d, sts)+tracingBlock(traces, "")), d.logger())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.mock.SetScript(mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.OAuth, Status: 400, Times: 1}}}); err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()

	base, admin := "http://"+g.Addr().String(), "http://"+g.AdminAddr().String()
	testwait.Until(t, func() bool { return strings.Contains(d.text(), "invalid_grant") }, "the token endpoint has refused the account")
	for _, c := range faultCases {
		if err := s.mock.SetScript(mockprovider.Script{Faults: c.faults}); err != nil {
			t.Fatal(err)
		}
		for sent := false; !sent || !strings.Contains(d.text(), `"status":"`+c.status+`"`); sent = true { // repeats on a slow machine, where a response may be late
			s.sendAll(t, d, base)
		}
	}
	d.recordExchange(t, "POST", base+"/v1/apps/shop/notifications", "wrong-"+s.key, `{}`)
	for name, claims := range map[string]map[string]any{
		"a token": nil, "an expired token": {"exp": 1}, "a token for another audience": {"aud": "x"}, "a token of another issuer": {"iss": "https://x.example.com"},
	} {
		token := tokenOf(t, issuer, claims)
		d.secrets[name], d.secrets["the signature of "+name] = token, token[strings.LastIndexByte(token, '.')+1:]
		d.recordExchange(t, "POST", base+"/v1/apps/shop/notifications", token, fcmNotification)
		d.recordExchange(t, "POST", base+"/v1/apps/shop/notifications", token[:len(token)-1], fcmNotification)
	}
	for _, path := range []string{
		"GET /v1/status", "GET /readyz", "GET /healthz", "GET /openapi.yaml", "GET /v1/apps/shop/notifications/CANARY", "DELETE /v1/apps/shop/notifications/CANARY",
		"GET /v1/apps/shop/events?after=CANARY", "GET /v1/apps/CANARY/events", "POST /v1/apps/CANARY/notifications", "GET /CANARY", "PUT /v1/status?CANARY",
	} {
		method, path, _ := strings.Cut(d.fillCanaries(path), " ")
		d.recordExchange(t, method, base+path, s.key, "")
	}
	for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline"} {
		d.recordExchange(t, "GET", admin+path, s.key, "")
	}
	_, _ = fmt.Fprintln(d, runChecks(t, g))
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := testwait.For(t, ended, "the end"); err != nil {
		t.Error(err)
	}
	for _, span := range traces.Spans() {
		_, _ = fmt.Fprintf(d, "%+v\n", span)
	}
	for _, marker := range []string{"Name:send webpush", "sluice.reason:", `"level":"DEBUG"`, "sluice_attempts_total", "invalid_grant"} {
		if !strings.Contains(d.text(), marker) {
			t.Errorf("the output does not contain %s, so it is incomplete", marker)
		}
	}
	d.checkLeaks(t)
	t.Logf("%d secrets, %d bytes of output", len(d.secrets), len(d.text()))
}

// fullConfig returns a configuration with every platform and every kind of credential.
func (s mockEnv) fullConfig(t *testing.T, d *leakDetector, sts *httptest.Server) string {
	t.Helper()
	key := vapidKeyFile(t)
	d.secrets["the VAPID key"] = keyExcerpt(t, key)
	workload := s.workloadFile(t, sts.URL)
	d.secrets["the workload's own token"] = subjectToken
	web := fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'mailto:ops@example.com'}", s.ready.WebPush, s.ready.CAFile, key)
	cloud := fmt.Sprintf("fcm: {url: '%s', endpoints: ['%s'], ca_file: %q, project_id: %s, service_account_file: %q}",
		s.ready.FCM, strings.Join(s.ready.FCMEndpoints, "', '"), s.caFileWith(t, sts.Certificate()), s.ready.ProjectID, workload)
	return listenConfig + "limits: {send_timeout: 500ms}\npool: {idle_timeout: 0s, breaker: {consecutive: 1000, min_outcomes: 100000, ejection: 100ms}}\n" +
		"retry: {attempts: 2, attempt_timeout: 200ms, backoff: 1ms, throttled_backoff: 10ms, max_backoff: 10ms, max_retry_after: 1ms}\n" +
		"apps:\n" + strings.ReplaceAll(s.appBlock("shop", s.apnsBlock(), s.fcmBlock(), web)+s.appBlock("courier", s.apnsCertBlock(), cloud), "name: test,", "name: test, scopes: [send, read, channels],")
}

// faultCases are the faults that the mock plays one after the other, and a status that each must
// cause. One case has an unknown reason.
var faultCases = []struct {
	status string
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

// notificationTemplates are valid and invalid notifications with a CANARY wherever a caller can put
// data.
var notificationTemplates = []string{
	`{"platform":"apns","token":"00CANARY","title":"CANARY","subtitle":"CANARY","body":"CANARY","sound":"CANARY","collapse_key":"CANARY","data":{"CANARY":"CANARY"}}`,
	`{"platform":"apns","token":"00CANARY","image":"https://example.com/CANARY","apns":{"payload":{"aps":{"alert":"CANARY"},"CANARY":["CANARY"]}}}`,
	`{"platform":"apns","channel":"CANARY","title":"CANARY"}`,
	`{"platform":"apns","token":"CANARY/../x","title":"CANARY"}`,
	`{"platform":"apns","token":"00CANARY","title":"CANARY","apns":{"headers":{"CANARY":"CANARY","apns-collapse-id":"CANARYCANARYCANARY"}}}`,
	`{"platform":"apns","token":"00CANARY","apns":{"headers":{"apns-CANARY":"CANARY"},"payload":{"aps":{"alert":"CANARY","CANARY":"CANARY"}}}}`,
	`{"platform":"apns","token":"00CANARY","apns":{"headers":{"apns-push-type":"aCANARY"},"payload":{"aps":{"alert":"CANARY","interruption-level":"CANARY"}}}}`,
	`{"platform":"apns","token":"00CANARY","title":"CANARY","CANARY CANARY":"CANARY"}`,
	`{"platform":"apns","token":"00CANARY","priority":"CANARY","ttl":"CANARY"}`,
	`{"platform":"apns","token":"00CANARY","apns":{"payload":{"aps":{"alert":"CANARY"`,
	`{"platform":"fcm","token":"CANARY:APA91bCANARY","title":"CANARY","image":"https://example.com/CANARY","data":{"k":"CANARY"}}`,
	`{"platform":"fcm","topic":"CANARY","title":"CANARY"}`,
	`{"platform":"fcm","condition":"'CANARY' in topics","title":"CANARY"}`,
	`{"platform":"fcm","installation":"CANARY","body":"CANARY","sound":"CANARY"}`,
	`{"platform":"fcm","token":"CANARY:x","fcm":{"message":{"notification":{"title":"CANARY"},"android":{"data":{"CANARY":"CANARY"}},"apns":{"live_activity_token":"CANARY"}}}}`,
	`{"platform":"fcm","token":"CANARY:x","fcm":{"message":{"CANARY":"CANARY","token":"CANARY"}}}`,
	`{"platform":"fcm","token":"CANARY:x","fcm":{"message":{"CANARY":"CANARY"}}}`,
	`{"platform":"fcm","token":"CANARY:x","fcm":{"message":{"android":{"priority":"CANARY","CANARY CANARY":1}}}}`,
	`{"platform":"fcm","topic":"/topics/CANARY?","condition":"CANARY","title":"CANARY"}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"title":"CANARY","body":"CANARY","collapse_key":"CANARY"}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"webpush":{"payload":"CANARY","headers":{"Topic":"CANARY"}}}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"title":"CANARY","webpush":{"headers":{"CANARY":"CANARY","Urgency":"CANARY"}}}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"title":"CANARY","webpush":{"headers":{"x-CANARY":"CANARY"}}}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"webpush":{"declarative":true,"notification":{"title":"CANARY","navigate":"https://CANARY.example.com/CANARY","CANARY":"CANARY"}}}`,
	`{"platform":"webpush","subscription":SUBSCRIPTION,"webpush":{"notification":{"navigate":"CANARY","actions":[{"action":"CANARY"}]}}}`,
	`{"platform":"webpush","subscription":{"endpoint":"https://permanently-removed.invalid/CANARY","keys":{"p256dh":"CANARY","auth":"CANARY"},"CANARY":"CANARY"},"title":"CANARY"}`,
	`{"platform":"webpush","subscription":{"endpoint":"https://CANARY.example/CANARY","keys":{"p256dh":"CANARY","auth":"CANARY"}},"title":"CANARY"}`,
	`{"platform":"CANARY","token":"CANARY"}`,
	`["CANARY"]`, `"CANARY"`, `CANARY`,
}

// topicTemplates are the bodies of calls to the topics of FCM, by action.
var topicTemplates = map[string]string{
	"subscribe":   `{"topic":"CANARY","tokens":["id:CANARY","id:deadCANARY","id:badCANARY","id:unavailableCANARY","id:quotaCANARY","CANARY!"]}`,
	"unsubscribe": `{"topic":"CANARY","installations":["CANARY","badCANARY"]}`,
	"list":        `{"token":"id:CANARY","page_token":"CANARY"}`,
}

// render returns a notification for a template.
func (d *leakDetector) render(t *testing.T, template, push string) string {
	t.Helper()
	if strings.Contains(template, "SUBSCRIPTION") {
		notification := webPushNotification(t, push+d.fillCanaries("/push/CANARY"))
		_, subscription, _ := strings.Cut(notification, `"subscription":`)
		_, auth, _ := strings.Cut(subscription, `"auth":"`)
		d.secrets["the secret of "+subscription] = strings.TrimRight(auth, `"}`)
		template = strings.Replace(template, "SUBSCRIPTION", strings.TrimSuffix(subscription, "}"), 1)
	}
	return d.fillCanaries(template)
}

// sendAll sends a notification for every template in a single call, all of them in an NDJSON batch,
// and some in a truncated JSON array.
func (s mockEnv) sendAll(t *testing.T, d *leakDetector, base string) {
	t.Helper()
	var all sync.WaitGroup
	for _, app := range []string{"shop", "courier"} {
		var lines []string
		for _, template := range notificationTemplates {
			body := d.render(t, template, s.ready.WebPush)
			all.Go(func() { d.recordExchange(t, "POST", base+"/v1/apps/"+app+"/notifications", s.key, body) })
			lines = append(lines, d.render(t, template, s.ready.WebPush))
		}
		for action, template := range topicTemplates {
			body := d.fillCanaries(template)
			all.Go(func() { d.recordExchange(t, "POST", base+"/v1/apps/"+app+"/fcm/topics/"+action, s.key, body) })
		}
		all.Go(func() {
			d.recordExchange(t, "POST", base+"/v1/apps/"+app+"/notifications/batch", s.key, strings.Join(lines, "\n"))
		})
		all.Go(func() {
			d.recordExchange(t, "POST", base+"/v1/apps/"+app+"/notifications/batch?array", s.key, "["+strings.Join(lines[:2], ",")+`,{"title":"`+s.key)
		})
	}
	testwait.Call(t, all.Wait, "the end of all calls")
}

// recordExchange makes a request and records the response, including its headers.
func (d *leakDetector) recordExchange(t *testing.T, method, url, key, body string) {
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
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	_, _ = fmt.Fprintln(d, response.StatusCode, response.Header, string(text))
}

// keyExcerpt returns a part of the private key in a file.
func keyExcerpt(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "PRIVATE KEY-----")
	if !found {
		t.Fatalf("%s contains no key", file)
	}
	return strings.TrimLeft(rest, "\\n\n")[:40]
}
