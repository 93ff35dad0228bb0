// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The ages of a provider token. Apple: "Refresh your token no more than once
// every 20 minutes and no less than once every 60 minutes" (Establishing a
// token-based connection to APNs; read 2026-11-22).
const (
	leastAge    = 20 * time.Minute // younger, it is never replaced: Apple would answer 429 TooManyProviderTokenUpdates
	renewalAge  = 40 * time.Minute // replaced here, and up to renewalSpan later
	renewalSpan = 10 * time.Minute // so that processes that started together do not renew together
	greatestAge = 58 * time.Minute // older, Apple calls it expired at 60 minutes
)

// tolerance is by how much the wall clock may move against the monotonic one
// before a token's time of issue is called wrong.
const tolerance = time.Minute

// SignerConfig is a signing key from Apple's developer account.
type SignerConfig struct {
	// Key is the text of the .p8 file.
	Key []byte
	// KeyID and TeamID are the ten characters that Apple gave the key and the team.
	KeyID, TeamID string
	// Logger hears that this machine's clock seems wrong; nil hears nothing.
	Logger *slog.Logger
}

// Signer makes the provider tokens of one key: one at a time, for everybody.
// It mints at first use and again after 40 to 50 minutes, and never twice
// within 20 minutes, whatever the wall clock does or Apple answers. Keep it
// when a configuration is reloaded; a second Signer for the same key breaks
// that promise.
type Signer struct {
	key           *ecdsa.PrivateKey
	keyID, teamID string
	log           *slog.Logger

	current atomic.Pointer[token]
	alarmed atomic.Pointer[token] // the token that the clock's alarm was last about

	minting sync.Mutex // held by whoever replaces current
}

// token is one provider token. It does not change.
type token struct {
	bearer  string
	minted  time.Time // its monotonic reading: what ages are measured from
	issued  int64     // iat: what the wall clock said then, which is all that Apple goes by
	least   time.Duration
	renewal time.Duration
}

// NewSigner reads the key. An error says what is wrong with it and never what
// is in it.
func NewSigner(cfg SignerConfig) (*Signer, error) {
	key, err := parseKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	if !appleID(cfg.KeyID) {
		return nil, errors.New("apns: key_id: must be 10 capital letters and digits, as in the name AuthKey_<key_id>.p8")
	}
	if !appleID(cfg.TeamID) {
		return nil, errors.New("apns: team_id: must be 10 capital letters and digits, as on the account's membership page")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Signer{key: key, keyID: cfg.KeyID, teamID: cfg.TeamID, log: log}, nil
}

// String names the key. It keeps the key itself out of logs that print a
// Signer by accident.
func (s *Signer) String() string { return "apns.Signer(" + s.keyID + ")" }

// GoString is String.
func (s *Signer) GoString() string { return s.String() }

var appleID = regexp.MustCompile(`^[A-Z0-9]{10}$`).MatchString

// parseKey reads a .p8 file: PKCS #8 in PEM, holding a P-256 key.
func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("apns: key: not PEM (a .p8 file begins with -----BEGIN PRIVATE KEY-----)")
	}
	if block.Type != "PRIVATE KEY" {
		return nil, errors.New("apns: key: the PEM block must be a PRIVATE KEY, as in Apple's .p8 file (a certificate or another form of key does not sign)")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("apns: key: the PEM block does not hold a PKCS #8 key (is the file cut short?)")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("apns: key: must be an elliptic key (P-256), is a %T", parsed)
	}
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("apns: key: must be on curve P-256, is on %s", key.Curve.Params().Name)
	}
	return key, nil
}

// token returns the token to send with now, and mints one where it must.
func (s *Signer) token() (*token, error) {
	if t := s.current.Load(); t != nil && !s.due(t) {
		return t, nil
	}
	s.minting.Lock()
	defer s.minting.Unlock()
	if t := s.current.Load(); t != nil && !s.due(t) {
		return t, nil // another goroutine was faster
	}
	return s.mint()
}

// due reports whether t is to be replaced before it is used again. Besides by
// its age, that is so when the wall clock has been set since: then its time of
// issue is wrong, and Apple will find it expired or from the future.
func (s *Signer) due(t *token) bool {
	age := time.Since(t.minted)
	if age >= t.renewal {
		return true
	}
	if step := t.step(); step.Abs() > tolerance {
		s.alarm(t, "this machine's clock was set: the provider token's time of issue is wrong", "step", step)
		return age >= t.least
	}
	return false
}

// step returns by how much the wall clock moved against the monotonic one
// since t was minted. (A suspended machine looks the same, and wants the same.)
func (t *token) step() time.Duration {
	now := time.Now()
	return time.Duration(now.Unix()-t.issued)*time.Second - now.Sub(t.minted).Truncate(time.Second)
}

// mint makes a token current. The caller holds minting.
func (s *Signer) mint() (*token, error) {
	now := time.Now()
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": s.teamID, "iat": now.Unix()})
	unsigned.Header["kid"] = s.keyID
	signed, err := unsigned.SignedString(s.key)
	if err != nil {
		return nil, fmt.Errorf("apns: cannot sign a provider token with key %s: %w", s.keyID, err)
	}
	t := &token{
		bearer: "bearer " + signed, minted: now, issued: now.Unix(),
		least: leastAge, renewal: renewalAge + rand.N(renewalSpan),
	}
	s.current.Store(t)
	return t, nil
}

// renew answers ExpiredProviderToken: it replaces used, unless that is too
// young, and reports whether there is now another token to try.
func (s *Signer) renew(used *token) bool {
	s.minting.Lock()
	defer s.minting.Unlock()
	t := s.current.Load()
	if t.bearer != used.bearer {
		return true
	}
	age := time.Since(t.minted)
	if age < greatestAge {
		s.alarm(t, "Apple calls a fresh provider token expired: this machine's clock seems wrong", "age", age)
	}
	if age < t.least {
		return false
	}
	_, err := s.mint()
	return err == nil
}

// hold answers TooManyProviderTokenUpdates: from now on the current token
// stays for 20 minutes more, or for as long as it lives.
func (s *Signer) hold() {
	s.minting.Lock()
	defer s.minting.Unlock()
	held := *s.current.Load()
	held.least = min(time.Since(held.minted)+leastAge, greatestAge)
	held.renewal = max(held.renewal, held.least)
	s.current.Store(&held)
}

// doubt answers InvalidProviderToken, which no other token of the same key would mend. Apple does not say what it makes of
// one that was issued in its future: likely this, and then the key is well and the clock is not.
func (s *Signer) doubt(used *token) {
	s.alarm(used, "Apple does not take the provider token: key_file, key_id and team_id do not belong together, or this machine's clock is ahead",
		"age", time.Since(used.minted))
}

// alarm logs once for each token.
func (s *Signer) alarm(t *token, what, key string, value time.Duration) {
	if s.alarmed.Swap(t) != t {
		s.log.Error("apns: "+what, "key_id", s.keyID, key, value)
	}
}
