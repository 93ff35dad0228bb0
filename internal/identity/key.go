// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Key is one API key. The gateway stores only its hash.
type Key struct {
	// Path is the configuration block of the key, such as apps.shop.keys[0], for errors.
	Path string
	// Name identifies the key in logs.
	Name string
	// Hash is "sha256:" and 64 hex digits, as returned by NewKey.
	Hash string
	// Apps are the apps that the key may act for.
	Apps []string
	// Scopes are the permissions in these apps. The key of an Admin may act for all apps.
	Scopes Scopes
	// NotBefore and ExpiresAt limit the time in which the key is valid. A zero time is no limit.
	NotBefore, ExpiresAt time.Time
	// Limit limits the use of the key.
	Limit Limit
}

const hashPrefix = "sha256:"

// lowerBase32 contains neither '_', which separates the parts of a key, nor characters at which a
// double click ends the selection.
var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewKey creates an API key of the form slk_<id>_<secret>, with a secret of 256 random bits, and
// the hash for the configuration. The key is not stored anywhere.
func NewKey() (key, hash string) {
	var random [5 + 32]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	key = "slk_" + lowerBase32.EncodeToString(random[:5]) + "_" + lowerBase32.EncodeToString(random[5:])
	sum := sha256.Sum256([]byte(key))
	return key, hashPrefix + hex.EncodeToString(sum[:])
}

func parseHash(s string) (sum [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	if n, err := hex.Decode(sum[:], bytesOfLength(digits, 2*len(sum))); !ok || err != nil || n != len(sum) {
		return sum, errors.New("must be sha256: and 64 hex digits (gateway key creates one)")
	}
	return sum, nil
}

// bytesOfLength returns s as bytes, or nil if its length is not n.
func bytesOfLength(s string, n int) []byte {
	if len(s) != n {
		return nil
	}
	return []byte(s)
}

// apiKey is one key and its holder.
type apiKey struct {
	hash      [sha256.Size]byte
	path      string
	notBefore time.Time
	limit     Limit
	caller    *Caller
}

// keyring finds a key by the first bytes of its hash. The time of the lookup reveals nothing,
// because an attacker cannot choose the hash of a guessed key. The rest of the hash is compared in
// constant time.
type keyring map[[8]byte][]*apiKey

// find returns the key with this hash, or nil.
func (k keyring) find(sum [sha256.Size]byte) *apiKey {
	for _, key := range k[[8]byte(sum[:])] {
		if subtle.ConstantTimeCompare(key.hash[:], sum[:]) == 1 {
			return key
		}
	}
	return nil
}

// add adds a key. Entries with the same hash are one key that belongs to several apps.
func (a *Authenticator) add(key Key) error {
	sum, err := parseHash(key.Hash)
	if err != nil {
		return fmt.Errorf("%s.hash: %w", key.Path, err)
	}
	added := a.keys.find(sum)
	if added == nil {
		added = &apiKey{
			hash: sum, path: key.Path, notBefore: key.NotBefore, limit: key.Limit,
			caller: &Caller{Name: key.Name, Kind: APIKey, ExpiresAt: key.ExpiresAt, grants: map[string]grant{}, Limits: a.limits(key.Limit, "key", string(sum[:]))},
		}
		added.caller.renew = func(next *Authenticator) *Caller { return next.key(sum) }
		index := [8]byte(sum[:])
		a.keys[index] = append(a.keys[index], added)
	} else if !added.notBefore.Equal(key.NotBefore) || !added.caller.ExpiresAt.Equal(key.ExpiresAt) || added.limit != key.Limit {
		return fmt.Errorf("%s: is the same key as %s: give both the same not_before, expires_at, rate and concurrency", key.Path, added.path)
	}
	a.grant(added.caller, key.Apps, grant{key.Name, key.Scopes})
	return nil
}

// key returns the holder of the key with this hash, or nil if there is none or it has expired.
func (a *Authenticator) key(sum [sha256.Size]byte) *Caller {
	key := a.keys.find(sum)
	if key == nil || key.caller.Expired() || time.Now().Before(key.notBefore) {
		return nil
	}
	return key.caller
}
