// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
)

// jwt is a JSON Web Token, taken apart and not yet verified. It is read with the standard library alone, so that a
// fault of the JWT library that clients sign with cannot hide here.
type jwt struct {
	Header struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}
	Claims struct {
		Iss   string  `json:"iss"`
		Sub   string  `json:"sub"`
		Aud   string  `json:"aud"`
		Scope string  `json:"scope"`
		Iat   float64 `json:"iat"`
		Exp   float64 `json:"exp"`
	}
	signed    string
	signature []byte
}

var errJWT = errors.New("malformed JWT")

// parseJWT reads the three parts of a compact token.
func parseJWT(token string) (*jwt, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errJWT
	}
	t := &jwt{signed: token[:len(parts[0])+1+len(parts[1])]}
	var err error
	if t.signature, err = base64.RawURLEncoding.DecodeString(parts[2]); err != nil {
		return nil, errJWT
	}
	if !decodePart(parts[0], &t.Header) || !decodePart(parts[1], &t.Claims) {
		return nil, errJWT
	}
	return t, nil
}

func decodePart(part string, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(raw, into) == nil
}

// signedES256 reports whether key made the signature: r and s of 32 bytes each, RFC 7518 3.4.
func (t *jwt) signedES256(key *ecdsa.PublicKey) bool {
	if t.Header.Alg != "ES256" || len(t.signature) != 64 {
		return false
	}
	digest := sha256.Sum256([]byte(t.signed))
	r, s := new(big.Int).SetBytes(t.signature[:32]), new(big.Int).SetBytes(t.signature[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// signedForApple is signedES256, or the same in ASN.1: pushy signs so, and Apple has taken it for years.
func (t *jwt) signedForApple(key *ecdsa.PublicKey) bool {
	if t.signedES256(key) {
		return true
	}
	digest := sha256.Sum256([]byte(t.signed))
	return t.Header.Alg == "ES256" && ecdsa.VerifyASN1(key, digest[:], t.signature)
}

// signedRS256 reports whether key made the signature.
func (t *jwt) signedRS256(key *rsa.PublicKey) bool {
	digest := sha256.Sum256([]byte(t.signed))
	return t.Header.Alg == "RS256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], t.signature) == nil
}
