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

	"github.com/sluice-push/sluice/internal/keyfile"
)

// Key is a VAPID key pair, which identifies a sender to push services.
type Key struct {
	private *ecdsa.PrivateKey
	public  string // base64url
}

// NewKey generates a key pair.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return newKey(private)
}

// ParseKey parses a private key: PEM (PKCS #8, or SEC 1 as from openssl ecparam), or the 32 bytes
// in base64url that other libraries call the VAPID private key. An error says what is wrong with
// the key and contains no part of it.
func ParseKey(content []byte) (*Key, error) {
	text := keyfile.Text(content)
	if scalar, err := decodeBase64(strings.TrimSpace(string(text))); err == nil && len(scalar) > 0 {
		return parseScalar(scalar)
	}
	block, err := keyfile.Key(text, "PRIVATE KEY", "EC PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("webpush: key: %w (allowed too: 32 bytes in base64url, the private key that web-push generate-vapid-keys prints; to create a key: gateway key vapid)", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if block.Type == "EC PRIVATE KEY" {
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, errors.New("webpush: key: the PEM block does not contain a private key (is the file truncated?)")
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("webpush: key: must be an elliptic curve key on P-256, is %s", keyfile.DescribeKey(parsed))
	}
	return newKey(private)
}

// lenPublicKey is the length of an uncompressed point on P-256.
const lenPublicKey = 65

// parseScalar parses the private key that other libraries use.
func parseScalar(scalar []byte) (*Key, error) {
	switch {
	case len(scalar) == lenPublicKey && scalar[0] == 4:
		return nil, errors.New("webpush: key: the public key of a VAPID pair: the private key is needed, 32 bytes in base64url")
	case len(scalar) != 32:
		return nil, errors.New("webpush: key: base64url that is not 32 bytes (to create a key: gateway key vapid)")
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return nil, errors.New("webpush: key: 32 bytes that are not a P-256 private key")
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

// StatedPublicKey returns the public key that the first line of a key file names, as gateway key vapid
// writes it, or "". ParseKey ignores it: only the private key counts.
func StatedPublicKey(content []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(keyfile.Text(content))), "\n")
	if name, key, found := strings.Cut(strings.TrimSpace(line), " "); found && name == "public" {
		return strings.TrimRight(strings.TrimSpace(key), "=")
	}
	return ""
}

// Public returns the public key in the format of applicationServerKey, which a page passes to
// pushManager.subscribe.
func (k *Key) Public() string { return k.public }

// PEM returns the private key in a format that ParseKey accepts.
func (k *Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// String returns the public key. It prevents the private key from being printed.
func (k *Key) String() string { return "webpush.Key(" + k.public + ")" }

// GoString is like String.
func (k *Key) GoString() string { return k.String() }

const (
	// tokenLifetime is how long a token is valid. RFC 8292 allows 24 hours; the difference allows
	// for clock skew.
	tokenLifetime = 12 * time.Hour
	// renewalAge is the age at which a token is replaced. Apple allows no renewal within an hour
	// ("Sending web push notifications", read 2026-11-22).
	renewalAge, minRenewalAge = 6 * time.Hour, time.Hour
	// maxTokens limits the memory if every host is allowed.
	maxTokens = 1024
)

// vapidToken is a VAPID token for one origin. It is immutable.
type vapidToken struct {
	authorization string
	expiresAt     int64     // exp
	mintedAt      time.Time // with a monotonic reading
}

// mustRenew reports whether the token must be replaced before its next use: because of its age, or
// because the wall clock was set and its expiry is wrong.
func (t *vapidToken) mustRenew() bool {
	left := time.Duration(t.expiresAt-time.Now().Unix()) * time.Second
	return left < tokenLifetime-renewalAge || left > tokenLifetime+time.Minute
}

// tokenCache creates the VAPID tokens. There is one token per origin at a time.
type tokenCache struct {
	key     *Key
	subject string

	mu       sync.Mutex
	byOrigin map[string]*vapidToken
}

func newTokenCache(key *Key, subject string) *tokenCache {
	return &tokenCache{key: key, subject: subject, byOrigin: map[string]*vapidToken{}}
}

// get returns the token for origin.
func (c *tokenCache) get(origin string) (*vapidToken, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.byOrigin[origin]; known != nil && !known.mustRenew() {
		return known, nil
	}
	fresh, err := c.mint(origin)
	if err != nil {
		return nil, err
	}
	if len(c.byOrigin) >= maxTokens {
		clear(c.byOrigin)
	}
	c.byOrigin[origin] = fresh
	return fresh, nil
}

// mint creates a token (RFC 8292, sections 2 and 3). It is valid for one origin only, so that no
// push service can use it at another.
func (c *tokenCache) mint(origin string) (*vapidToken, error) {
	now := time.Now()
	expires := now.Add(tokenLifetime).Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"aud": origin, "exp": expires, "sub": c.subject})
	signed, err := token.SignedString(c.key.private)
	if err != nil {
		return nil, fmt.Errorf("webpush: cannot sign with the VAPID key: %w", err)
	}
	return &vapidToken{authorization: "vapid t=" + signed + ", k=" + c.key.public, expiresAt: expires, mintedAt: now}, nil
}

// invalidate handles a refused token. It drops the token unless it is younger than minRenewalAge,
// and reports whether a retry can use another one.
func (c *tokenCache) invalidate(origin string, used *vapidToken) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byOrigin[origin] != used {
		return true
	}
	if time.Since(used.mintedAt) < minRenewalAge {
		return false
	}
	delete(c.byOrigin, origin)
	return true
}
