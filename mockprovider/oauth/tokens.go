// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"sync"
	"time"
)

// Tokens holds the access tokens that were issued. It is safe for concurrent use.
type Tokens struct {
	mu     sync.RWMutex
	issued map[string]accessToken
}

type accessToken struct {
	expires   time.Time
	messaging bool // its scope allows sending
}

// NewTokens returns an empty set of access tokens.
func NewTokens() *Tokens { return &Tokens{issued: map[string]accessToken{}} }

// add adds a token, and removes those that expired more than an hour ago.
func (t *Tokens) add(token string, access accessToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for old, access := range t.issued {
		if time.Since(access.expires) > time.Hour {
			delete(t.issued, old)
		}
	}
	t.issued[token] = access
}

// Lookup returns when a token expires and whether it allows sending; ok is false for an unknown
// token. A token that has expired may still be known.
func (t *Tokens) Lookup(token string) (expires time.Time, messaging, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	access, ok := t.issued[token]
	return access.expires, access.messaging, ok
}

// ExpireAll makes all tokens issued so far expire now.
func (t *Tokens) ExpireAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for token, access := range t.issued {
		access.expires = time.Now().Add(-time.Second)
		t.issued[token] = access
	}
}
