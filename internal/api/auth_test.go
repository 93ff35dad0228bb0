// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/api"
)

func TestNewKeyFormat(t *testing.T) {
	key, hash := api.NewKey()
	other, _ := api.NewKey()
	if !regexp.MustCompile(`^slk_[a-z2-7]{8}_[a-z2-7]{52}$`).MatchString(key) || key == other {
		t.Error(key)
	}
	if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(hash) {
		t.Error(hash)
	}
}

func TestUnknownKeyIs401(t *testing.T) {
	ts := newTestAPI(t)
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer " + canary, "Basic " + sendKey, sendKey, "Bearer " + sendKey + "x",
		"Bearer " + strings.ToUpper(sendKey), "Bearer " + sendHash, "Bearer " + strings.Repeat("a", 10_000)} {
		w := ts.request("POST", singlePath, validBody, "Authorization: "+header)
		p := ts.wantProblem(w, 401, "unauthenticated")
		if p.Field != "Authorization" || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") || strings.Contains(w.Body.String(), canary) {
			t.Errorf("%q: %v %s", header, w.Header(), w.Body)
		}
		ts.wantProblem(ts.request("GET", "/v1/status", "", "Authorization: "+header), 401, "unauthenticated")
	}
	if ts.count() != 0 {
		t.Error("something was sent")
	}
}

func TestBearerSchemeIsCaseInsensitive(t *testing.T) {
	for _, scheme := range []string{"bearer", "BEARER", "Bearer "} {
		if w := newTestAPI(t).request("POST", singlePath, validBody, "Authorization: "+scheme+" "+sendKey); w.Code != 200 {
			t.Errorf("%q: %d", scheme, w.Code)
		}
	}
}

func TestKeyOfOtherAppIs403EvenIfAppDoesNotExist(t *testing.T) {
	ts := newTestAPI(t)
	otherApp := ts.wantProblem(ts.request("POST", singlePath, validBody, "Authorization: Bearer "+otherKey), 403, "wrong-app")
	noApp := ts.wantProblem(ts.request("POST", "/v1/apps/nobody/notifications", validBody, "Authorization: Bearer "+otherKey), 403, "wrong-app")
	otherApp.RequestID, noApp.RequestID = "", ""
	if otherApp != noApp || ts.count() != 0 {
		t.Fatalf("%+v, %+v", otherApp, noApp)
	}
}

func TestScopes(t *testing.T) {
	ts := newTestAPI(t)
	if p := ts.wantProblem(ts.request("POST", singlePath, validBody, "Authorization: Bearer "+readKey), 403, "missing-scope"); !strings.Contains(p.Detail, "scope send") {
		t.Error(p.Detail)
	}
	if p := ts.wantProblem(ts.request("GET", "/v1/status", ""), 403, "missing-scope"); !strings.Contains(p.Detail, "scope read") {
		t.Error(p.Detail)
	}
	ts.wantProblem(ts.request("POST", batchPath, validBody, "Authorization: Bearer "+readKey), 403, "missing-scope")
	if w := ts.request("GET", "/v1/status", "", "Authorization: Bearer "+readKey); w.Code != 200 || ts.count() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestKeySharedByApps(t *testing.T) {
	ts := newTestAPI(t, func(cfg *api.Config) {
		cfg.Apps["bank"] = api.App{Keys: []api.Key{{Name: "backend", Hash: sendHash, Scopes: []string{"read"}}}}
	})
	if w := ts.request("POST", singlePath, validBody); w.Code != 200 {
		t.Error(w.Body)
	}
	ts.wantProblem(ts.request("POST", "/v1/apps/bank/notifications", validBody), 403, "missing-scope")
	if w := ts.request("GET", "/v1/status", ""); w.Code != 200 {
		t.Error(w.Body)
	}
}

func TestNewRejectsInvalidConfig(t *testing.T) {
	app := func(channels api.Key) map[string]api.App {
		return map[string]api.App{"shop": {Keys: []api.Key{channels}}}
	}
	for want, cfg := range map[string]api.Config{
		"Sender is nil": {},
		"apps.shop.keys[0].hash: must be sha256: and 64 hex digits":     {Sender: &sender{}, Apps: app(api.Key{Hash: sendKey})},
		"apps.shop.keys[0].scopes: must be any of send, read, channels": {Sender: &sender{}, Apps: app(api.Key{Hash: sendHash, Scopes: []string{"write"}})},
		"apps: a name must be 1 to 64 letters":                          {Sender: &sender{}, Apps: map[string]api.App{"../x": {}}},
	} {
		if _, err := api.New(cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), sendKey) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
