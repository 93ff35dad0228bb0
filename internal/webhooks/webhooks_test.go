// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/publicaddr"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

func cursorRange(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func TestEventsAreBatchedOrderedAndSigned(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	a.startNow("shop/billing")
	for range 250 {
		a.addEvent(push.Event{Target: &push.Target{Token: "00ff"}, KeyHash: []byte("k")})
	}
	start(t, a.config(r, func(cfg *webhooks.Config) { cfg.MaxEvents = 100 }))
	if got := r.waitFor(t, "250"); !slices.Equal(got, cursorRange(1, 250)) {
		t.Errorf("%v", got)
	}
	ids := map[string]bool{}
	for _, m := range r.messages() {
		if ids[m.id] = true; len(m.events) > 100 || strings.HasPrefix(m.body, "broken") || strings.Contains(m.body, "key_hash") || !strings.Contains(m.body, `"token":"00ff"`) {
			t.Errorf("%s %.300s", m.id, m.body)
		}
	}
	if len(ids) != len(r.messages()) || len(ids) < 3 {
		t.Errorf("%d messages, %d IDs", len(r.messages()), len(ids))
	}
}

func TestMessageSizeLimit(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	a.startNow("shop/billing")
	for range 20 {
		a.addEvent(push.Event{Target: &push.Target{Token: strings.Repeat("f", 400)}})
	}
	start(t, a.config(r, func(cfg *webhooks.Config) { cfg.MaxBytes = 2000 }))
	if got := r.waitFor(t, "20"); !slices.Equal(got, cursorRange(1, 20)) {
		t.Errorf("%v", got)
	}
	for _, m := range r.messages() {
		if len(m.body) > 2200 {
			t.Errorf("%d bytes", len(m.body))
		}
	}
}

func TestRetryKeepsMessageID(t *testing.T) {
	a := newArchive()
	r := newReceiver(t, func(w http.ResponseWriter, n int) {
		if n <= 5 {
			http.Error(w, "SECRET stack trace", http.StatusInternalServerError)
		}
	})
	a.startNow("shop/billing")
	a.addEvent(push.Event{})
	a.addEvent(push.Event{})
	var log bytes.Buffer
	var mu sync.Mutex
	w, stop := start(t, a.config(r, func(cfg *webhooks.Config) {
		cfg.MaxEvents, cfg.Linger = 2, time.Hour // two go together, however late the second is
		cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))
	}))
	for range 6 {
		<-r.received
	}
	a.addEvent(push.Event{})
	a.addEvent(push.Event{})
	r.waitFor(t, "4")
	stop()
	all := r.messages()
	for _, m := range all[1:6] {
		if m.id != all[0].id || m.body != all[0].body {
			t.Errorf("%+v", m)
		}
	}
	if all[6].id == all[0].id || !slices.Equal(all[6].events, []string{"3", "4"}) {
		t.Errorf("%+v", all[6])
	}
	if s := w.Status(); s.Failures != 0 || s.Reason != "" || s.Cursor != "2" && s.Cursor != "4" {
		t.Errorf("%+v", s)
	}
	for _, never := range []string{"SECRET", string(secret), "hooks"} {
		if strings.Contains(log.String(), never) {
			t.Errorf("%q in the log:\n%s", never, &log)
		}
	}
	if !strings.Contains(log.String(), "HTTP status 500") || !strings.Contains(log.String(), "takes its events again") {
		t.Errorf("the log says nothing:\n%s", &log)
	}
}

// lockedWriter is a writer for several goroutines.
type lockedWriter struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

func TestRedirectIsNotFollowed(t *testing.T) {
	a, elsewhere := newArchive(), newReceiver(t, nil)
	r := newReceiver(t, func(w http.ResponseWriter, n int) {
		if n < 3 {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	a.startNow("shop/billing")
	a.addEvent(push.Event{})
	start(t, a.config(r))
	for range 3 {
		<-r.received
	}
	if n := len(elsewhere.messages()); n != 0 {
		t.Errorf("%d messages went where the answer led", n)
	}
}

func TestPrivateAddressesAndProxiesAreNotContacted(t *testing.T) {
	a, touched := newArchive(), make(chan struct{}, 100)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			touched <- struct{}{}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); listening.Wait() })
	t.Setenv("HTTPS_PROXY", "http://"+listener.Addr().String())
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	r := newReceiver(t, nil)
	for i, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"} {
		name := fmt.Sprint("private", i)
		a.startNow("shop/" + name)
		w, stop := start(t, a.config(r, func(cfg *webhooks.Config) {
			cfg.Name, cfg.URL, cfg.AllowedNetworks = name, "https://"+host+":"+port+"/PATH-SECRET", nil
		}))
		a.addEvent(push.Event{})
		for w.Status().Failures < 3 {
			time.Sleep(time.Millisecond)
		}
		stop()
		if s := w.Status(); !strings.Contains(s.Reason, publicaddr.ErrNotPublic.Error()) || strings.Contains(s.Reason, "PATH-SECRET") {
			t.Errorf("%s: %q", host, s.Reason)
		}
	}
	select {
	case <-touched:
		t.Error("somebody connected")
	default:
	}
}

func TestUntrustedCertificate(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	a.startNow("shop/billing")
	a.addEvent(push.Event{})
	w, stop := start(t, a.config(r, func(cfg *webhooks.Config) { cfg.RootCAs = nil }))
	for w.Status().Failures < 2 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if len(r.messages()) != 0 || !strings.Contains(w.Status().Reason, "certificate") {
		t.Errorf("%+v", w.Status())
	}
}

