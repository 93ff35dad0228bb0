// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

const (
	endpoint       = "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABSECRETsubscription"
	notificationID = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
	subject        = "mailto:ops@example.com"
)

// fakeService is a connection that calls a function for every request.
type fakeService func(*wire.Request) (*wire.Response, error)

func (s fakeService) Do(_ context.Context, r *wire.Request) (*wire.Response, error) { return s(r) }

func respond(status int, body string, header ...wire.Field) fakeService {
	return func(*wire.Request) (*wire.Response, error) {
		return &wire.Response{Status: status, Body: []byte(body), Header: header}, nil
	}
}

// testKey is the VAPID key of all tests.
var testKey = sync.OnceValue(func() *webpush.Key {
	key, err := webpush.NewKey()
	if err != nil {
		panic(err)
	}
	return key
})

// browser is the receiver: it can decrypt what is sent to it.
type browser struct {
	private *ecdh.PrivateKey
	secret  []byte
}

var testBrowser = sync.OnceValue(func() browser {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret)
	return browser{private, secret}
})

func (b browser) subscription(endpoint string) *push.Subscription {
	return &push.Subscription{Endpoint: endpoint, Keys: push.SubscriptionKeys{
		P256dh: base64.RawURLEncoding.EncodeToString(b.private.PublicKey().Bytes()),
		Auth:   base64.RawURLEncoding.EncodeToString(b.secret),
	}}
}

// decrypt decrypts a body according to RFC 8291. It shares no code with the package under test.
func (b browser) decrypt(body []byte) (string, error) {
	if len(body) < 86+17 || body[20] != 65 || binary.BigEndian.Uint32(body[16:]) != 4096 || len(body) > 4096 {
		return "", errors.New("the header is not that of RFC 8188")
	}
	salt, sender, record := body[:16], body[21:86], body[86:]
	public, err := ecdh.P256().NewPublicKey(sender)
	if err != nil {
		return "", err
	}
	shared, err := b.private.ECDH(public)
	if err != nil {
		return "", err
	}
	info := append(append([]byte("WebPush: info\x00"), b.private.PublicKey().Bytes()...), sender...)
	prk, _ := hkdf.Extract(sha256.New, shared, b.secret)
	ikm, _ := hkdf.Expand(sha256.New, prk, string(info), 32)
	prk, _ = hkdf.Extract(sha256.New, ikm, salt)
	key, _ := hkdf.Expand(sha256.New, prk, "Content-Encoding: aes128gcm\x00", 16)
	nonce, _ := hkdf.Expand(sha256.New, prk, "Content-Encoding: nonce\x00", 12)
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	text, err := aead.Open(nil, nonce, record, nil)
	if err != nil {
		return "", err
	}
	if len(text) == 0 || text[len(text)-1] != 2 {
		return "", errors.New("the last record does not end in 2")
	}
	return string(text[:len(text)-1]), nil
}

func newProvider(t testing.TB, change ...func(*webpush.Config)) *webpush.Provider {
	t.Helper()
	cfg := webpush.Config{Key: testKey(), Subject: subject}
	for _, c := range change {
		c(&cfg)
	}
	p, err := webpush.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newNotification returns a valid notification, modified by change.
func newNotification(change ...func(*push.Notification)) *push.Notification {
	n := &push.Notification{
		ID: notificationID, AcceptedAt: time.Now(), Platform: push.WebPush, Title: "Hello", Body: "World",
		Target: push.Target{Subscription: testBrowser().subscription(endpoint)},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func withEndpoint(url string) func(*push.Notification) {
	return func(n *push.Notification) { n.Subscription = testBrowser().subscription(url) }
}

func withHeaders(pairs ...string) func(*push.Notification) {
	return func(n *push.Notification) {
		n.WebPush = &push.WebPushBlock{Headers: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			n.WebPush.Headers[pairs[i]] = pairs[i+1]
		}
	}
}

func withPayload(payload string) func(*push.Notification) {
	return func(n *push.Notification) { n.WebPush = &push.WebPushBlock{Payload: payload} }
}

func translate(t testing.TB, n *push.Notification) *wire.Request {
	t.Helper()
	r, err := newProvider(t).Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// decryptedBody returns the plaintext of n's request.
func decryptedBody(t testing.TB, n *push.Notification) string {
	t.Helper()
	text, err := testBrowser().decrypt(translate(t, n).Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustRefuse(t testing.TB, n *push.Notification, change ...func(*webpush.Config)) push.FieldError {
	t.Helper()
	_, err := newProvider(t, change...).Translate(n)
	field, ok := errors.AsType[*push.FieldError](err)
	if !ok {
		t.Fatalf("%v, want a *push.FieldError", err)
	}
	return *field
}

func send(t testing.TB, p *webpush.Provider, conn fakeService, n *push.Notification) push.Outcome {
	t.Helper()
	r, err := p.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return providertest.Send(t.Context(), p, conn, n, r)
}

func headerValue(r *wire.Request, name string) string {
	return (&wire.Response{Header: r.Header}).Get(name)
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (- want, + got):\n%s", what, diff)
	}
}
