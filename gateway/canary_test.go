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
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/gateway"
	"github.com/sluice-push/sluice/mockprovider"
)

// aviary keeps all that comes out of a gateway.
type aviary struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (a *aviary) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Write(p)
}

func (a *aviary) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.String()
}

// canary is a text that there is only once in the world.
func canary() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// TestNoSecretComesOutOfAGateway sends notifications to all kinds of ends, at debug level, through everything that there
// is, and looks for what was put in: keys, device tokens, texts.
func TestNoSecretComesOutOfAGateway(t *testing.T) {
	s := newStreet(t, mockprovider.Config{Endpoints: 2})
	a := &aviary{}
	log := slog.New(slog.NewJSONHandler(a, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
	key := vapid(t)
	web := fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'mailto:ops@example.com'}", s.at.WebPush, s.at.CAFile, key)
	g, err := gateway.New(parse(t, head+"apps:\n"+s.app("shop", s.apns(), s.fcm(), web)), log)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()

	caged := map[string]string{"the API key": s.key, "a provider's token": "eyJ"}
	for name, file := range map[string]string{"the APNs key": s.at.APNsKeyFile, "the service account": s.at.ServiceAccountFile, "the VAPID key": key} {
		caged[name] = keyIn(t, file)
	}
	base, admin := "http://"+g.Addr().String(), "http://"+g.AdminAddr().String()
	for i, script := range troubles {
		if err := s.mock.Play(mockprovider.Script{Faults: script}); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for j, token := range tokens() {
			text := canary()
			caged[fmt.Sprintf("text %d of %d", j, i)] = text
			caged[fmt.Sprintf("token %d of %d", j, i)] = token.secret
			body := strings.ReplaceAll(token.body(t, s.at.WebPush), "TEXT", text)
			a.exchange(t, "POST", base+"/v1/apps/shop/notifications", s.key, body)
			lines = append(lines, body)
		}
		a.exchange(t, "POST", base+"/v1/apps/shop/notifications/batch", s.key, strings.Join(lines, "\n"))
	}
	a.exchange(t, "POST", base+"/v1/apps/shop/notifications", "wrong-"+s.key, `{}`)
	for _, url := range []string{base + "/v1/status", base + "/readyz", base + "/healthz", admin + "/metrics", admin + "/debug/pprof/goroutine?debug=2"} {
		a.exchange(t, "GET", url, s.key, "")
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	out := a.text()
	if len(out) < 20_000 || !strings.Contains(out, `"level":"DEBUG"`) || !strings.Contains(out, "sluice_attempts_total") {
		t.Fatalf("only %d bytes came out: nothing is shown", len(out))
	}
	for name, secret := range caged {
		if at := strings.Index(out, secret); at >= 0 {
			t.Errorf("%s came out after …%s", name, out[max(0, at-80):at])
		}
	}
	t.Logf("%d secrets, %d bytes of output", len(caged), len(out))
}

// troubles are what the services play, one after the other.
var troubles = [][]mockprovider.Fault{
	nil,
	{{Service: mockprovider.APNs, Status: 410}, {Service: mockprovider.FCM, Status: 429}, {Service: mockprovider.WebPush, Status: 410}},
	{{Service: mockprovider.APNs, Status: 403}, {Service: mockprovider.FCM, Status: 401}, {Service: mockprovider.WebPush, Status: 403}},
	{{Service: mockprovider.APNs, Status: 500}, {Service: mockprovider.FCM, Status: 503}, {Service: mockprovider.WebPush, Status: 500}},
}

// marked is a target with a secret in it, and the notification around it.
type marked struct {
	secret string
	body   func(t *testing.T, push string) string
}

// tokens are new each time: good ones, malformed ones, and ones in the wrong place.
func tokens() []marked {
	with := func(format string) marked {
		secret := canary()
		return marked{secret, func(*testing.T, string) string { return fmt.Sprintf(format, secret) }}
	}
	web := canary()
	return []marked{
		with(`{"platform":"apns","token":"00%s","title":"TEXT","body":"TEXT"}`),
		with(`{"platform":"apns","token":"%s/../x","title":"TEXT"}`),
		with(`{"platform":"apns","token":"00","title":"TEXT","apns":{"headers":{"%s":"TEXT"}}}`),
		with(`{"platform":"apns","token":"00","title":"TEXT","titel":"%s"}`),
		with(`{"platform":"apns","token":"00%s","apns":{"payload":{"aps":{"alert":"TEXT"`),
		with(`{"platform":"fcm","token":"%s:APA91bTEXT","title":"TEXT","data":{"k":"TEXT"}}`),
		with(`{"platform":"fcm","token":"%s:x","fcm":{"message":{"TEXT TEXT":"TEXT"}}}`),
		with(`{"platform":"%s","token":"TEXT"}`),
		{web, func(t *testing.T, push string) string {
			return strings.Replace(subscribed(t, push+"/push/"+web), `"Hi"`, `"TEXT"`, 1)
		}},
	}
}

// exchange makes a call and keeps its answer, headers and all.
func (a *aviary) exchange(t *testing.T, method, url, key, body string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
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

// keyIn returns a piece of a private key's file.
func keyIn(t *testing.T, file string) string {
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
