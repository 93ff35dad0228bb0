// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/mockprovider/apns"
	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
	"github.com/sluice-push/sluice/mockprovider/script"
)

const (
	deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	id          = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
	payload     = `{"aps":{"alert":{"title":"Hello","body":"World"},"sound":"default"}}`
)

// mock is a service with its credentials.
type mock struct {
	*apns.Service
	credentials []apns.Credential
}

// newMock returns a service with those credentials, or with a default one.
func newMock(t *testing.T, tokenUpdateEvery time.Duration, credentials ...apns.Credential) mock {
	t.Helper()
	complete, err := apns.CompleteCredentials(credentials)
	if err != nil {
		t.Fatal(err)
	}
	return mock{apns.New(complete, tokenUpdateEvery, time.Now), complete}
}

// authorization returns an authorization field with a provider token of that age.
func authorization(t *testing.T, c apns.Credential, age time.Duration) string {
	t.Helper()
	key := jwttest.PrivateKey[*ecdsa.PrivateKey](t, c.KeyPEM)
	return "bearer " + jwttest.ES256(t, key, jwttest.Claims{"alg": "ES256", "kid": c.KeyID},
		jwttest.Claims{"iss": c.TeamID, "iat": time.Now().Add(-age).Unix()})
}

// change changes a valid request.
type change func(*h2.Request)

func set(name, value string) change {
	return func(r *h2.Request) {
		remove(name)(r)
		r.Header = append(r.Header, h2.Field(name, value))
	}
}

func remove(name string) change {
	return func(r *h2.Request) {
		r.Header = slices.DeleteFunc(r.Header, func(f hpack.HeaderField) bool { return f.Name == name })
	}
}

func path(p string) change { return func(r *h2.Request) { r.Path = p } }

func method(m string) change { return func(r *h2.Request) { r.Method = m } }

func body(text string) change { return func(r *h2.Request) { r.Body = []byte(text) } }

func host(name string) change { return func(r *h2.Request) { r.Authority = name } }

// push returns a valid push with changes.
func (m mock) push(t *testing.T, changes ...change) *h2.Request {
	t.Helper()
	r := &h2.Request{Method: "POST", Path: "/3/device/" + deviceToken, Authority: "api.push.apple.com", Body: []byte(payload)}
	for _, f := range [][2]string{
		{"authorization", authorization(t, m.credentials[0], 0)}, {"apns-id", id}, {"apns-topic", "com.example.app"},
		{"apns-push-type", "alert"}, {"apns-priority", "10"}, {"apns-expiration", "0"},
	} {
		r.Header = append(r.Header, h2.Field(f[0], f[1]))
	}
	for _, c := range changes {
		c(r)
	}
	return r
}

// response is a response with its body parsed.
type response struct {
	h2.Response
	object map[string]any
}

func (r response) get(name string) string { return (&h2.Request{Header: r.Header}).Get(name) }

// send sends a request on one connection.
func send(t *testing.T, c script.Service, r *h2.Request) response {
	t.Helper()
	return parse(t, c.Respond(r))
}

func parse(t *testing.T, r h2.Response) response {
	t.Helper()
	parsed := response{Response: r}
	if len(r.Body) > 0 {
		if err := json.Unmarshal(r.Body, &parsed.object); err != nil {
			t.Errorf("body %q: %v", r.Body, err)
		}
	}
	if reason, _ := parsed.object["reason"].(string); reason != r.Reason {
		t.Errorf("the body has reason %q, the ledger gets %q", reason, r.Reason)
	}
	if r.Accepted != (r.Status < 300) {
		t.Errorf("status %d with accepted %v", r.Status, r.Accepted)
	}
	return parsed
}

// jsonOfSize returns a JSON object of n bytes.
func jsonOfSize(n int) string { return `{"a":"` + strings.Repeat("x", n-8) + `"}` }

// certificate returns a provider certificate for com.example.app.
func certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	credentials, err := apns.CompleteCredentials(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := jwttest.PrivateKey[*ecdsa.PrivateKey](t, credentials[0].KeyPEM)
	template := apns.CertificateTemplate("com.example.app")
	template.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
