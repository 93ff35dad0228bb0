// SPDX-License-Identifier: Apache-2.0

package jwt_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/mockprovider/jwt"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
)

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func parse(t *testing.T, compact string) *jwt.Token {
	t.Helper()
	token, err := jwt.Parse(compact)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestVerifyES256(t *testing.T) {
	key, other := newKey(t), newKey(t)
	claims := jwttest.Claims{"iss": "T", "iat": 1}
	asn1 := func(alg string) string {
		return jwttest.Sign(t, jwttest.Claims{"alg": alg, "kid": "K"}, claims, func(digest []byte) ([]byte, error) {
			return ecdsa.SignASN1(rand.Reader, key, digest)
		})
	}
	raw := func(alg string) string { return jwttest.ES256(t, key, jwttest.Claims{"alg": alg, "kid": "K"}, claims) }
	for _, c := range []struct {
		name, compact string
		raw, asn1     bool
	}{
		{"raw signature", raw("ES256"), true, false}, {"raw signature, other algorithm", raw("none"), false, false},
		{"ASN.1 signature", asn1("ES256"), false, true}, {"ASN.1 signature, other algorithm", asn1("none"), false, false},
	} {
		token := parse(t, c.compact)
		if token.Header.Kid != "K" || token.Claims.Iss != "T" || token.Claims.Iat != 1 {
			t.Errorf("%s: got %+v", c.name, token)
		}
		if got := token.VerifyES256(&key.PublicKey); got != c.raw {
			t.Errorf("%s: VerifyES256 = %v", c.name, got)
		}
		if got := token.VerifyES256ASN1(&key.PublicKey); got != c.asn1 {
			t.Errorf("%s: VerifyES256ASN1 = %v", c.name, got)
		}
		if token.VerifyES256(&other.PublicKey) || token.VerifyES256ASN1(&other.PublicKey) {
			t.Errorf("%s: verified with another key", c.name)
		}
	}
}

func TestVerifyRS256(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	compact := jwttest.RS256(t, key, jwttest.Claims{"alg": "RS256"}, jwttest.Claims{"scope": "s"})
	if !parse(t, compact).VerifyRS256(&key.PublicKey) {
		t.Error("not verified")
	}
	parts := strings.Split(compact, ".")
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(`{"scope":"t"}`))
	if parse(t, strings.Join(parts, ".")).VerifyRS256(&key.PublicKey) {
		t.Error("verified with changed claims")
	}
}

func TestParseRejectsMalformedTokens(t *testing.T) {
	for _, text := range []string{"", "a.b", "a.b.c.d", "e30.e30.!", "!.e30.AAAA", "e30.!.AAAA", "W10.e30.AAAA"} {
		if token, err := jwt.Parse(text); err == nil {
			t.Errorf("%q: got %+v", text, token)
		}
	}
}

// FuzzParse checks that Parse does not panic, and that no token is verified that the key did not
// sign.
func FuzzParse(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiIsImtpZCI6IkEifQ.eyJpc3MiOiJCIiwiaWF0IjoxfQ.AAAA")
	key := newKey(f)
	f.Fuzz(func(t *testing.T, text string) {
		token, err := jwt.Parse(text)
		if err == nil && (token.VerifyES256(&key.PublicKey) || token.VerifyES256ASN1(&key.PublicKey)) {
			t.Fatalf("verified %q", text)
		}
	})
}
