// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// webPush makes a good request, that change may spoil.
func webPush(t testing.TB, m *mockprovider.Mock, change func(r *http.Request, claims object)) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST", m.WebPushURL()+"/push/JzLQ3raZJfFBR0", strings.NewReader("cipher"))
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "vapid t="+signES256(t, key, object{"alg": "ES256"}, claims)+", k="+base64.RawURLEncoding.EncodeToString(point))
	}
	return r
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
