// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
	"github.com/sluice-push/sluice/mockprovider/webpush"
	"github.com/sluice-push/sluice/mockprovider/webpush/webpushtest"
)

// newStopped returns a mock that does not run. Its services can be called.
func newStopped(tb testing.TB) *Mock {
	tb.Helper()
	m, err := New(Config{Endpoints: 1, LedgerSize: 100, AccessTokenLifetime: 24 * time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	m.closeListeners()
	_ = m.admin.listener.Close()
	return m
}

// FuzzEveryService checks that every response can be sent, that a response other than a success has a
// reason, and that JSON is valid. A request with "authorization: VALID" gets a valid credential.
func FuzzEveryService(f *testing.F) {
	for _, seed := range []struct {
		service            byte
		method, path, head string
		body               string
	}{
		{0, "POST", "/3/device/00fc13adff785122", "authorization: VALID\napns-topic: com.example.app\napns-push-type: alert\napns-priority: 10", `{"aps":{"alert":"x"}}`},
		{0, "POST", "/4/broadcasts/apps/com.example.app", "authorization: VALID\napns-push-type: liveactivity\napns-channel-id: dHN0LXNyY2gtY2hubA==", `{"aps":{"event":"update"}}`},
		{1, "POST", "/1/apps/com.example.app/channels", "authorization: VALID\napns-request-id: x", `{"message-storage-policy":1,"push-type":"LiveActivity"}`},
		{1, "GET", "/1/apps/com.example.app/all-channels?x", "authorization: VALID", ""},
		{1, "DELETE", "/1/apps/com.example.app/channels", "authorization: VALID\napns-channel-id: !", ""},
		{2, "POST", "/v1/projects/demo-project/messages:send", "authorization: VALID", `{"message":{"token":"a:b","notification":{"title":"x"}}}`},
		{3, "POST", "/token", "", "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b.c"},
		{4, "POST", "/push/x", "authorization: VALID\nttl: 60\nurgency: high\ntopic: x", ""},
		{4, "POST", "/fcm/send/x", "ttl: -1", "x"},
		{4, "POST", "/Qx", "ttl: 1\ncontent-encoding: aes128gcm", "x"},
	} {
		f.Add(seed.service, seed.method, seed.path, seed.head, []byte(seed.body))
	}
	m := newStopped(f)
	provider := "bearer " + providerToken(f, m)
	valid := map[string]string{APNs: provider, APNsManage: provider, FCM: "Bearer " + issuedToken(f, m), WebPush: webpushtest.Authorization(f,
		jwttest.Claims{"aud": "https://mock.example", "exp": time.Now().Add(23 * time.Hour).Unix(), "sub": "mailto:ops@example.com"})}
	f.Fuzz(func(t *testing.T, service byte, method, path, head string, body []byte) {
		name := []string{APNs, APNsManage, FCM, OAuth, WebPush}[service%5]
		r := &h2.Request{Method: method, Path: path, Authority: "mock.example", Body: body[:min(len(body), h2.MaxBody)]}
		for line := range strings.Lines(head) {
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if field == "authorization" && value == "VALID" {
				value = cmp.Or(valid[name], "VALID")
			}
			r.Header = append(r.Header, h2.UniqueField(field, value))
		}
		resp := m.services[name][0].serve(nil).Respond(r)
		switch {
		case resp.Status < 200 || resp.Status >= 600, resp.Accepted != (resp.Status < 300):
			t.Errorf("%s responds %d, accepted %v", name, resp.Status, resp.Accepted)
		case !resp.Accepted && resp.Reason == "":
			t.Errorf("%s responds %d without a reason", name, resp.Status)
		}
		for _, h := range resp.Header {
			if !httpguts.ValidHeaderFieldName(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) {
				t.Errorf("%s responds with the field %q: %q", name, h.Name, h.Value)
			}
			if h.Name == "content-type" && strings.HasPrefix(h.Value, "application/json") && len(resp.Body) > 0 && !json.Valid(resp.Body) {
				t.Errorf("%s responds with the body %q", name, resp.Body)
			}
		}
	})
}

// providerToken returns a provider token that is valid for the first hour of the test.
func providerToken(tb testing.TB, m *Mock) string {
	tb.Helper()
	c := m.Credentials()[0]
	return jwttest.ES256(tb, jwttest.PrivateKey[*ecdsa.PrivateKey](tb, c.KeyPEM),
		jwttest.Claims{"alg": "ES256", "kid": c.KeyID}, jwttest.Claims{"iss": c.TeamID, "iat": time.Now().Unix()})
}

// issuedToken returns an access token of the token endpoint.
func issuedToken(tb testing.TB, m *Mock) string {
	tb.Helper()
	file, err := m.ServiceAccount()
	if err != nil {
		tb.Fatal(err)
	}
	var account struct {
		Email string `json:"client_email"`
		Key   string `json:"private_key"`
	}
	if err := json.Unmarshal(file, &account); err != nil {
		tb.Fatal(err)
	}
	assertion := jwttest.RS256(tb, jwttest.PrivateKey[*rsa.PrivateKey](tb, []byte(account.Key)), jwttest.Claims{"alg": "RS256"}, jwttest.Claims{
		"iss": account.Email, "scope": "https://www.googleapis.com/auth/firebase.messaging", "aud": m.TokenURL(),
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	resp := m.services[OAuth][0].serve(nil).Respond(&h2.Request{Method: "POST", Path: "/token", Body: []byte(form.Encode())})
	var body struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(resp.Body, &body); err != nil || body.AccessToken == "" {
		tb.Fatalf("the token endpoint responded %d %s", resp.Status, resp.Body)
	}
	return body.AccessToken
}

// FuzzAdmin checks that no request to the mock's own API gets a 5xx response, and that JSON is valid.
func FuzzAdmin(f *testing.F) {
	for _, seed := range [][3]string{
		{"GET", "/ledger?service=apns&accepted=true&limit=3&await=1", ""}, {"GET", "/ledger?status=x&after=18446744073709551615", ""},
		{"GET", "/ledger/summary", ""}, {"DELETE", "/ledger", ""}, {"GET", "/script", ""},
		{"PUT", "/script", "faults:\n- {service: apns, status: 503, share: 0.5, for: 1s}\n"}, {"PUT", "/script", `{"faults":[{"goaway":{"every":1}}]}`},
		{"DELETE", "/script", ""}, {"POST", "/subscriptions", `{"flavour":"apple","server_key":"BA"}`}, {"DELETE", "/subscriptions?endpoint=https://x/Qx", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	m := newStopped(f)
	handler := m.admin.handler()
	canceled, cancel := context.WithCancel(context.Background())
	cancel() // so that no request waits for entries
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequestWithContext(canceled, method, "http://mock.example", strings.NewReader(body))
		if err != nil {
			return
		}
		if r.URL, err = r.URL.Parse(target); err != nil || !strings.HasPrefix(r.URL.Path, "/") {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %s %q: %d %s", method, target, body, w.Code, w.Body)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: %s", method, target, w.Body)
		}
		m.webPush = webpush.New() // drop the subscriptions
	})
}
