// SPDX-License-Identifier: Apache-2.0

// Package webpushtest encrypts and authorizes Web Push messages for tests. It implements RFC 8291
// independently of the code under test.
package webpushtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"testing"

	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
)

// RFC8291 returns the encrypted message of RFC 8291, section 5.
func RFC8291(t testing.TB) []byte {
	t.Helper()
	return Decode(t, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A"+
		"_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
}

// Decode decodes base64url without padding.
func Decode(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// VAPIDKey returns a new key of a web site, and its public key in base64url.
func VAPIDKey(t testing.TB) (key *ecdsa.PrivateKey, public string) {
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

// Authorization returns an authorization field with a new key.
func Authorization(t testing.TB, claims jwttest.Claims) string {
	t.Helper()
	key, public := VAPIDKey(t)
	return "vapid t=" + jwttest.ES256(t, key, jwttest.Claims{"alg": "ES256"}, claims) + ", k=" + public
}

// Encrypt encrypts text for a subscription, with padding bytes of padding.
func Encrypt(t testing.TB, p256dh, auth, text string, padding int) []byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	receiver, err := ecdh.P256().NewPublicKey(Decode(t, p256dh))
	must(err)
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	must(err)
	shared, err := sender.ECDH(receiver)
	must(err)
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	derive := func(secret, salt []byte, info string, n int) []byte {
		key, err := hkdf.Key(sha256.New, secret, salt, info, n)
		must(err)
		return key
	}
	ikm := derive(shared, Decode(t, auth), "WebPush: info\x00"+string(receiver.Bytes())+string(sender.PublicKey().Bytes()), 32)
	block, err := aes.NewCipher(derive(ikm, salt, "Content-Encoding: aes128gcm\x00", 16))
	must(err)
	aead, err := cipher.NewGCM(block)
	must(err)
	header := append(append(salt, 0, 0, 16, 0, 65), sender.PublicKey().Bytes()...)
	padded := append([]byte(text+"\x02"), make([]byte, padding)...)
	return aead.Seal(header, derive(ikm, salt, "Content-Encoding: nonce\x00", 12), padded, nil)
}
