// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

const (
	deviceToken    = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	notificationID = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
	topic          = "com.example.app"
)

// fakeAPNs is a connection that calls a function for every request.
type fakeAPNs func(*wire.Request) (*wire.Response, error)

func (a fakeAPNs) Do(_ context.Context, r *wire.Request) (*wire.Response, error) { return a(r) }

// respond responds as APNs does, with its ID of the request.
func respond(status int, body string) fakeAPNs {
	return func(*wire.Request) (*wire.Response, error) {
		return &wire.Response{Status: status, Header: apnsID, Body: []byte(body)}, nil
	}
}

var apnsID = []wire.Field{{Name: "apns-id", Value: notificationID}}

// respondWithoutID responds as an intermediary does.
func respondWithoutID(status int, body string) fakeAPNs {
	return func(*wire.Request) (*wire.Response, error) {
		return &wire.Response{Status: status, Body: []byte(body)}, nil
	}
}

func failWith(err error) fakeAPNs {
	return func(*wire.Request) (*wire.Response, error) { return nil, err }
}

// testKey is the signing key of all tests; encodeP8 returns it as a .p8 file.
var testKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func encodeP8(key any) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newSigner(t testing.TB) *apns.Signer {
	t.Helper()
	s, err := apns.NewSigner(apns.SignerConfig{Key: encodeP8(testKey()), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newKeyProvider returns a provider with a key, newCertificateProvider one with a certificate.
func newKeyProvider(t testing.TB) *apns.Provider {
	t.Helper()
	return newProvider(t, apns.Config{Topic: topic, Signer: newSigner(t)})
}

func newCertificateProvider(t testing.TB) *apns.Provider {
	t.Helper()
	return newProvider(t, apns.Config{Topic: topic})
}

func newProvider(t testing.TB, cfg apns.Config) *apns.Provider {
	t.Helper()
	p, err := apns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newNotification returns a valid notification, modified by change.
func newNotification(change ...func(*push.Notification)) *push.Notification {
	n := &push.Notification{
		ID: notificationID, AcceptedAt: time.Unix(1_700_000_000, 0), Platform: push.APNs, Target: push.Target{Token: deviceToken},
		Title: "Hello", Body: "World",
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func withHeaders(pairs ...string) func(*push.Notification) {
	return func(n *push.Notification) {
		if n.APNs == nil {
			n.APNs = &push.APNsBlock{}
		}
		n.APNs.Headers = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			n.APNs.Headers[pairs[i]] = pairs[i+1]
		}
	}
}

func withPayload(payload string) func(*push.Notification) {
	return func(n *push.Notification) {
		if n.APNs == nil {
			n.APNs = &push.APNsBlock{}
		}
		n.APNs.Payload = []byte(payload)
	}
}

func translate(t testing.TB, p *apns.Provider, n *push.Notification) *wire.Request {
	t.Helper()
	r, err := p.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// send makes one attempt.
func send(t testing.TB, p *apns.Provider, conn fakeAPNs, n *push.Notification) push.Outcome {
	t.Helper()
	return providertest.Send(t.Context(), p, conn, n, translate(t, p, n))
}

// headerMap returns the header as a map. A field that occurs twice is an error.
func headerMap(t testing.TB, r *wire.Request) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, f := range r.Header {
		if _, twice := m[f.Name]; twice {
			t.Errorf("duplicate header %s", f.Name)
		}
		m[f.Name] = f.Value
	}
	return m
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (- want, + got):\n%s", what, diff)
	}
}
