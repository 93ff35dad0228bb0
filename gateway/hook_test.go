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

	"github.com/sluice-push/sluice/gateway"
	"github.com/sluice-push/sluice/webhook"
)

const hookSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// listener is a webhook's receiver. While it is sick it takes nothing.
type listener struct {
	*httptest.Server
	sick atomic.Bool
	mu   sync.Mutex
	ids  []string // of notifications, in the order of their events
	bad  []string
}

func listen(t testing.TB) *listener {
	l := &listener{}
	l.Server = httptest.NewTLSServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if l.sick.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, _ := io.ReadAll(r.Body)
	secret, _ := webhook.ParseSecret(hookSecret)
	var in struct {
		Data struct{ Events []struct{ ID, Cursor string } }
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := json.Unmarshal(body, &in); err != nil || webhook.Verify(r.Header, body, secret) != nil {
		l.bad = append(l.bad, string(body))
	}
	for _, e := range in.Data.Events {
		l.ids = append(l.ids, e.ID)
	}
}

// heard reports whether the listener was told of the notification.
func (l *listener) heard(id any) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.ids, fmt.Sprint(id))
}

// ca writes the listener's certificate to a file.
func (l *listener) ca(t testing.TB) string {
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (l *listener) block(t testing.TB, name, more string) string {
	return fmt.Sprintf("{name: %s, url: '%s/hooks', secret: %s, networks: [127.0.0.0/8], ca_file: %q%s}", name, l.URL, hookSecret, l.ca(t), more)
}

// hooked is a configuration whose app shop has webhooks.
func (s street) hooked(dir string, blocks ...string) string {
	hooks := "webhooks: [" + strings.Join(blocks, ", ") + "]"
	return head + patient + fmt.Sprintf("queue: {dir: %q}\n", dir) + "apps:\n" + s.app("shop", s.apns(), hooks)
}

func TestAWebhookIsToldOfEveryEndAlsoAfterARestartAndASickReceiverOfNone(t *testing.T) {
	s, dir, well, sick := newStreet(t), t.TempDir(), listen(t), listen(t)
	sick.sick.Store(true)
	text := s.hooked(dir, well.block(t, "well", ""), sick.block(t, "sick", ", events: [unregistered]"))
	h := s.open(t, text)
	_, alive := h.ask("POST", "", apnsTo(device), "Prefer", "respond-async")
	_, dead := h.ask("POST", "", apnsTo("dead0000"+device[8:]))
	until(func() bool { return well.heard(alive["id"]) && well.heard(dead["id"]) })
	until(func() bool {
		for _, w := range h.gate.Status().Webhooks {
			if w.Name == "sick" {
				return w.Failures > 0 && w.Reason == "HTTP status 503"
			}
		}
		return false
	})
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	sick.sick.Store(false)
	h = s.open(t, text)
	until(func() bool { return sick.heard(dead["id"]) })
	if sick.heard(alive["id"]) || len(well.bad)+len(sick.bad) != 0 {
		t.Errorf("%v %v", well.bad, sick.bad)
	}
}

func TestAReloadLetsAWebhookGoOnOrBeginAnewWhereItWas(t *testing.T) {
	s, dir, first, second := newStreet(t), t.TempDir(), listen(t), listen(t)
	before := s.hooked(dir, first.block(t, "billing", ""))
	h := s.open(t, before)
	send := func() any {
		_, got := h.ask("POST", "", apnsTo(device))
		return got["id"]
	}
	reload := func(text string) []string {
		changes, err := h.gate.Reload(parse(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return changes
	}
	one := send()
	until(func() bool { return first.heard(one) })
	if changes := reload(before); len(changes) != 0 {
		t.Errorf("%q", changes)
	}
	two := send()
	until(func() bool { return first.heard(two) })
	first.sick.Store(true)
	three := send()
	if changes := fmt.Sprint(reload(s.hooked(dir, second.block(t, "billing", "")))); !strings.Contains(changes, "webhook shop/billing: begins anew where it was") || strings.Contains(changes, "whsec") || strings.Contains(changes, "/hooks") {
		t.Errorf("%s", changes)
	}
	until(func() bool { return second.heard(three) })
	if second.heard(one) {
		t.Error("it began at the beginning")
	}
	reload(s.hooked(dir))
	send()
	if got := h.gate.Status().Webhooks; len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAWebhookWithoutAGoodSecretIsRefused(t *testing.T) {
	s, l := newStreet(t), listen(t)
	file := filepath.Join(t.TempDir(), "secret")
	for text, ok := range map[string]bool{"": false, "whsec_SECRET": false, hookSecret + "\n" + hookSecret + "\n": true} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		block := strings.Replace(l.block(t, "billing", ""), "secret: "+hookSecret, fmt.Sprintf("secret_file: %q", file), 1)
		_, err := gateway.New(parse(t, s.hooked(t.TempDir(), block)), nil)
		if (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), "apps.shop.webhooks[0].secret_file") || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
