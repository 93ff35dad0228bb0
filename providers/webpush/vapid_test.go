// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sentAuthorization sends n and returns the authorization header of the request.
func sentAuthorization(t testing.TB, p *webpush.Provider, n *push.Notification) (authorization string) {
	t.Helper()
	send(t, p, func(r *wire.Request) (*wire.Response, error) {
		authorization = headerValue(r, "authorization")
		return &wire.Response{Status: 201}, nil
	}, n)
	return authorization
}

// parseClaims checks a VAPID token according to RFC 8292 and returns its claims.
func parseClaims(t testing.TB, authorization string) jwt.MapClaims {
	t.Helper()
	rest, ok := strings.CutPrefix(authorization, "vapid t=")
	token, key, found := strings.Cut(rest, ", k=")
	point, err := base64.RawURLEncoding.DecodeString(key)
	if !ok || !found || err != nil {
		t.Fatal("authorization is not vapid t=…, k=…")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	got := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(token, got, func(*jwt.Token) (any, error) { return public, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired()); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestVAPIDTokenClaims(t *testing.T) {
	got := parseClaims(t, sentAuthorization(t, newProvider(t), newNotification()))
	equal(t, "aud", got["aud"], any("https://updates.push.services.mozilla.com"))
	equal(t, "sub", got["sub"], any(subject))
	left := time.Until(time.Unix(int64(got["exp"].(float64)), 0))
	equal(t, "at most 24 hours", left > 11*time.Hour && left < 24*time.Hour, true)
	equal(t, "claims", len(got), 3)
}

func TestEachOriginHasItsOwnToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(t)
		apple := withEndpoint("https://web.push.apple.com/x")
		first, other := sentAuthorization(t, p, newNotification()), sentAuthorization(t, p, newNotification(apple))
		equal(t, "shared", first == other, false)
		equal(t, "aud", parseClaims(t, other)["aud"], any("https://web.push.apple.com"))
		time.Sleep(5*time.Hour + 59*time.Minute)
		equal(t, "kept for six hours", sentAuthorization(t, p, newNotification()), first)
		time.Sleep(2 * time.Minute)
		equal(t, "kept for more than six hours", sentAuthorization(t, p, newNotification()) == first, false)
	})
}

func TestConcurrentSendsShareOneToken(t *testing.T) {
	p := newProvider(t)
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := map[string]bool{}
	for range 100 {
		all.Go(func() {
			got := sentAuthorization(t, p, newNotification())
			mu.Lock()
			defer mu.Unlock()
			seen[got] = true
		})
	}
	testwait.Call(t, all.Wait, "the end of all sends")
	equal(t, "tokens", len(seen), 1)
}

func TestRefusedTokenIsReplacedAtMostHourly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(t)
		first := sentAuthorization(t, p, newNotification())
		equal(t, "renewed within an hour", send(t, p, respond(401, ""), newNotification()).Renewed, false)
		equal(t, "kept", sentAuthorization(t, p, newNotification()), first)
		time.Sleep(time.Hour)
		equal(t, "renewed after an hour", send(t, p, respond(401, ""), newNotification()).Retryable(), true)
		equal(t, "kept", sentAuthorization(t, p, newNotification()) == first, false)
	})
}

func TestSendDoesNotModifyRequest(t *testing.T) {
	p, n := newProvider(t), newNotification()
	r, err := p.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = append(r.Header, wire.Field{})[:len(r.Header)] // with spare capacity
	before := fmt.Sprint(*r, r.Header[:cap(r.Header)])
	providertest.Send(t.Context(), p, fakeService(func(sent *wire.Request) (*wire.Response, error) {
		equal(t, "once", sent.Header[len(sent.Header)-1].NeverIndexed, true)
		return &wire.Response{Status: 201}, nil
	}), n, r)
	equal(t, "request", fmt.Sprint(*r, r.Header[:cap(r.Header)]), before)
}

func TestParseKeyFormats(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, _ := private.PublicKey.Bytes()
	scalar, _ := private.Bytes()
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(private)
	sec1, _ := x509.MarshalECPrivateKey(private)
	made, err := webpush.ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	if err != nil {
		t.Fatal(err)
	}
	again, err := made.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"PKCS #8": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), "ours": append([]byte("public B…\n"), again...),
		"SEC 1": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}), "raw": []byte(base64URL(scalar) + "\n"),
		"SEC 1 with parameters":      append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...),
		"PEM with a byte order mark": append([]byte("\ufeff"), again...), "raw with a byte order mark": []byte("\ufeff" + base64URL(scalar) + "\r\n"),
	} {
		key, err := webpush.ParseKey(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		equal(t, name, key.Public(), base64URL(point))
		printed := fmt.Sprintf("%v %+v %#v", key, key, key)
		equal(t, name+" shows the private key", strings.Contains(printed, base64URL(scalar)) || strings.Contains(printed, "ecdsa"), false)
	}
}

func TestInvalidKeyErrorsHoldNoSecret(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	wrap := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	for want, texts := range map[string][][]byte{
		"it is empty":             {nil},
		"32 bytes in base64url":   {[]byte("SECRET!"), []byte("SECRET"), []byte(`{"privateKey":"SECRET"}`)},
		"not 32 bytes":            {[]byte(base64URL(make([]byte, 31)))},
		"the private key is need": {[]byte("\ufeff" + base64URL(append([]byte{4}, make([]byte, 64)...)))},
		"openssl pkey -in":        {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("SECRET")})},
		"not a P-256 private key": {[]byte(base64URL(make([]byte, 32)))},
		"truncated":               {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("SECRET")})},
		"curve key on P-256":      {wrap(p384), wrap(rsaKey)},
		"a public key":            {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}})},
	} {
		for _, text := range texts {
			_, err := webpush.ParseKey(text)
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%v, want an error with %q", err, want)
			}
		}
	}
}

func TestStatedPublicKey(t *testing.T) {
	for content, want := range map[string]string{
		"public   BAbc-_\n-----BEGIN PRIVATE KEY-----\n": "BAbc-_", "\ufeffpublic BAbc=\r\n": "BAbc", "-----BEGIN PRIVATE KEY-----\n": "", "publicBAbc": "", "": "",
	} {
		if got := webpush.StatedPublicKey([]byte(content)); got != want {
			t.Errorf("%q: got %q, want %q", content, got, want)
		}
	}
}

func TestPublicOrigins(t *testing.T) {
	for _, c := range []struct {
		services []string
		override string
		want     string
		apple    bool
	}{
		{nil, "", "https://fcm.googleapis.com https://updates.push.services.mozilla.com https://web.push.apple.com", true},
		{[]string{"push.example.com", "*.push.apple.com"}, "", "https://web.push.apple.com https://push.example.com", true},
		{[]string{"*.notify.windows.com"}, "", "", false},
		{[]string{"*"}, "https://127.0.0.1:8443", "https://127.0.0.1:8443", true},
	} {
		p := newProvider(t, func(cfg *webpush.Config) { cfg.Services, cfg.OriginOverride = c.services, c.override })
		if got := strings.Join(p.PublicOrigins(), " "); got != c.want || p.AllowsApple() != c.apple {
			t.Errorf("%v: got %s and %t, want %s and %t", c.services, got, p.AllowsApple(), c.want, c.apple)
		}
	}
}
