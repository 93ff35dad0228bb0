// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

// TestDeclarativeWebPush sends to two subscriptions of one app, of which one is Apple's, and compares
// what the browsers decrypt with what a dry run shows.
func TestDeclarativeWebPush(t *testing.T) {
	s := newMockEnv(t, mockprovider.Config{KeepContent: true})
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web", replace(s.webPushBlock(t), "webpush: {", "webpush: {navigate: 'https://shop.example.com/', ")))
	for _, c := range []struct {
		flavour mockprovider.Flavour
		options string
		want    string
	}{
		{mockprovider.Mozilla, `{}`, `{"title":"Hi","app_badge":2,"navigate":"https://shop.example.com/"}`},
		{mockprovider.Apple, `{}`, `{"web_push":8030,"notification":{"title":"Hi","navigate":"https://shop.example.com/","app_badge":2},` +
			`"title":"Hi","app_badge":2,"navigate":"https://shop.example.com/"}`},
		{mockprovider.Mozilla, `{"declarative":true,"mutable":true,"notification":{"navigate":"https://shop.example.com/7"}}`,
			`{"web_push":8030,"notification":{"title":"Hi","navigate":"https://shop.example.com/7","app_badge":2,"mutable":true},"mutable":true,` +
				`"title":"Hi","app_badge":2,"navigate":"https://shop.example.com/7"}`},
	} {
		to, err := s.mock.Subscribe(c.flavour, "")
		if err != nil {
			t.Fatal(err)
		}
		if c.flavour == mockprovider.Apple {
			to.Endpoint = replace(to.Endpoint, s.ready.WebPush, "https://web.push.apple.com")
		}
		subscription, _ := json.Marshal(to)
		body := `{"platform":"webpush","title":"Hi","badge":2,"webpush":` + c.options + `,"subscription":` + string(subscription) + `}`
		_, dry := h.post("web", asDryRun(body))
		if got, _ := dry["dry_run"].(map[string]any); got["payload"] != c.want {
			t.Errorf("%s: the dry run shows %v, want %s", c.flavour, dry, c.want)
		}
		if code, receipt := h.post("web", body); code != http.StatusOK || receipt["status"] != "accepted" {
			t.Fatalf("%s: %d %v", c.flavour, code, receipt)
		}
		last := s.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.WebPush, Limit: 1})[0]
		if last.Plaintext != c.want {
			t.Errorf("%s: the browser got %q (%s), want %s", c.flavour, last.Plaintext, last.Undecryptable, c.want)
		}
	}
	code, refused := h.post("web", replace(webPushNotification(t, s.ready.WebPush+"/push/abc"), `"title":"Hi"`, `"body":"x","webpush":{"declarative":true}`))
	if code != http.StatusBadRequest || refused["field"] != "title" || !strings.Contains(refused["detail"].(string), "needs a title") {
		t.Errorf("without a title: %d %v", code, refused)
	}
}
