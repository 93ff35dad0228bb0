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
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

const (
	deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	anID        = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
	topic       = "com.example.app"
)

// apple answers every request with one function; it stands where a connection
// does.
type apple func(*wire.Request) (*wire.Response, error)

func (a apple) Do(_ context.Context, r *wire.Request) (*wire.Response, error) { return a(r) }

func answering(status int, body string) apple {
	return func(*wire.Request) (*wire.Response, error) {
		return &wire.Response{Status: status, Body: []byte(body)}, nil
	}
}

func silent(err error) apple {
	return func(*wire.Request) (*wire.Response, error) { return nil, err }
}

// theKey is one signing key for all tests, and p8 its file.
var theKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func p8(key any) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newSigner(t testing.TB) *apns.Signer {
	t.Helper()
	s, err := apns.NewSigner(apns.SignerConfig{Key: p8(theKey()), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withKey returns a provider that signs, withCertificate one that does not.
func withKey(t testing.TB) *apns.Provider {
	t.Helper()
	return provider(t, apns.Config{Topic: topic, Signer: newSigner(t)})
}

func withCertificate(t testing.TB) *apns.Provider {
	t.Helper()
	return provider(t, apns.Config{Topic: topic})
}

func provider(t testing.TB, cfg apns.Config) *apns.Provider {
	t.Helper()
	p, err := apns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// hello returns a notification that Apple would take, changed by change.
func hello(change ...func(*push.Notification)) *push.Notification {
	n := &push.Notification{
		ID: anID, AcceptedAt: time.Unix(1_700_000_000, 0), Platform: push.APNs, Target: push.Target{Token: deviceToken},
		Title: "Hello", Body: "World",
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func headers(pairs ...string) func(*push.Notification) {
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

func raw(payload string) func(*push.Notification) {
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

// send makes one attempt at n.
func send(t testing.TB, p *apns.Provider, on apple, n *push.Notification) push.Outcome {
	t.Helper()
	return p.Send(t.Context(), on, n, translate(t, p, n))
}

// fields returns a header as a map, for fields that come once.
func fields(t testing.TB, r *wire.Request) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, f := range r.Header {
		if _, twice := m[f.Name]; twice {
			t.Errorf("the header %s comes twice", f.Name)
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
