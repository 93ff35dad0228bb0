// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluice-push/sluice/internal/keyfile"

	"github.com/sluice-push/sluice/wire"
)

// The ages of a provider token. Apple: "Refresh your token no more than once every 20 minutes and
// no less than once every 60 minutes" ("Establishing a token-based connection to APNs", read
// 2026-11-22).
const (
	minAge        = 20 * time.Minute // a younger token is not replaced: APNs would respond 429 TooManyProviderTokenUpdates
	renewalAge    = 40 * time.Minute // a token is replaced at this age plus up to renewalJitter
	renewalJitter = 10 * time.Minute // prevents processes that start together from renewing together
	maxAge        = 58 * time.Minute // APNs treats a token as expired after 60 minutes
)

// clockTolerance is how far the wall clock may move relative to the monotonic clock before a
// token's time of issue counts as wrong.
const clockTolerance = time.Minute

// SignerConfig is a signing key from an Apple developer account.
type SignerConfig struct {
	// Key is the content of the .p8 file.
	Key []byte
	// KeyID and TeamID are Apple's IDs of the key and the team, ten characters each.
	KeyID, TeamID string
	// Logger logs suspected errors of this machine's clock; nil disables logging.
	Logger *slog.Logger
}

// Signer creates the provider tokens of one key. All goroutines share one token. It is created at
// first use and replaced after 40 to 50 minutes, but never within 20 minutes, whatever the wall
// clock or APNs' responses. Keep the Signer when a configuration is reloaded: two Signers for one
// key break that guarantee.
type Signer struct {
	key           *ecdsa.PrivateKey
	keyID, teamID string
	log           *slog.Logger

	current     atomic.Pointer[token]
	loggedToken atomic.Pointer[token] // the token of the last clock error

	mintMu sync.Mutex // held to replace current
}

// token is one provider token. It is immutable.
type token struct {
	field      wire.Field // the header field; its value is bearer and the token
	mintedAt   time.Time  // with a monotonic reading, to measure the age
	issuedAt   int64      // iat: the wall clock time, which is what APNs checks
	minAge     time.Duration
	renewalAge time.Duration
}

