// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/webhook"
)

const webhookSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// webhookReceiver receives the events of a webhook. While failing is set it accepts none.
type webhookReceiver struct {
	*httptest.Server
	failing atomic.Bool
	gone    atomic.Bool   // it answers 410
	posts   atomic.Uint64 // messages
	mu      sync.Mutex
	ids     []string // of the notifications, in the order of the events
	traces  []string // traceparent of the messages
	invalid []string
}

func newWebhookReceiver(t testing.TB) *webhookReceiver {
	l := &webhookReceiver{}
	l.Server = httptest.NewTLSServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *webhookReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.posts.Add(1)
	if l.gone.Load() {
		w.WriteHeader(http.StatusGone)
		return
	}
	if l.failing.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, _ := io.ReadAll(r.Body)
	verifier, _ := webhook.NewVerifier(webhookSecret)
	var in struct {
		Data struct{ Events []struct{ ID, Cursor string } }
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := json.Unmarshal(body, &in); err != nil || verifier.Verify(r.Header, body) != nil {
		l.invalid = append(l.invalid, string(body))
	}
	l.traces = append(l.traces, r.Header.Get("Traceparent"))
	for _, e := range in.Data.Events {
		l.ids = append(l.ids, e.ID)
	}
}

// received reports whether the receiver got an event of the notification.
func (l *webhookReceiver) received(id any) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.ids, fmt.Sprint(id))
}

// traceParents returns the traceparent of each message.
func (l *webhookReceiver) traceParents() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.traces)
}

// caFile writes the receiver's certificate to a file.
func (l *webhookReceiver) caFile(t testing.TB) string {
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (l *webhookReceiver) block(t testing.TB, name, more string) string {
	return fmt.Sprintf("{name: %s, url: '%s/hooks', secret: %s, networks: [127.0.0.0/8], ca_file: %q%s}", name, l.URL, webhookSecret, l.caFile(t), more)
}

// webhookConfig returns a configuration whose app shop has webhooks.
func (s mockEnv) webhookConfig(dir string, blocks ...string) string {
	hooks := "webhooks: [" + strings.Join(blocks, ", ") + "]"
	return listenConfig + slowTimeouts + fmt.Sprintf("queue: {dir: %q}\n", dir) + "apps:\n" + s.appBlock("shop", s.apnsBlock(), hooks)
}

func TestWebhookDeliveryContinuesAfterRestart(t *testing.T) {
	s, dir, working, failing := newMockEnv(t), t.TempDir(), newWebhookReceiver(t), newWebhookReceiver(t)
	failing.failing.Store(true)
	text := s.webhookConfig(dir, working.block(t, "working", ""), failing.block(t, "failing", ", events: [unregistered]"))
	h := s.start(t, text)
	_, valid := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
	_, unregistered := h.request("POST", "", apnsNotification("dead0000"+deviceToken[8:]))
	testwait.Until(t, func() bool { return working.received(valid["id"]) && working.received(unregistered["id"]) }, "the working receiver has both events")
	testwait.Until(t, func() bool {
		for _, w := range h.gw.Status().Webhooks {
			if w.Name == "failing" {
				return w.Failures > 0 && w.Reason == "HTTP status 503"
			}
		}
		return false
	}, "the failing webhook reports its failure")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	failing.failing.Store(false)
	h = s.start(t, text)
	testwait.Until(t, func() bool { return failing.received(unregistered["id"]) }, "the receiver that failed has the event")
	if failing.received(valid["id"]) || len(working.invalid)+len(failing.invalid) != 0 {
		t.Errorf("%v %v", working.invalid, failing.invalid)
	}
}

func TestReloadKeepsOrResumesWebhook(t *testing.T) {
	s, dir, first, second := newMockEnv(t), t.TempDir(), newWebhookReceiver(t), newWebhookReceiver(t)
	before := s.webhookConfig(dir, first.block(t, "billing", ""))
	h := s.start(t, before)
	send := func() any {
		_, got := h.request("POST", "", apnsNotification(deviceToken))
		return got["id"]
	}
	reload := func(text string) []string {
		changes, err := h.gw.Reload(parse(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return changes
	}
	one := send()
	testwait.Until(t, func() bool { return first.received(one) }, "the receiver has the first event")
	if changes := reload(before); len(changes) != 0 {
		t.Errorf("%q", changes)
	}
	two := send()
	testwait.Until(t, func() bool { return first.received(two) }, "the receiver has the second event")
	first.failing.Store(true)
	three := send()
	if changes := fmt.Sprint(reload(s.webhookConfig(dir, second.block(t, "billing", "")))); !strings.Contains(changes, "webhook shop/billing: restarted at its checkpoint") || strings.Contains(changes, "whsec") || strings.Contains(changes, "/hooks") {
		t.Errorf("%s", changes)
	}
	testwait.Until(t, func() bool { return second.received(three) }, "the new receiver has the third event")
	if second.received(one) {
		t.Error("it started with the first event")
	}
	reload(s.webhookConfig(dir))
	send()
	if got := h.gw.Status().Webhooks; len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestGoneReceiverDisablesWebhook has a receiver that answers 410. The webhook stays disabled after a
// restart and after a reload that does not concern it, and continues after one that does.
func TestGoneReceiverDisablesWebhook(t *testing.T) {
	s, dir, l := newMockEnv(t), t.TempDir(), newWebhookReceiver(t)
	block := l.block(t, "billing", "")
	text := s.webhookConfig(dir, block)
	l.gone.Store(true)
	h := s.start(t, text)
	_, first := h.request("POST", "", apnsNotification(deviceToken))
	disabled := func() bool {
		hooks := h.gw.Status().Webhooks
		return len(hooks) == 1 && !hooks[0].DisabledSince.IsZero()
	}
	testwait.Until(t, disabled, "a disabled webhook")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	l.gone.Store(false)
	h = s.start(t, text)
	_, second := h.request("POST", "", apnsNotification(deviceToken))
	testwait.Until(t, disabled, "a disabled webhook after the restart")
	if _, err := h.gw.Reload(parse(t, strings.Replace(text, "send_timeout: 10m", "send_timeout: 9m", 1))); err != nil {
		t.Fatal(err)
	}
	if !disabled() || l.posts.Load() != 1 {
		t.Errorf("disabled %v, %d messages", disabled(), l.posts.Load())
	}
	if _, err := h.gw.Reload(parse(t, strings.Replace(text, "/hooks'", "/new'", 1))); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, func() bool { return l.received(first["id"]) && l.received(second["id"]) }, "both events")
	if disabled() {
		t.Error("still disabled")
	}
}

func TestWebhookWithInvalidSecretIsRejected(t *testing.T) {
	s, l := newMockEnv(t), newWebhookReceiver(t)
	file := filepath.Join(t.TempDir(), "secret")
	for text, ok := range map[string]bool{"": false, "whsec_SECRET": false, webhookSecret + "\n" + webhookSecret + "\n": true} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		block := strings.Replace(l.block(t, "billing", ""), "secret: "+webhookSecret, fmt.Sprintf("secret_file: %q", file), 1)
		_, err := gateway.New(parse(t, s.webhookConfig(t.TempDir(), block)), nil)
		if (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), "apps.shop.webhooks[0].secret_file") || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
