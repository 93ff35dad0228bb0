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
	return keyOf(private)
}

// ParseKey reads a private key: PEM (PKCS #8, or the SEC 1 form of openssl ecparam), or the 32 bytes in base64url that
// other libraries call the VAPID private key. An error says what is wrong with it and never what is in it.
func ParseKey(text []byte) (*Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		scalar, err := unbase64(strings.TrimSpace(string(text)))
		if err != nil || len(scalar) != 32 {
			return nil, errors.New("webpush: key: neither PEM nor 32 bytes in base64url (gateway key vapid makes one)")
		}
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
		if err != nil {
			return nil, errors.New("webpush: key: 32 bytes, but not a private key of P-256")
		}
		return keyOf(private)
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
	return keyOf(private)
}

func keyOf(private *ecdsa.PrivateKey) (*Key, error) {
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
	// life is how long a proof is good for. RFC 8292 allows 24 hours; the rest is for clocks that differ.
	life = 12 * time.Hour
	// renewal is when it is replaced; Apple wants no other within an hour ("Sending web push notifications", read
	// 2026-11-22).
	renewal, leastAge = 6 * time.Hour, time.Hour
	// mostProofs bounds the memory where every host may be called.
	mostProofs = 1024
)

// proof is a VAPID token for one origin. It does not change.
type proof struct {
	authorization string
	expires       int64     // exp
	minted        time.Time // its monotonic reading
}

// due reports whether a proof is to be replaced before it is used again: by its age, or because the clock was set and
// exp is not where it should be.
func (p *proof) due() bool {
	left := time.Duration(p.expires-time.Now().Unix()) * time.Second
	return left < life-renewal || left > life+time.Minute
}

// proofs signs for the sender: one proof for each origin at a time, for everybody.
type proofs struct {
	key     *Key
	subject string

	mu    sync.Mutex
	known map[string]*proof
}

func newProofs(key *Key, subject string) *proofs {
	return &proofs{key: key, subject: subject, known: map[string]*proof{}}
}

// of returns the proof to send to origin with.
func (p *proofs) of(origin string) (*proof, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[origin]; known != nil && !known.due() {
		return known, nil
	}
	fresh, err := p.mint(origin)
	if err != nil {
		return nil, err
	}
	if len(p.known) >= mostProofs {
		clear(p.known)
	}
	p.known[origin] = fresh
	return fresh, nil
}

// mint signs (RFC 8292, sections 2 and 3). No origin has more than its own proof, so none can use it elsewhere.
func (p *proofs) mint(origin string) (*proof, error) {
	now := time.Now()
	expires := now.Add(life).Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"aud": origin, "exp": expires, "sub": p.subject})
	signed, err := token.SignedString(p.key.private)
	if err != nil {
		return nil, fmt.Errorf("webpush: cannot sign with the VAPID key: %w", err)
	}
	return &proof{authorization: "vapid t=" + signed + ", k=" + p.key.public, expires: expires, minted: now}, nil
}

// renew answers a refused proof: it is not used again unless it is too young to be replaced, and renew reports whether
// there is another one to try.
func (p *proofs) renew(origin string, used *proof) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[origin] != used {
		return true
	}
	if time.Since(used.minted) < leastAge {
		return false
	}
	delete(p.known, origin)
	return true
}