// NewSigner parses the key. An error says what is wrong with the key and contains no part of it.
func NewSigner(cfg SignerConfig) (*Signer, error) {
	key, err := parseKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	if !appleID(cfg.KeyID) {
		return nil, errors.New("apns: key_id: must be 10 capital letters and digits, as in the file name AuthKey_<key_id>.p8")
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

// String returns the key ID. It prevents the key from being printed with a Signer.
func (s *Signer) String() string { return "apns.Signer(" + s.keyID + ")" }

// GoString is like String.
func (s *Signer) GoString() string { return s.String() }

var appleID = regexp.MustCompile(`^[A-Z0-9]{10}$`).MatchString

// parseKey parses a .p8 file: a P-256 key in PKCS #8 and PEM.
func parseKey(content []byte) (*ecdsa.PrivateKey, error) {
	text := keyfile.Text(content)
	block, err := keyfile.Key(text, "PRIVATE KEY")
	if err != nil && keyfile.CheckCertificate(text) == nil {
		return nil, errors.New("apns: key: a certificate: set cert_file and cert_key_file instead of key_file, key_id and team_id")
	}
	if err != nil {
		return nil, fmt.Errorf("apns: key: %w (Apple's file is AuthKey_<key_id>.p8)", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("apns: key: the PEM block does not contain a PKCS #8 key (is the file truncated?)")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("apns: key: must be an elliptic curve key on P-256, is %s", keyfile.DescribeKey(parsed))
	}
	return key, nil
}

// token returns the token to send with. It mints one if necessary.
func (s *Signer) token() (*token, error) {
	if t := s.current.Load(); t != nil && !s.mustRenew(t) {
		return t, nil
	}
	s.mintMu.Lock()
	defer s.mintMu.Unlock()
	if t := s.current.Load(); t != nil && !s.mustRenew(t) {
		return t, nil // another goroutine minted it
	}
	return s.mint()
}

// mustRenew reports whether t must be replaced before its next use: because of its age, or because
// the wall clock was set after t was minted. In the latter case its time of issue is wrong, and
// APNs will treat it as expired or as not yet valid.
func (s *Signer) mustRenew(t *token) bool {
	age := time.Since(t.mintedAt)
	if age >= t.renewalAge {
		return true
	}
	if step := t.clockStep(); step.Abs() > clockTolerance {
		s.logOnce(t, "wall clock was set: time of issue of the provider token is wrong", "step", step)
		return age >= t.minAge
	}
	return false
}

// clockStep returns how far the wall clock has moved relative to the monotonic clock since t was
// minted. Suspending the machine has the same effect and needs the same reaction.
func (t *token) clockStep() time.Duration {
	now := time.Now()
	return time.Duration(now.Unix()-t.issuedAt)*time.Second - now.Sub(t.mintedAt).Truncate(time.Second)
}

// mint creates a token and makes it current. The caller holds mintMu.
func (s *Signer) mint() (*token, error) {
	now := time.Now()
	field, err := s.SignAs(s.keyID, s.teamID, now)
	if err != nil {
		return nil, err
	}
	t := &token{
		field: field, mintedAt: now, issuedAt: now.Unix(),
		minAge: minAge, renewalAge: renewalAge + rand.N(renewalJitter),
	}
	s.current.Store(t)
	return t, nil
}

// SignAs returns the header field with a token as if the key had these IDs and the clock showed that
// time. It is for diagnosing which of them APNs does not accept: Sign's tokens do not change.
func (s *Signer) SignAs(keyID, teamID string, issuedAt time.Time) (wire.Field, error) {
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": teamID, "iat": issuedAt.Unix()})
	unsigned.Header["kid"] = keyID
	signed, err := unsigned.SignedString(s.key)
	if err != nil {
		return wire.Field{}, fmt.Errorf("apns: cannot sign a provider token with key %s: %w", keyID, err)
	}
	return authorization("bearer " + signed), nil
}

// onExpired handles ExpiredProviderToken. It replaces used unless it is younger than minAge, and
// reports whether a newer token exists.
func (s *Signer) onExpired(used *token) bool {
	s.mintMu.Lock()
	defer s.mintMu.Unlock()
	t := s.current.Load()
	if t.field != used.field {
		return true
	}
	age := time.Since(t.mintedAt)
	if age < maxAge {
		s.logOnce(t, "APNs considers a new provider token expired: check this machine's clock", "age", age)
	}
	if age < t.minAge {
		return false
	}
	_, err := s.mint()
	return err == nil
}

// onTooManyUpdates handles TooManyProviderTokenUpdates. It keeps the current token for 20 more
// minutes, but not longer than maxAge.
func (s *Signer) onTooManyUpdates() {
	s.mintMu.Lock()
	defer s.mintMu.Unlock()
	held := *s.current.Load()
	held.minAge = min(time.Since(held.mintedAt)+minAge, maxAge)
	held.renewalAge = max(held.renewalAge, held.minAge)
	s.current.Store(&held)
}

// onInvalid handles InvalidProviderToken. Another token of the same key would not help. Apple does
// not document its response to a token whose time of issue is in the future. It is probably this
// one, and then the clock is wrong and the key is valid.
func (s *Signer) onInvalid(used *token) {
	s.logOnce(used, "APNs refuses the provider token: key_file, key_id and team_id do not match, or this machine's clock is ahead",
		"age", time.Since(used.mintedAt))
}

// logOnce logs an error once per token.
func (s *Signer) logOnce(t *token, msg, key string, value time.Duration) {
	if s.loggedToken.Swap(t) != t {
		s.log.Error("apns: "+msg, "key_id", s.keyID, key, value.String())
	}
}

// authorization returns the header field with the provider token. It is sent without indexing: Apple
// requires that ("Communicating with APNs"), and RFC 7541, section 7.1.3, recommends it for secrets.
func authorization(bearer string) wire.Field {
	return wire.Field{Name: "authorization", Value: bearer, NeverIndexed: true}
}
