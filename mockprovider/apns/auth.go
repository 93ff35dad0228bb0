// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt"
)

// maxTokenAge is the maximum age of a provider token, from "Establishing a token-based connection to
// APNs".
const maxTokenAge = time.Hour

// maxClockSkew is how far in the future a token may have been issued.
const maxClockSkew = 5 * time.Minute

// authenticate checks the client certificate or, without one, the provider token. With a certificate
// it ignores the token.
func (c *Conn) authenticate(r *h2.Request) rejection {
	if c.cert != nil {
		return checkCertificate(c.cert, isSandbox(r))
	}
	authorization := r.Get("authorization")
	if authorization == "" {
		return rejection{403, "MissingProviderToken"}
	}
	if authorization != c.verified || c.key == nil {
		return c.verify(r, authorization)
	}
	if c.now().Sub(c.issued) > maxTokenAge {
		return rejection{403, "ExpiredProviderToken"}
	}
	return rejection{}
}

// verify checks a token that is new on the connection.
func (c *Conn) verify(r *h2.Request, authorization string) rejection {
	compact, ok := r.Credential("bearer")
	if !ok {
		return rejection{403, "InvalidProviderToken"}
	}
	token, err := jwt.Parse(compact)
	if err != nil {
		return rejection{403, "InvalidProviderToken"}
	}
	key := slices.IndexFunc(c.credentials, func(k Credential) bool {
		return k.KeyID == token.Header.Kid && k.TeamID == token.Claims.Iss
	})
	if key < 0 || !signedBy(token, &c.credentials[key]) {
		return rejection{403, "InvalidProviderToken"}
	}
	if environment := c.credentials[key].Environment; environment != "" && (environment == Sandbox) != isSandbox(r) {
		return rejection{403, "BadEnvironmentKeyInToken"} // documented as BadEnvironmentKeyIdInToken, observed as this
	}
	return c.bind(authorization, &c.credentials[key], time.Unix(int64(token.Claims.Iat), 0))
}

// signedBy verifies the signature of a token. It accepts ASN.1 signatures too: pushy, a Java library,
// makes them, and APNs has accepted them for years.
func signedBy(token *jwt.Token, key *Credential) bool {
	return token.VerifyES256(key.public) || token.VerifyES256ASN1(key.public)
}

// bind binds the connection to the key of its first valid token: APNs accepts one team and one key
// on a connection.
func (c *Conn) bind(authorization string, key *Credential, issued time.Time) rejection {
	age := c.now().Sub(issued)
	if age > maxTokenAge {
		return rejection{403, "ExpiredProviderToken"}
	}
	if -age > maxClockSkew {
		return rejection{403, "InvalidProviderToken"}
	}
	if c.key != nil && c.key.TeamID != key.TeamID {
		return rejection{403, "InvalidProviderToken"}
	}
	if c.key != nil && c.key.KeyID != key.KeyID {
		return rejection{403, "UnrelatedKeyIdInToken"}
	}
	if !c.updates.allow(key.KeyID, authorization) {
		return rejection{429, "TooManyProviderTokenUpdates"}
	}
	c.key, c.verified, c.issued = key, authorization, issued
	return rejection{}
}

// tokenUpdates limits how often the token of a key may change. It is not known whether APNs counts by
// connection, key or address; this counts by key, which is the strictest.
type tokenUpdates struct {
	every time.Duration // 0 for no limit

	mu   sync.Mutex
	last map[string]time.Time       // by key ID: when its newest token was first used
	seen map[string]map[string]bool // by key ID: its tokens that were accepted
}

func newTokenUpdates(every time.Duration) *tokenUpdates {
	return &tokenUpdates{every: every, last: map[string]time.Time{}, seen: map[string]map[string]bool{}}
}

// allow reports whether the key may use this token now.
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
