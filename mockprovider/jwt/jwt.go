// SPDX-License-Identifier: Apache-2.0

// Package jwt parses and verifies JSON Web Tokens with the standard library only. It does not use a
// JWT library, because a bug in the library that clients sign with would then go unnoticed.
package jwt

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

// Token is a parsed token. Its signature is not verified until one of the Verify methods is called.
type Token struct {
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

var errMalformed = errors.New("malformed JWT")

// Parse reads the three parts of a compact token.
func Parse(compact string) (*Token, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, errMalformed
	}
	t := &Token{signed: compact[:len(parts[0])+1+len(parts[1])]}
	var err error
	if t.signature, err = base64.RawURLEncoding.DecodeString(parts[2]); err != nil {
		return nil, errMalformed
	}
	if !decodePart(parts[0], &t.Header) || !decodePart(parts[1], &t.Claims) {
		return nil, errMalformed
	}
	return t, nil
}

func decodePart(part string, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(raw, into) == nil
}

// VerifyES256 reports whether key made the signature, which holds r and s of 32 bytes each
// (RFC 7518, section 3.4).
func (t *Token) VerifyES256(key *ecdsa.PublicKey) bool {
	if t.Header.Alg != "ES256" || len(t.signature) != 64 {
		return false
	}
	digest := sha256.Sum256([]byte(t.signed))
	r, s := new(big.Int).SetBytes(t.signature[:32]), new(big.Int).SetBytes(t.signature[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// VerifyES256ASN1 is VerifyES256 for a signature in ASN.1, which RFC 7518 does not allow.
func (t *Token) VerifyES256ASN1(key *ecdsa.PublicKey) bool {
	digest := sha256.Sum256([]byte(t.signed))
	return t.Header.Alg == "ES256" && ecdsa.VerifyASN1(key, digest[:], t.signature)
}

// VerifyRS256 reports whether key made the signature.
func (t *Token) VerifyRS256(key *rsa.PublicKey) bool {
	digest := sha256.Sum256([]byte(t.signed))
	return t.Header.Alg == "RS256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], t.signature) == nil
}
