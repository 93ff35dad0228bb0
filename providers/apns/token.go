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
	minAge        = 20 * time.Minute // younger, it is never replaced: Apple would answer 429 TooManyProviderTokenUpdates
	renewalAge    = 40 * time.Minute // replaced here, and up to renewalSpan later
	renewalJitter = 10 * time.Minute // so that processes that started together do not renew together
	maxAge        = 58 * time.Minute // older, Apple calls it expired at 60 minutes
)

// clockTolerance is by how much the wall clock may move against the monotonic one
// before a token's time of issue is called wrong.
const clockTolerance = time.Minute

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

	current     atomic.Pointer[token]
	warnedToken atomic.Pointer[token] // the token that the clock's alarm was last about

	mintMu sync.Mutex // held by whoever replaces current
}

// token is one provider token. It does not change.
type token struct {
	bearer     string
	mintedAt   time.Time // its monotonic reading: what ages are measured from
	issuedAt   int64     // iat: what the wall clock said then, which is all that Apple goes by
	minAge     time.Duration
	renewalAge time.Duration
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
	if t := s.current.Load(); t != nil && !s.mustRenew(t) {
		return t, nil
	}
	s.mintMu.Lock()
	defer s.mintMu.Unlock()
	if t := s.current.Load(); t != nil && !s.mustRenew(t) {
		return t, nil // another goroutine was faster
	}
	return s.mint()
}

// mustRenew reports whether t is to be replaced before it is used again. Besides by
// its age, that is so when the wall clock has been set since: then its time of
// issue is wrong, and Apple will find it expired or from the future.
func (s *Signer) mustRenew(t *token) bool {
	age := time.Since(t.mintedAt)
	if age >= t.renewalAge {
		return true
	}
	if step := t.clockStep(); step.Abs() > clockTolerance {
		s.warnOnce(t, "this machine's clock was set: the provider token's time of issue is wrong", "step", step)
		return age >= t.minAge
	}
	return false
}

// clockStep returns by how much the wall clock moved against the monotonic one
// since t was minted. (A suspended machine looks the same, and wants the same.)
func (t *token) clockStep() time.Duration {
	now := time.Now()
	return time.Duration(now.Unix()-t.issuedAt)*time.Second - now.Sub(t.mintedAt).Truncate(time.Second)
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
		bearer: "bearer " + signed, mintedAt: now, issuedAt: now.Unix(),
		minAge: minAge, renewalAge: renewalAge + rand.N(renewalJitter),
	}
	s.current.Store(t)
	return t, nil
}

// onExpired answers ExpiredProviderToken: it replaces used, unless that is too
// young, and reports whether there is now another token to try.
func (s *Signer) onExpired(used *token) bool {
	s.mintMu.Lock()
	defer s.mintMu.Unlock()
	t := s.current.Load()
	if t.bearer != used.bearer {
		return true
	}
	age := time.Since(t.mintedAt)
	if age < maxAge {
		s.warnOnce(t, "Apple calls a fresh provider token expired: this machine's clock seems wrong", "age", age)
	}
	if age < t.minAge {
		return false
	}
	_, err := s.mint()
	return err == nil
}

// onTooManyUpdates answers TooManyProviderTokenUpdates: from now on the current token
// stays for 20 minutes more, or for as long as it lives.
func (s *Signer) onTooManyUpdates() {
	s.mintMu.Lock()
	defer s.mintMu.Unlock()
	held := *s.current.Load()
	held.minAge = min(time.Since(held.mintedAt)+minAge, maxAge)
	held.renewalAge = max(held.renewalAge, held.minAge)
	s.current.Store(&held)
}

// onInvalid answers InvalidProviderToken, which no other token of the same key would mend. Apple does not say what it makes of
// one that was issued in its future: likely this, and then the key is well and the clock is not.
func (s *Signer) onInvalid(used *token) {
	s.warnOnce(used, "Apple does not take the provider token: key_file, key_id and team_id do not belong together, or this machine's clock is ahead",
		"age", time.Since(used.mintedAt))
}

// warnOnce logs once for each token.
func (s *Signer) warnOnce(t *token, what, key string, value time.Duration) {
	if s.warnedToken.Swap(t) != t {
		s.log.Error("apns: "+what, "key_id", s.keyID, key, value)
	}
}
