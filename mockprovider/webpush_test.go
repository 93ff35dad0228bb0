// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// webPush makes a good request, that change may spoil.
func webPush(t testing.TB, m *mockprovider.Mock, change func(r *http.Request, claims object)) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST", m.WebPushURL()+"/push/JzLQ3raZJfFBR0", bytes.NewReader(rfc8291(t)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("TTL", "60")
	r.Header.Set("Urgency", "normal")
	r.Header.Set("Content-Encoding", "aes128gcm")
	claims := object{"aud": m.WebPushURL(), "exp": time.Now().Add(time.Hour).Unix(), "sub": "mailto:ops@example.com"}
	if change != nil {
		change(r, claims)
	}
	if r.Header.Get("Authorization") == "" {
		key, public := vapidKey(t)
		r.Header.Set("Authorization", "vapid t="+signES256(t, key, object{"alg": "ES256"}, claims)+", k="+public)
	}
	return r
}

// vapidKey makes a web site's key, and its public half as browsers want it.
func vapidKey(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return key, base64.RawURLEncoding.EncodeToString(point)
}

// rfc8291 is the message of RFC 8291 5.
func rfc8291(t testing.TB) []byte {
	t.Helper()
	return unbase64(t, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A"+
		"_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
}

func unbase64(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAWebPushIsCreatedOrRefused(t *testing.T) {
	m := mockprovider.Start(t)
	header := func(name, value string) func(*http.Request, object) {
		return func(r *http.Request, _ object) { r.Header.Set(name, value) }
	}
	claim := func(name string, value any) func(*http.Request, object) {
		return func(_ *http.Request, claims object) { claims[name] = value }
	}
	for name, c := range map[string]struct {
		status int
		change func(*http.Request, object)
	}{
		"good":            {201, nil},
		"no header":       {400, func(r *http.Request, _ object) { body(r, "cipher") }},
		"bad sender key":  {400, func(r *http.Request, _ object) { body(r, string(rfc8291(t)[:21])+strings.Repeat("x", 123)) }},
		"no TTL":          {400, func(r *http.Request, _ object) { r.Header.Del("TTL") }},
		"bad TTL":         {400, header("TTL", "-1")},
		"bad urgency":     {400, header("Urgency", "now")},
		"long topic":      {400, header("Topic", strings.Repeat("x", 33))},
		"bad topic":       {400, header("Topic", "a b")},
		"other encoding":  {400, header("Content-Encoding", "aesgcm")},
		"too large":       {413, func(r *http.Request, _ object) { body(r, strings.Repeat("x", 4097)) }},
		"no proof":        {401, header("Authorization", "none")},
		"broken proof":    {401, header("Authorization", "vapid t=a.b.c, k=AAAA")},
		"other audience":  {401, claim("aud", "https://example.com")},
		"expired":         {401, claim("exp", time.Now().Add(-time.Second).Unix())},
		"far too long":    {401, claim("exp", time.Now().Add(25*time.Hour).Unix())},
		"no contact":      {401, claim("sub", "me")},
		"no subscription": {404, func(r *http.Request, _ object) { r.URL.Path = "/other" }},
		"not a push":      {405, func(r *http.Request, _ object) { r.Method = "PUT" }},
	} {
		got := do(t, client(t, m), webPush(t, m, c.change))
		if got.status != c.status {
			t.Errorf("%s: got %d %s, want %d", name, got.status, got.body, c.status)
		}
		if c.status == 201 && (!strings.HasPrefix(got.header.Get("location"), m.WebPushURL()+"/message/") || got.header.Get("ttl") != "60") {
			t.Errorf("%s: %v", name, got.header)
		}
	}
}

// seal encrypts for a subscription by the letter of RFC 8291, apart from the code under test.
func seal(t testing.TB, to mockprovider.Subscription, text string, pad int) []byte {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	device, err := ecdh.P256().NewPublicKey(unbase64(t, to.Keys.P256DH))
	must(err)
	mine, err := ecdh.P256().GenerateKey(rand.Reader)
	must(err)
	shared, err := mine.ECDH(device)
	must(err)
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	derive := func(secret, salt []byte, info string, n int) []byte {
		key, err := hkdf.Key(sha256.New, secret, salt, info, n)
		must(err)
		return key
	}
	ikm := derive(shared, unbase64(t, to.Keys.Auth), "WebPush: info\x00"+string(device.Bytes())+string(mine.PublicKey().Bytes()), 32)
	block, err := aes.NewCipher(derive(ikm, salt, "Content-Encoding: aes128gcm\x00", 16))
	must(err)
	aead, err := cipher.NewGCM(block)
	must(err)
	head := append(append(salt, 0, 0, 16, 0, 65), mine.PublicKey().Bytes()...)
	padded := append([]byte(text+"\x02"), make([]byte, pad)...)
	return aead.Seal(head, derive(ikm, salt, "Content-Encoding: nonce\x00", 12), padded, nil)
}

// pushTo makes a good push to a subscription, that change may spoil.
func pushTo(t testing.TB, m *mockprovider.Mock, to mockprovider.Subscription, sealed []byte, change func(*http.Request, object)) *http.Request {
	t.Helper()
	return webPush(t, m, func(r *http.Request, claims object) {
		at, err := url.Parse(to.Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		r.URL = at
		body(r, string(sealed))
		if change != nil {
			change(r, claims)
		}
	})
}

func subscribed(t testing.TB, m *mockprovider.Mock, flavour mockprovider.Flavour, serverKey string) mockprovider.Subscription {
	t.Helper()
	s, err := m.Subscribe(flavour, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var flavours = []mockprovider.Flavour{mockprovider.Google, mockprovider.Mozilla, mockprovider.Apple}

func TestTheBrowserReadsWhatWasSealedForIt(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{KeepContent: true})
	for _, flavour := range flavours {
		to := subscribed(t, m, flavour, "")
		for _, c := range []struct {
			text string
			pad  int
		}{{"Hello", 0}, {"", 0}, {"Grüße, 世界 🌍", 100}, {strings.Repeat("x", 3993), 0}, {"padded to the last byte", 3993 - 23}} {
			if got := do(t, client(t, m), pushTo(t, m, to, seal(t, to, c.text, c.pad), nil)); got.status != 201 {
				t.Fatalf("%s: got %d %s", flavour, got.status, got.body)
			}
			last := m.Ledger().Entries(mockprovider.Query{Limit: 1})[0]
			if last.Plaintext != c.text || last.Undecryptable != "" || !strings.HasSuffix(to.Endpoint, last.Token) {
				t.Errorf("%s: the browser read %q (%s), sent was %q", flavour, last.Plaintext, last.Undecryptable, c.text)
			}
		}
	}
}

func TestAMessageForAnotherBrowserIsAcceptedAndCannotBeRead(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{KeepContent: true})
	to, other := subscribed(t, m, mockprovider.Mozilla, ""), subscribed(t, m, mockprovider.Mozilla, "")
	if got := do(t, client(t, m), pushTo(t, m, to, seal(t, other, "secret", 0), nil)); got.status != 201 {
		t.Fatalf("a service has no key, yet answered %d %s", got.status, got.body)
	}
	last := m.Ledger().Entries(mockprovider.Query{Limit: 1})[0]
	if last.Plaintext != "" || !strings.Contains(last.Undecryptable, "not sealed for this subscription") {
		t.Errorf("the ledger has %+v", last)
	}
}

func TestTheLedgerKeepsNoPlaintextUnlessAsked(t *testing.T) {
	m := mockprovider.Start(t)
	to := subscribed(t, m, mockprovider.Google, "")
	do(t, client(t, m), pushTo(t, m, to, seal(t, to, "secret", 0), nil))
	if last := m.Ledger().Entries(mockprovider.Query{Limit: 1})[0]; !last.Accepted || last.Plaintext != "" || last.Undecryptable != "" {
		t.Errorf("the ledger has %+v", last)
	}
}

func TestEachServiceRefusesInItsOwnWords(t *testing.T) {
	m := mockprovider.Start(t)
	_, siteKey := vapidKey(t)
	header := func(name, value string) func(*http.Request, object) {
		return func(r *http.Request, _ object) { r.Header.Set(name, value) }
	}
	for _, c := range []struct {
		fault          string
		google         string // status and what the body holds
		mozilla, apple string
		change         func(*http.Request, object)
	}{
		{"no TTL", "400 TTL", `400 "errno":111`, "400 BadTtl", func(r *http.Request, _ object) { r.Header.Del("TTL") }},
		{"bad TTL", "400 TTL", `400 "errno":112`, "400 BadTtl", header("TTL", "soon")},
		{"bad urgency", "400 urgency", `400 "errno":110`, "400 BadUrgency", header("Urgency", "now")},
		{"bad topic", "400 topic", `400 "errno":113`, "400 BadWebPushTopic", header("Topic", strings.Repeat("x", 33))},
		{"too large", "413 large", `413 "errno":104`, "413 PayloadTooLarge", func(r *http.Request, _ object) { body(r, strings.Repeat("x", 4097)) }},
		{"old encoding", "400 encoding", `400 "errno":110`, "400 BadWebPushRequest", header("Content-Encoding", "aesgcm")},
		{"not sealed", "400 encoding", `400 "errno":110`, "400 BadWebPushRequest", func(r *http.Request, _ object) { body(r, "hello") }},
		{"no proof", "400 UnauthorizedRegistration", `401 "errno":109`, "403 BadAuthorizationHeader", header("Authorization", "none")},
		{"broken proof", "403 JWT", `401 "errno":109`, "403 BadJwtToken", header("Authorization", "vapid t=a.b.c, k="+siteKey)},
		{"broken key", "403 key", `401 "errno":109`, "403 BadVapidPublicKey", header("Authorization", "vapid t=a.b.c, k=AAAA")},
		{"other audience", "403 JWT", `401 "errno":109`, "403 BadJwtToken", func(_ *http.Request, claims object) { claims["aud"] = "https://example.com" }},
		{"expired", "403 JWT", `401 "errno":109`, "403 BadJwtToken", func(_ *http.Request, claims object) { claims["exp"] = time.Now().Unix() - 1 }},
		{"other key", "403 do not correspond", `401 "errno":109`, "400 VapidPkHashMismatch", nil},
		{"not POST", "405 POST", "405 ", "405 MethodNotAllowed", func(r *http.Request, _ object) { r.Method = "PUT" }},
		{"no path", "404 endpoint", `404 "errno":102`, "404 BadPath", func(r *http.Request, _ object) { r.URL.Path = "/no/such/path" }},
		{"unknown", "404 expired", `404 "errno":102`, "410 Unregistered", func(r *http.Request, _ object) { r.URL.Path += "x" }},
	} {
		for flavour, want := range map[mockprovider.Flavour]string{mockprovider.Google: c.google, mockprovider.Mozilla: c.mozilla, mockprovider.Apple: c.apple} {
			to := subscribed(t, m, flavour, siteKey)
			r := pushTo(t, m, to, seal(t, to, "Hello", 0), func(r *http.Request, claims object) {
				at := map[mockprovider.Flavour]string{mockprovider.Google: "fcm.googleapis.com", mockprovider.Mozilla: "updates.push.services.mozilla.com", mockprovider.Apple: "web.push.apple.com"}
				r.Host = at[flavour]
				claims["aud"] = "https://" + r.Host
				if c.change != nil {
					c.change(r, claims)
				}
			})
			got := do(t, client(t, m), r)
			if status, text, _ := strings.Cut(want, " "); status != strconv.Itoa(got.status) || !strings.Contains(got.body, text) {
				t.Errorf("%s, %s: got %d %s, want %s", flavour, c.fault, got.status, got.body, want)
			}
		}
	}
}

func TestAnEndedSubscriptionIsGone(t *testing.T) {
	m := mockprovider.Start(t)
	for _, flavour := range flavours {
		to := subscribed(t, m, flavour, "")
		if !m.Unsubscribe(to.Endpoint) || m.Unsubscribe("https://example.com/nothing") {
			t.Error("Unsubscribe does not know its subscriptions")
		}
		if got := do(t, client(t, m), pushTo(t, m, to, seal(t, to, "Hello", 0), nil)); got.status != 410 {
			t.Errorf("%s: got %d %s", flavour, got.status, got.body)
		}
	}
}

func TestAScriptRefusesInEachServicesShape(t *testing.T) {
	m := mockprovider.Start(t)
	for flavour, want := range map[mockprovider.Flavour]string{
		mockprovider.Google: "status 429\n", mockprovider.Mozilla: "", mockprovider.Apple: `{"reason":"TooManyRequests"}`,
	} {
		if err := m.Play(mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.WebPush, Status: 429, RetryAfter: 30 * time.Second}}}); err != nil {
			t.Fatal(err)
		}
		to := subscribed(t, m, flavour, "")
		got := do(t, client(t, m), pushTo(t, m, to, seal(t, to, "Hello", 0), nil))
		if got.status != 429 || got.header.Get("retry-after") != "30" || got.body != want {
			t.Errorf("%s: got %d %v %q", flavour, got.status, got.header, got.body)
		}
	}
	named := mockprovider.Fault{Service: mockprovider.WebPush, Status: 410, Reason: "errno 103"}
	if err := m.Play(mockprovider.Script{Faults: []mockprovider.Fault{named}}); err != nil {
		t.Fatal(err)
	}
	if got := do(t, client(t, m), webPush(t, m, nil)); got.status != 410 || got.object["errno"] != 103.0 {
		t.Errorf("errno 103: got %d %s", got.status, got.body)
	}
}

