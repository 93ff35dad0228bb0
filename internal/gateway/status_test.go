// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/testwait"
)

// getWithKey makes a GET request with an API key.
func (h testGateway) getWithKey(path, key string) (int, string) {
	h.t.Helper()
	request, err := http.NewRequest(http.MethodGet, h.url+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestStatusShowsOnlyTheAppsOfTheKey has three apps with a webhook each. Two of them share the
// credential for FCM, and a third uses another account of the same project.
func TestStatusShowsOnlyTheAppsOfTheKey(t *testing.T) {
	s, other := newMockEnv(t), newMockEnv(t)
	receiver := newWebhookReceiver(t)
	keys := map[string]string{}
	var text strings.Builder
	for app, blocks := range map[string]string{
		"first.app":  s.fcmBlock(),
		"second.app": s.fcmBlock() + "\n    " + s.apnsBlock(),
		"third.app":  strings.Replace(other.fcmBlock(), other.ready.FCM, s.ready.FCM, 1),
	} {
		key, hash := identity.NewKey()
		keys[app] = key
		hook := strings.TrimSuffix(app, ".app") + "-hook"
		fmt.Fprintf(&text, "  %s:\n    keys: [{name: %s-key, hash: %q}]\n    %s\n    webhooks: [%s]\n", app, app, hash, blocks, receiver.block(t, hook, ""))
	}
	h := s.start(t, listenConfig+"queue: {dir: '"+t.TempDir()+"'}\napps:\n"+text.String())
	for app, key := range keys {
		status, body := h.getWithKey("/v1/status", key)
		if status != http.StatusOK || !strings.Contains(body, `"apps":["apps.`+app+`.`) || !strings.Contains(body, `"app":"`+app+`"`) {
			t.Errorf("%s: %d %s", app, status, body)
		}
		for otherKey := range keys {
			if otherKey != app && (strings.Contains(body, otherKey) || strings.Contains(body, strings.TrimSuffix(otherKey, ".app")+"-hook")) {
				t.Errorf("the key of %s sees %s: %s", app, otherKey, body)
			}
		}
		if seesAPNs := strings.Contains(body, s.ready.APNsKeyID); seesAPNs != (app == "second.app") {
			t.Errorf("%s sees the key ID of second.app: %v", app, seesAPNs)
		}
	}
	status, body := h.get(h.adminURL + "/v1/status")
	for app := range keys {
		if status != http.StatusOK || !strings.Contains(body, "apps."+app+".fcm") || !strings.Contains(body, s.ready.APNsKeyID) {
			t.Errorf("admin listener: %d without %s: %s", status, app, body)
		}
	}
}

// TestReloadEndsFeedOfRevokedKey reads a feed until a reload removes its key.
func TestReloadEndsFeedOfRevokedKey(t *testing.T) {
	s := newMockEnv(t)
	key, hash := identity.NewKey()
	dir := t.TempDir()
	config := func(more string) string {
		return listenConfig + "queue: {dir: '" + dir + "'}\napps:\n  shop:\n    keys: [{name: test, hash: '" + s.hash + "'}" + more + "]\n    " + s.fcmBlock() + "\n"
	}
	h := s.start(t, config(", {name: dashboard, hash: '"+hash+"', scopes: [read]}"))
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Bound)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/v1/apps/shop/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := h.reload(config("")); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body) // until the gateway ends the feed
	if err != nil || !strings.Contains(string(text), "event: problem") {
		t.Errorf("%v: %s", err, text)
	}
	if status, _ := h.getWithKey("/v1/apps/shop/events", key); status != http.StatusUnauthorized {
		t.Errorf("status %d", status)
	}
}

// TestReadinessHidesCredentials has a gateway whose provider cannot be reached. Without a key, the
// response names only the platform; on the admin listener it has the credential and the cause.
func TestReadinessHidesCredentials(t *testing.T) {
	s := newMockEnv(t)
	block := strings.Replace(s.apnsBlock(), strings.Join(s.ready.APNsEndpoints, "', '"), "127.0.0.1:1", 1)
	h := s.start(t, listenConfig+"readiness: {providers: all}\npool: {idle_timeout: 0s}\napps:\n"+s.appBlock("shop", block))
	for _, path := range []string{"/readyz", "/healthz"} {
		status, text := h.get(h.url + path)
		if status != http.StatusServiceUnavailable || !strings.Contains(text, `"name":"apns"`) || strings.Contains(text, s.ready.APNsKeyID) || strings.Contains(text, "127.0.0.1") {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text := h.get(h.adminURL + "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, s.ready.APNsKeyID) {
		t.Errorf("admin listener: %d %s", status, text)
	}
}
