// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Key is a VAPID key pair: who a sender is to push services.
type Key struct {
	private *ecdsa.PrivateKey
	public  string // base64url
}

// NewKey makes a key pair.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return newKey(private)
}

// ParseKey reads a private key: PEM (PKCS #8, or the SEC 1 form of openssl ecparam), or the 32 bytes in base64url that
// other libraries call the VAPID private key. An error says what is wrong with it and never what is in it.
func ParseKey(text []byte) (*Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		scalar, err := decodeBase64(strings.TrimSpace(string(text)))
		if err != nil || len(scalar) != 32 {
			return nil, errors.New("webpush: key: neither PEM nor 32 bytes in base64url (gateway key vapid makes one)")
		}
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
		if err != nil {
			return nil, errors.New("webpush: key: 32 bytes, but not a private key of P-256")
		}
		return newKey(private)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if parsed, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			return nil, errors.New("webpush: key: the PEM block does not hold a private key (is the file cut short, or a public key?)")
		}
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("webpush: key: must be an elliptic key on the curve P-256")
	}
	return newKey(private)
}

func newKey(private *ecdsa.PrivateKey) (*Key, error) {
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	return &Key{private, base64.RawURLEncoding.EncodeToString(point)}, nil
}

// Public is the public key as a page gives it to pushManager.subscribe: applicationServerKey.
func (k *Key) Public() string { return k.public }

// PEM is the private key, which ParseKey reads.
func (k *Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// String names the key by its public half. It keeps the private one out of logs that print a Key by accident.
func (k *Key) String() string { return "webpush.Key(" + k.public + ")" }

// GoString is String.
func (k *Key) GoString() string { return k.String() }

const (
	// tokenLifetime is how long a proof is good for. RFC 8292 allows 24 hours; the rest is for clocks that differ.
	tokenLifetime = 12 * time.Hour
	// renewalAge is when it is replaced; Apple wants no other within an hour ("Sending web push notifications", read
	// 2026-11-22).
	renewalAge, minRenewalAge = 6 * time.Hour, time.Hour
	// maxTokens bounds the memory where every host may be called.
	maxTokens = 1024
)

// vapidToken is a VAPID token for one origin. It does not change.
type vapidToken struct {
	authorization string
	expiresAt     int64     // exp
	mintedAt      time.Time // its monotonic reading
}

// mustRenew reports whether a proof is to be replaced before it is used again: by its age, or because the clock was set and
// exp is not where it should be.
func (p *vapidToken) mustRenew() bool {
	left := time.Duration(p.expiresAt-time.Now().Unix()) * time.Second
	return left < tokenLifetime-renewalAge || left > tokenLifetime+time.Minute
}

// tokenCache signs for the sender: one proof for each origin at a time, for everybody.
type tokenCache struct {
	key     *Key
	subject string

	mu       sync.Mutex
	byOrigin map[string]*vapidToken
}

func newTokenCache(key *Key, subject string) *tokenCache {
	return &tokenCache{key: key, subject: subject, byOrigin: map[string]*vapidToken{}}
}

// get returns the proof to send to origin with.
func (p *tokenCache) get(origin string) (*vapidToken, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.byOrigin[origin]; known != nil && !known.mustRenew() {
		return known, nil
	}
	fresh, err := p.mint(origin)
	if err != nil {
		return nil, err
	}
	if len(p.byOrigin) >= maxTokens {
		clear(p.byOrigin)
	}
	p.byOrigin[origin] = fresh
	return fresh, nil
}

// mint signs (RFC 8292, sections 2 and 3). No origin has more than its own proof, so none can use it elsewhere.
func (p *tokenCache) mint(origin string) (*vapidToken, error) {
	now := time.Now()
	expires := now.Add(tokenLifetime).Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"aud": origin, "exp": expires, "sub": p.subject})
	signed, err := token.SignedString(p.key.private)
	if err != nil {
		return nil, fmt.Errorf("webpush: cannot sign with the VAPID key: %w", err)
	}
	return &vapidToken{authorization: "vapid t=" + signed + ", k=" + p.key.public, expiresAt: expires, mintedAt: now}, nil
}

// invalidate answers a refused proof: it is not used again unless it is too young to be replaced, and renew reports whether
// there is another one to try.
func (p *tokenCache) invalidate(origin string, used *vapidToken) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byOrigin[origin] != used {
		return true
	}
	if time.Since(used.mintedAt) < minRenewalAge {
		return false
	}
	delete(p.byOrigin, origin)
	return true
}