func TestSubscriptionsAreMadeAndEndedOverHTTP(t *testing.T) {
	m := mockprovider.Start(t)
	ask := func(method, link, text string, want int) []byte {
		t.Helper()
		r, _ := http.NewRequestWithContext(context.Background(), method, link, strings.NewReader(text))
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		got, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != want {
			t.Fatalf("%s %s: got %d %s, want %d", method, text, answer.StatusCode, got, want)
		}
		return got
	}
	defer http.DefaultClient.CloseIdleConnections()
	var to mockprovider.Subscription
	if err := json.Unmarshal(ask("POST", m.SubscriptionsURL(), `{"flavour":"apple"}`, 201), &to); err != nil {
		t.Fatal(err)
	}
	if got := do(t, client(t, m), pushTo(t, m, to, seal(t, to, "Hello", 0), nil)); got.status != 201 || got.header.Get("apns-id") == "" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	gone := m.SubscriptionsURL() + "?endpoint=" + url.QueryEscape(to.Endpoint)
	ask("DELETE", gone, "", 204)
	ask("DELETE", m.SubscriptionsURL()+"?endpoint=none", "", 404)
	ask("POST", m.SubscriptionsURL(), "", 201)
	ask("POST", m.SubscriptionsURL(), `{"flavour":"wns"}`, 400)
	ask("POST", m.SubscriptionsURL(), `{"server_key":"AAAA"}`, 400)
	ask("POST", m.SubscriptionsURL(), `{"flavor":"apple"}`, 400)
}
