// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/publicaddr"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/webhook"
)

func cursorRange(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func TestEventsAreBatchedOrderedAndSigned(t *testing.T) {
	store, r := newFakeStore(), newReceiver(t, nil)
	store.startNow("shop/billing")
	for range 250 {
		store.addEvent(push.Event{Target: &push.Target{Token: "00ff"}, KeyHash: []byte("k")})
	}
	start(t, store.config(r, func(cfg *webhooks.Config) { cfg.MaxEvents = 100 }))
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
	store, r := newFakeStore(), newReceiver(t, nil)
	store.startNow("shop/billing")
	for range 20 {
		store.addEvent(push.Event{Target: &push.Target{Token: strings.Repeat("f", 400)}})
	}
	start(t, store.config(r, func(cfg *webhooks.Config) { cfg.MaxBytes = 2000 }))
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
	store := newFakeStore()
	r := newReceiver(t, func(w http.ResponseWriter, n int) {
		if n <= 5 {
			http.Error(w, "SECRET stack trace", http.StatusInternalServerError)
		}
	})
	store.startNow("shop/billing")
	store.addEvent(push.Event{})
	store.addEvent(push.Event{})
	var log bytes.Buffer
	var mu sync.Mutex
	w, stop := start(t, store.config(r, func(cfg *webhooks.Config) {
		cfg.MaxEvents, cfg.Linger = 2, time.Hour // the first two events share a message, however late the second is
		cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))
	}))
	for range 6 {
		testwait.For(t, r.received, "a message")
	}
	store.addEvent(push.Event{})
	store.addEvent(push.Event{})
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
	for _, text := range []string{"SECRET", string(secret), "hooks"} {
		if strings.Contains(log.String(), text) {
			t.Errorf("the log contains %q:\n%s", text, &log)
		}
	}
	if !strings.Contains(log.String(), "HTTP status 500") || !strings.Contains(log.String(), "delivery recovered") {
		t.Errorf("the log lacks the failure or the recovery:\n%s", &log)
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
	store, target := newFakeStore(), newReceiver(t, nil)
	r := newReceiver(t, func(w http.ResponseWriter, n int) {
		if n < 3 {
			w.Header().Set("Location", target.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	store.startNow("shop/billing")
	store.addEvent(push.Event{})
	start(t, store.config(r))
	for range 3 {
		testwait.For(t, r.received, "a message")
	}
	if n := len(target.messages()); n != 0 {
		t.Errorf("%d messages followed the redirect", n)
	}
}

func TestPrivateAddressesAndProxiesAreNotContacted(t *testing.T) {
	store, connected := newFakeStore(), make(chan struct{}, 100)
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
			connected <- struct{}{}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); listening.Wait() })
	t.Setenv("HTTPS_PROXY", "http://"+listener.Addr().String())
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	r := newReceiver(t, nil)
	for i, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"} {
		name := fmt.Sprint("private", i)
		store.startNow("shop/" + name)
		w, stop := start(t, store.config(r, func(cfg *webhooks.Config) {
			cfg.Name, cfg.URL, cfg.AllowedNetworks = name, "https://"+host+":"+port+"/PATH-SECRET", nil
		}))
		store.addEvent(push.Event{})
		for w.Status().Failures < 3 {
			time.Sleep(time.Millisecond)
		}
		stop()
		if s := w.Status(); !strings.Contains(s.Reason, publicaddr.ErrNotPublic.Error()) || strings.Contains(s.Reason, "PATH-SECRET") {
			t.Errorf("%s: %q", host, s.Reason)
		}
	}
	select {
	case <-connected:
		t.Error("a connection was made")
	default:
	}
}

func TestUntrustedCertificate(t *testing.T) {
	store, r := newFakeStore(), newReceiver(t, nil)
	store.startNow("shop/billing")
	store.addEvent(push.Event{})
	w, stop := start(t, store.config(r, func(cfg *webhooks.Config) { cfg.RootCAs = nil }))
	for w.Status().Failures < 2 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if len(r.messages()) != 0 || !strings.Contains(w.Status().Reason, "certificate") {
		t.Errorf("%+v", w.Status())
	}
}

