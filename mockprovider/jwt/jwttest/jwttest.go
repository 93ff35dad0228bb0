// SPDX-License-Identifier: Apache-2.0

// Package jwttest signs JSON Web Tokens for tests, with the standard library only.
package jwttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"testing"
)

// Claims is a JSON object: the header or the claims of a token.
type Claims = map[string]any

// Sign returns a token with the signature that sign returns for the digest.
func Sign(t testing.TB, header, claims Claims, sign func(digest []byte) ([]byte, error)) string {
	t.Helper()
	signed := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	signature, err := sign(digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func encode(v any) string {
	raw, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// ES256 returns a token with a signature of RFC 7518, section 3.4.
func ES256(t testing.TB, key *ecdsa.PrivateKey, header, claims Claims) string {
	t.Helper()
	return Sign(t, header, claims, func(digest []byte) ([]byte, error) {
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			return nil, err
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signature, nil
	})
}

// RS256 returns a token signed with RSASSA-PKCS1-v1_5 and SHA-256.
func RS256(t testing.TB, key *rsa.PrivateKey, header, claims Claims) string {
	t.Helper()
	return Sign(t, header, claims, func(digest []byte) ([]byte, error) {
		return rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest)
	})
}

// PrivateKey parses a PKCS #8 key in PEM.
func PrivateKey[K any](t testing.TB, text []byte) K {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(K)
}
