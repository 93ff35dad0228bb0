// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/mockprovider/webpush/webpushtest"
)

func TestAPNsAcceptsAPush(t *testing.T) {
	m := mockprovider.Start(t)
	got := do(t, newClient(t, m), push(t, m))
	if got.status != 200 || got.body != "" || got.header.Get("apns-id") != apnsID {
		t.Fatalf("got %d %q with apns-id %q", got.status, got.body, got.header.Get("apns-id"))
	}
	entry := m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.APNs, ID: apnsID}, 1)[0]
	if entry.Token != deviceToken || entry.Topic != "com.example.app" || entry.PushType != "alert" || !entry.Accepted || !entry.Answered {
		t.Errorf("the ledger has %+v", entry)
	}
}

func TestAPNsAcceptsAClientCertificate(t *testing.T) {
	m := mockprovider.Start(t)
	c := newClient(t, m, m.ClientCertificate())
	for topic, status := range map[string]int{"com.example.app": 200, "com.example.other": 400} {
		if got := do(t, c, push(t, m, set("authorization", "bearer nonsense"), set("apns-topic", topic))); got.status != status {
			t.Errorf("topic %q: got %d %s, want %d", topic, got.status, got.body, status)
		}
	}
}

func TestAPNsConnectionIsBoundToOneKey(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{
		Streams:     mockprovider.Streams{Start: 1000}, // with a limit of 1, net/http may open a second connection
		Credentials: []mockprovider.Credential{{}, {TeamID: "MOCKTEAM01", KeyID: "OTHERKEY01"}},
	})
	c := newClient(t, m)
	if got := do(t, c, push(t, m)); got.status != 200 {
		t.Fatalf("first push: got %d %s", got.status, got.body)
	}
	got := do(t, c, push(t, m, set("authorization", "bearer "+providerToken(t, m.Credentials()[1], 0))))
	if got.status != 403 || got.object["reason"] != "UnrelatedKeyIdInToken" {
		t.Errorf("other key: got %d %s", got.status, got.body)
	}
}

func TestTokenUpdatesAreLimited(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{TokenUpdateEvery: 20 * time.Minute})
	c := newClient(t, m)
	for age, want := range []int{200, 429} {
		token := providerToken(t, m.Credentials()[0], time.Duration(age)*time.Minute)
		if got := do(t, c, push(t, m, set("authorization", "bearer "+token))); got.status != want {
			t.Errorf("token %d: got %d %s, want %d", age, got.status, got.body, want)
		}
	}
}

func TestBroadcastReachesItsChannel(t *testing.T) {
	m := mockprovider.Start(t)
	channel := createChannel(t, m)
	if got := do(t, newClient(t, m), broadcast(t, m, channel)); got.status != 200 || got.header.Get("apns-request-id") != apnsID {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	accepted := true
	got := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs, Token: channel, ID: apnsID, Accepted: &accepted})
	if len(got) != 1 || got[0].Path != "/4/broadcasts/apps/com.example.app" {
		t.Errorf("the ledger has %+v", got)
	}
	if accepted := m.Ledger().AcceptedByToken(); len(accepted) != 1 || accepted[channel] != 1 {
		t.Errorf("accepted notifications: %v; channel management is not one", accepted)
	}
}

func TestFCMNeedsAnAccessToken(t *testing.T) {
	m := mockprovider.Start(t)
	weak := exchange(t, m, assertion(t, m, func(_, claims object) {
		claims["scope"] = "https://www.googleapis.com/auth/userinfo.email"
	}))
	strong := accessToken(t, m)
	expect := func(accessToken string, status int, code string) {
		t.Helper()
		if got := do(t, newClient(t, m), message(t, m, accessToken, to(registrationToken))); got.status != status || fcmCode(got) != code {
			t.Errorf("got %d %s, want %d %s", got.status, fcmCode(got), status, code)
		}
	}
	expect(strong, 200, "")
	expect(weak.object["access_token"].(string), 403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
	expect("unknown", 401, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
	m.ExpireAccessTokens()
	expect(strong, 401, "ACCESS_TOKEN_EXPIRED")
}

func TestFCMServesHTTP1(t *testing.T) {
	m := mockprovider.Start(t)
	if got := do(t, newHTTP1Client(t, m), message(t, m, accessToken(t, m), to(registrationToken))); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
	entries := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.FCM})
	if len(entries) != 1 || entries[0].Stream != 0 || entries[0].Token != registrationToken || !entries[0].Accepted {
		t.Errorf("the ledger has %+v", entries)
	}
}