func TestRestartResumesAtCheckpoint(t *testing.T) {
	store, r := newFakeStore(), newReceiver(t, nil)
	_, stop := start(t, store.config(r))
	store.addEvent(push.Event{})
	r.waitFor(t, "1") // and no earlier event
	stop()
	for range 10 {
		store.addEvent(push.Event{})
	}
	start(t, store.config(r))
	// A message that was posted but not acknowledged before the stop is repeated.
	if got := r.waitFor(t, "11"); !slices.Equal(got, cursorRange(2, 11)) && !slices.Equal(got, cursorRange(1, 11)) {
		t.Errorf("%v", got)
	}
}

func TestUnsavedCheckpointRepeatsEvents(t *testing.T) {
	store, r := newFakeStore(), newReceiver(t, nil)
	store.startNow("shop/billing")
	store.mu.Lock()
	store.saveErr = errors.New("disk full")
	store.mu.Unlock()
	store.addEvent(push.Event{})
	start(t, store.config(r))
	for range 3 {
		if m := testwait.For(t, r.received, "a message"); !slices.Equal(m.events, []string{"1"}) {
			t.Errorf("%+v", m)
		}
	}
	store.mu.Lock()
	store.saveErr = nil
	store.mu.Unlock()
	store.addEvent(push.Event{})
	r.waitFor(t, "2")
}

func TestEventFilter(t *testing.T) {
	store, r := newFakeStore(), newReceiver(t, nil)
	store.startNow("shop/billing")
	for _, status := range []push.Status{push.StatusQueued, push.StatusSending, push.StatusUnregistered, push.StatusQueued, push.StatusCancelled} {
		store.addEvent(push.Event{Status: status})
	}
	_, stop := start(t, store.config(r))
	if got := r.waitFor(t, "5"); !slices.Equal(got, []string{"3", "5"}) {
		t.Errorf("default filter: %v", got)
	}
	stop()
	store.startNow("shop/dead")
	store.addEvent(push.Event{Status: push.StatusUnregistered})
	start(t, store.config(r, func(cfg *webhooks.Config) { cfg.Name, cfg.Events = "dead", []push.Status{push.StatusUnregistered} }))
	if got := r.waitFor(t, "6"); !slices.Equal(got, []string{"3", "6"}) {
		t.Errorf("only unregistered: %v", got)
	}
}

func TestExpiredEventsAreDeadLettered(t *testing.T) {
	store, r := newFakeStore(), newReceiver(t, nil)
	for range 5 {
		store.addEvent(push.Event{})
	}
	store.oldest = 3
	store.checkpoints["shop/billing"] = webhooks.Checkpoint{Since: time.Now().Add(-time.Hour), After: "1"}
	w, _ := start(t, store.config(r))
	if got := r.waitFor(t, "5"); !slices.Equal(got, []string{"4", "5"}) {
		t.Errorf("%v", got)
	}
	if s := w.Status(); len(s.DeadLettered) != 1 || s.DeadLettered[0].After != "1" || !strings.Contains(s.DeadLettered[0].Reason, "expired") {
		t.Errorf("%+v", s)
	}
}

func TestEverySecretSigns(t *testing.T) {
	store, r := newFakeStore(), newReceiver(t, nil)
	next := webhooks.Secret(strings.Repeat("n", 32))
	store.startNow("shop/billing")
	store.addEvent(push.Event{})
	start(t, store.config(r, func(cfg *webhooks.Config) { cfg.Secrets = []webhooks.Secret{next, secret} }))
	m := testwait.For(t, r.received, "a message")
	if strings.HasPrefix(m.body, "broken") || verify(m.header, []byte(m.body), next) != nil {
		t.Errorf("a signature is missing: %v", m.header)
	}
	if verify(m.header, []byte(m.body+" "), secret) == nil || verify(m.header, []byte(m.body), webhooks.Secret(strings.Repeat("x", 32))) == nil {
		t.Error("a changed body or another secret is verified")
	}
	m.header.Set("Webhook-Timestamp", "1")
	if err := verify(m.header, []byte(m.body), secret); !errors.Is(err, webhook.ErrTimestamp) {
		t.Errorf("an old message: %v", err)
	}
}

func TestConfigErrorsHideSecrets(t *testing.T) {
	store := newFakeStore()
	good := webhooks.Config{App: "shop", Name: "b", URL: "https://example.com/PATH-SECRET", Secrets: []webhooks.Secret{secret}, Feed: store, Checkpoints: store}
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

// The test vector comes from the reference libraries of Standard Webhooks.
func TestStandardWebhooksTestVector(t *testing.T) {
	s, err := webhooks.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	if got := webhooks.Signature(s, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
}
