// SPDX-License-Identifier: Apache-2.0

// Package identity finds out who makes a request: it turns an API key, a token of an OpenID Connect
// issuer or a client certificate into a Caller. It does not know which request needs which scope, and
// it never returns, logs or counts a part of a credential.
package identity

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Scopes is a set of permissions.
type Scopes uint8

// The permissions. docs/security.md lists the requests that each of them allows.
const (
	// Send sends notifications to any target and cancels pending ones.
	Send Scopes = 1 << iota
	// Read reads notifications, channels and the status. It includes Events.
	Read
	// Events reads the event feed.
	Events
	// Channels creates and deletes broadcast channels, and changes topic subscriptions.
	Channels
	// Broadcasts sends notifications to topics, conditions and channels, and broadcasts to any audience.
	Broadcasts
	// Approve approves large broadcasts of other callers.
	Approve
	// Admin includes all other scopes in all apps, and reads the whole status and the audit log.
	Admin
)

var scopeNames = [...]string{"send", "read", "events", "channels", "broadcasts", "approve", "admin"}

// all are all scopes.
const all Scopes = 1<<len(scopeNames) - 1

// ParseScopes returns the scopes with these names, and those that they include.
func ParseScopes(names []string) (s Scopes, err error) {
	for _, name := range names {
		i := slices.Index(scopeNames[:], name)
		if i < 0 {
			return 0, fmt.Errorf("must be any of %s, not %q", strings.Join(scopeNames[:], ", "), name)
		}
		s |= 1 << i
	}
	return s.withIncluded(), nil
}

func (s Scopes) withIncluded() Scopes {
	if s&Read != 0 {
		s |= Events
	}
	if s&Admin != 0 {
		s = all
	}
	return s
}

// Names returns the names of the scopes.
func (s Scopes) Names() (names []string) {
	for i, name := range scopeNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String returns the names of the scopes, such as "read or events": a request needs one of them.
func (s Scopes) String() string { return strings.Join(s.Names(), " or ") }

// Kind is the kind of credential with which a caller has identified itself.
type Kind string

// The kinds of credentials.
const (
	APIKey      Kind = "key"
	Token       Kind = "token"
	Certificate Kind = "certificate"
)

// Caller is who makes a request, and what it may do. It does not change.
type Caller struct {
	// Name is that of the API key, of the client certificate, or the claim of the token that names the
	// caller. It identifies the caller in logs.
	Name string
	// Kind is the kind of credential.
	Kind Kind
	// ExpiresAt is when the credential expires. The zero time means never.
	ExpiresAt time.Time
	// Limits are the limits of the caller, which callers with the same grant of a token share. nil means
	// none.
	Limits *Limits

	grants map[string]grant // by app
	admin  bool
	renew  func(*Authenticator) *Caller // see Authenticator.Renew
}

// grant is what a caller may do in one app.
type grant struct {
	name   string // of the key in this app
	scopes Scopes
}

// Scopes returns the scopes of the caller in an app. They are none if there is no such app.
func (c *Caller) Scopes(app string) Scopes { return c.grants[app].scopes }

// NameIn returns the name of the caller in an app: the same API key can have several names.
func (c *Caller) NameIn(app string) string {
	if name := c.grants[app].name; name != "" {
		return name
	}
	return c.Name
}

// Apps returns the apps in which the caller has at least one of the scopes, sorted by name.
func (c *Caller) Apps(scopes Scopes) (apps []string) {
	for app, g := range c.grants {
		if g.scopes&scopes != 0 {
			apps = append(apps, app)
		}
	}
	slices.Sort(apps)
	return apps
}

// IsAdmin reports whether the caller has the scope Admin, which no app limits.
func (c *Caller) IsAdmin() bool { return c.admin }

// Expired reports whether the credential has expired.
func (c *Caller) Expired() bool { return !c.ExpiresAt.IsZero() && !time.Now().Before(c.ExpiresAt) }
