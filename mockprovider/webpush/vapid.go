// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt"
)

// checkVAPID checks the credential of RFC 8292, section 3: the token, which the key in the same field
// must have signed, and the key against serverKey, the key that the subscription is restricted to; ""
// for no restriction.
func checkVAPID(r *h2.Request, flavour Flavour, serverKey string) cause {
	credential, ok := r.Credential("vapid")
	if !ok {
		return noVAPID
	}
	compact, key := splitVAPID(credential)
	if compact == "" || key == "" {
		return noVAPID
	}
	point, err := base64.RawURLEncoding.DecodeString(key)
	if err != nil {
		return badVAPIDKey
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return badVAPIDKey
	}
	token, err := jwt.Parse(compact)
	if err != nil || !token.VerifyES256(public) || !validClaims(token, "https://"+r.Authority) {
		return badVAPIDToken
	}
	if flavour == Apple && !isPublicContact(token.Claims.Sub) {
		return badVAPIDToken
	}
	if serverKey != "" && key != serverKey {
		return otherVAPIDKey
	}
	return ""
}

// splitVAPID splits t=…, k=…, in either order.
func splitVAPID(credential string) (token, key string) {
	for part := range strings.SplitSeq(credential, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			token = value
		case "k":
			key = strings.TrimRight(value, "=")
		}
	}
	return token, key
}

// isPublicContact reports whether Apple accepts a contact: it rejects those of hosts that are not
// public, such as mailto:ops@localhost, which other services accept (observed).
func isPublicContact(sub string) bool {
	host := sub[strings.LastIndexAny(sub, "@/")+1:]
	if u, err := url.Parse(sub); err == nil && u.Scheme == "https" {
		host = u.Hostname()
	}
	host, _, _ = strings.Cut(host, "?")
	at := strings.LastIndexByte(host, '.')
	return at >= 0 && !slices.Contains([]string{"localhost", "local", "invalid"}, strings.ToLower(host[at+1:]))
}

// validClaims reports whether the token is for origin, expires within 24 hours, and has a contact.
func validClaims(t *jwt.Token, origin string) bool {
	lifetime := time.Until(time.Unix(int64(t.Claims.Exp), 0))
	contact := strings.HasPrefix(t.Claims.Sub, "mailto:") || strings.HasPrefix(t.Claims.Sub, "https:")
	return t.Claims.Aud == origin && lifetime > 0 && lifetime <= 24*time.Hour && contact
}
