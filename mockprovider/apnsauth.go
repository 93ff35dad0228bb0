// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"slices"
	"sync"
	"time"
)

// tokenAge is how old a provider token may be, from "Establishing a token-based connection to APNs".
const tokenAge = time.Hour

// clockSkew is how far in the future a token may have been issued.
const clockSkew = 5 * time.Minute

// authenticate checks the client certificate, or else the provider token, and binds the connection to its key. A
// client certificate wins: authorization is then ignored.
func (a *apns) authenticate(p *peer, r *request) refusal {
	if p.cert != nil {
		return refusal{}
	}
	authorization := r.get("authorization")
	if authorization == "" {
		return refusal{403, "MissingProviderToken"}
	}
	if authorization != p.known || p.bound == nil {
		return a.verify(p, authorization, r.sandbox())
	}
	if a.clock(APNs).Sub(p.issued) > tokenAge {
		return refusal{403, "ExpiredProviderToken"}
	}
	return refusal{}
}

// verify reads a token that the connection has not seen before.
func (a *apns) verify(p *peer, authorization string, sandbox bool) refusal {
	compact, ok := bearer(authorization, "bearer")
	if !ok {
		return refusal{403, "InvalidProviderToken"}
	}
	token, err := parseJWT(compact)
	if err != nil {
		return refusal{403, "InvalidProviderToken"}
	}
	key := slices.IndexFunc(a.credentials, func(c Credential) bool {
		return c.KeyID == token.Header.Kid && c.TeamID == token.Claims.Iss
	})
	if key < 0 || !token.signedForApple(a.credentials[key].public) {
		return refusal{403, "InvalidProviderToken"}
	}
	if in := a.credentials[key].Environment; in != "" && (in == Sandbox) != sandbox {
		return refusal{403, "BadEnvironmentKeyInToken"} // documented as BadEnvironmentKeyIdInToken, seen as this
	}
	return a.bind(p, authorization, &a.credentials[key], time.Unix(int64(token.Claims.Iat), 0))
}

// bind ties the connection to the key of its first good token: one team, and one key, per connection.
func (a *apns) bind(p *peer, authorization string, key *Credential, issued time.Time) refusal {
	age := a.clock(APNs).Sub(issued)
	if age > tokenAge {
		return refusal{403, "ExpiredProviderToken"}
	}
	if -age > clockSkew {
		return refusal{403, "InvalidProviderToken"}
	}
	if p.bound != nil && p.bound.TeamID != key.TeamID {
		return refusal{403, "InvalidProviderToken"}
	}
	if p.bound != nil && p.bound.KeyID != key.KeyID {
		return refusal{403, "UnrelatedKeyIdInToken"}
	}
	if !a.updates.allow(key.KeyID, authorization) {
		return refusal{429, "TooManyProviderTokenUpdates"}
	}
	p.bound, p.known, p.issued = key, authorization, issued
	return refusal{}
}

// tokenUpdates polices how often a key's token changes. Whether Apple counts by connection, key or address is not
// known; this counts by key, the strictest.
type tokenUpdates struct {
	every time.Duration // 0: not policed

	mu   sync.Mutex
	last map[string]time.Time       // by key ID: when its newest token came first
	seen map[string]map[string]bool // by key ID: the tokens that were taken
}

func newTokenUpdates(every time.Duration) *tokenUpdates {
	return &tokenUpdates{every: every, last: map[string]time.Time{}, seen: map[string]map[string]bool{}}
}

// allow says whether the key may use this token now.
func (u *tokenUpdates) allow(keyID, token string) bool {
	if u.every == 0 {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen[keyID][token] {
		return true
	}
	if newest, ok := u.last[keyID]; ok && time.Since(newest) < u.every {
		return false
	}
	if u.seen[keyID] == nil {
		u.seen[keyID] = map[string]bool{}
	}
	u.last[keyID], u.seen[keyID][token] = time.Now(), true
	return true
}