func TestRestartResumesAtCheckpoint(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	_, stop := start(t, a.config(r))
	a.addEvent(push.Event{})
	r.waitFor(t, "1") // and not what was before
	stop()
	for range 10 {
		a.addEvent(push.Event{})
	}
	start(t, a.config(r))
	// What was posted when it stopped, and not yet known to be taken, comes once more.
	if got := r.waitFor(t, "11"); !slices.Equal(got, cursorRange(2, 11)) && !slices.Equal(got, cursorRange(1, 11)) {
		t.Errorf("%v", got)
	}
}

func TestUnsavedCheckpointRepeatsEvents(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	a.startNow("shop/billing")
	a.mu.Lock()
	a.saveErr = errors.New("disk full")
	a.mu.Unlock()
	a.addEvent(push.Event{})
	start(t, a.config(r))
	for range 3 {
		if m := <-r.received; !slices.Equal(m.events, []string{"1"}) {
			t.Errorf("%+v", m)
		}
	}
	a.mu.Lock()
	a.saveErr = nil
	a.mu.Unlock()
	a.addEvent(push.Event{})
	r.waitFor(t, "2")
}

func TestEventFilter(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	a.startNow("shop/billing")
	for _, status := range []push.Status{push.StatusQueued, push.StatusSending, push.StatusUnregistered, push.StatusQueued, push.StatusCancelled} {
		a.addEvent(push.Event{Status: status})
	}
	_, stop := start(t, a.config(r))
	if got := r.waitFor(t, "5"); !slices.Equal(got, []string{"3", "5"}) {
		t.Errorf("every end: %v", got)
	}
	stop()
	a.startNow("shop/dead")
	a.addEvent(push.Event{Status: push.StatusUnregistered})
	start(t, a.config(r, func(cfg *webhooks.Config) { cfg.Name, cfg.Events = "dead", []push.Status{push.StatusUnregistered} }))
	if got := r.waitFor(t, "6"); !slices.Equal(got, []string{"3", "6"}) {
		t.Errorf("the dead: %v", got)
	}
}

func TestExpiredEventsAreDeadLettered(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	for range 5 {
		a.addEvent(push.Event{})
	}
	a.oldest = 3
	a.checkpoints["shop/billing"] = webhooks.Checkpoint{Since: time.Now().Add(-time.Hour), After: "1"}
	w, _ := start(t, a.config(r))
	if got := r.waitFor(t, "5"); !slices.Equal(got, []string{"4", "5"}) {
		t.Errorf("%v", got)
	}
	if s := w.Status(); len(s.DeadLettered) != 1 || s.DeadLettered[0].After != "1" || !strings.Contains(s.DeadLettered[0].Reason, "forgotten") {
		t.Errorf("%+v", s)
	}
}

func TestEverySecretSigns(t *testing.T) {
	a, r := newArchive(), newReceiver(t, nil)
	next := webhooks.Secret(strings.Repeat("n", 32))
	a.startNow("shop/billing")
	a.addEvent(push.Event{})
	start(t, a.config(r, func(cfg *webhooks.Config) { cfg.Secrets = []webhooks.Secret{next, secret} }))
	m := <-r.received
	if strings.HasPrefix(m.body, "broken") || webhooks.Verify(m.header, []byte(m.body), next) != nil {
		t.Errorf("%v", m.header)
	}
	if webhooks.Verify(m.header, []byte(m.body+" "), secret) == nil || webhooks.Verify(m.header, []byte(m.body), webhooks.Secret("x")) == nil {
		t.Error("what was changed, or signed by somebody else, is taken for ours")
	}
	m.header.Set("Webhook-Timestamp", "1")
	if !errors.Is(webhooks.Verify(m.header, []byte(m.body), secret), webhooks.ErrSignature) {
		t.Error("what is old is taken for new")
	}
}

func TestConfigErrorsHideSecrets(t *testing.T) {
	a := newArchive()
	good := webhooks.Config{App: "shop", Name: "b", URL: "https://example.com/PATH-SECRET", Secrets: []webhooks.Secret{secret}, Feed: a, Checkpoints: a}
	if _, err := webhooks.New(good); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*webhooks.Config){
		"Name": func(c *webhooks.Config) { c.Name = "" }, "URL": func(c *webhooks.Config) { c.URL = "http://example.com/PATH-SECRET" },
		"Secrets": func(c *webhooks.Config) { c.Secrets = nil }, "Feed": func(c *webhooks.Config) { c.Feed = nil },
		"a user": func(c *webhooks.Config) { c.URL = "https://SECRET@example.com" },
	} {
		cfg := good
		change(&cfg)
		if _, err := webhooks.New(cfg); err == nil || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, text := range []string{"", "whsec_", "whsec_c2hvcnQ=", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_***"} {
		if _, err := webhooks.ParseSecret(text); err == nil || len(text) > 6 && strings.Contains(err.Error(), text[6:]) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s", secret, secret, secret, secret); strings.Contains(got, "0123") {
		t.Error(got)
	}
}

// The test vector of the Standard Webhooks specification's own libraries.
func TestStandardWebhooksTestVector(t *testing.T) {
	s, err := webhooks.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	if got := webhooks.Signature(s, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
}

func ExampleVerify() {
	secret, _ := webhooks.ParseSecret("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3")
	receive := func(w http.ResponseWriter, r *http.Request) {
		body := new(bytes.Buffer)
		_, _ = body.ReadFrom(http.MaxBytesReader(w, r.Body, 1<<20))
		if webhooks.Verify(r.Header, body.Bytes(), secret) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent) // once the events are safe
	}
	w := httptest.NewRecorder()
	receive(w, httptest.NewRequest("POST", "/", strings.NewReader("{}")))
	fmt.Println(w.Code)
	// Output: 401
}