// webPush returns a valid push to an endpoint.
func webPush(t testing.TB, m *mockprovider.Mock, endpoint string, encrypted []byte) *http.Request {
	t.Helper()
	r := newRequest(t, "POST", endpoint, string(encrypted))
	r.Header.Set("TTL", "60")
	r.Header.Set("Content-Encoding", "aes128gcm")
	r.Header.Set("Authorization", webpushtest.Authorization(t, object{
		"aud": m.WebPushURL(), "exp": time.Now().Add(time.Hour).Unix(), "sub": "mailto:ops@example.com",
	}))
	return r
}

func subscribe(t testing.TB, m *mockprovider.Mock, flavour mockprovider.Flavour) mockprovider.Subscription {
	t.Helper()
	s, err := m.Subscribe(flavour, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func encrypt(t testing.TB, to mockprovider.Subscription, text string) []byte {
	t.Helper()
	return webpushtest.Encrypt(t, to.Keys.P256DH, to.Keys.Auth, text, 0)
}

func TestLedgerHasThePlaintextOfWebPush(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{KeepContent: true})
	for _, flavour := range []mockprovider.Flavour{mockprovider.Google, mockprovider.Mozilla, mockprovider.Apple} {
		s, other := subscribe(t, m, flavour), subscribe(t, m, flavour)
		for text, encrypted := range map[string][]byte{"Hello": encrypt(t, s, "Hello"), "": encrypt(t, other, "Hello")} {
			if got := do(t, newClient(t, m), webPush(t, m, s.Endpoint, encrypted)); got.status != 201 {
				t.Fatalf("%s: got %d %s", flavour, got.status, got.body)
			}
			last := m.Ledger().Entries(mockprovider.Query{Limit: 1})[0]
			if last.Plaintext != text || (last.Undecryptable == "") != (text != "") || !strings.HasSuffix(s.Endpoint, last.Token) {
				t.Errorf("%s: got %q (%s), want %q", flavour, last.Plaintext, last.Undecryptable, text)
			}
		}
	}
}

func TestLedgerHasNoPlaintextByDefault(t *testing.T) {
	m := mockprovider.Start(t)
	s, other := subscribe(t, m, mockprovider.Google), subscribe(t, m, mockprovider.Google)
	do(t, newClient(t, m), webPush(t, m, s.Endpoint, encrypt(t, s, "secret")))
	if last := m.Ledger().Entries(mockprovider.Query{Limit: 1})[0]; !last.Accepted || last.Plaintext != "" || last.Undecryptable != "" {
		t.Errorf("the ledger has %+v", last)
	}
	do(t, newClient(t, m), webPush(t, m, s.Endpoint, encrypt(t, other, "secret")))
	if last := m.Ledger().Entries(mockprovider.Query{Limit: 1})[0]; !last.Accepted || last.Body != "" || last.Undecryptable == "" {
		t.Errorf("the ledger has %+v", last)
	}
}

func TestSubscriptionsOverHTTP(t *testing.T) {
	m := mockprovider.Start(t)
	expect := func(method, link, body string, want int) string {
		t.Helper()
		got := call(t, method, link, body)
		if got.status != want {
			t.Fatalf("%s %s: got %d %s, want %d", method, body, got.status, got.body, want)
		}
		return got.body
	}
	var s mockprovider.Subscription
	if err := json.Unmarshal([]byte(expect("POST", m.SubscriptionsURL(), `{"flavour":"apple"}`, 201)), &s); err != nil {
		t.Fatal(err)
	}
	if got := do(t, newClient(t, m), webPush(t, m, s.Endpoint, encrypt(t, s, "Hello"))); got.status != 201 || got.header.Get("apns-id") == "" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	expect("DELETE", m.SubscriptionsURL()+"?endpoint="+url.QueryEscape(s.Endpoint), "", 204)
	if got := do(t, newClient(t, m), webPush(t, m, s.Endpoint, encrypt(t, s, "Hello"))); got.status != 410 {
		t.Errorf("after DELETE: got %d %s", got.status, got.body)
	}
	expect("DELETE", m.SubscriptionsURL()+"?endpoint=none", "", 404)
	expect("POST", m.SubscriptionsURL(), "", 201)
	expect("POST", m.SubscriptionsURL(), `{"flavour":"wns"}`, 400)
	expect("POST", m.SubscriptionsURL(), `{"server_key":"AAAA"}`, 400)
	expect("POST", m.SubscriptionsURL(), `{"flavor":"apple"}`, 400)
}
