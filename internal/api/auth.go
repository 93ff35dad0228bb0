// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

// Key authorizes its holder for an app. The gateway stores only its hash.
type Key struct {
	// Name identifies the key in logs.
	Name string
	// Hash is "sha256:" and 64 hex digits, as returned by NewKey.
	Hash string
	// Scopes are the permissions: send, read (status, history, events and channels), channels
	// (create and delete broadcast channels), or several of them. None means send.
	Scopes []string
}

// scopeSet is a set of scopes.
type scopeSet uint8

const (
	scopeSend scopeSet = 1 << iota
	scopeRead
	scopeChannels
)

var scopeNames = map[string]scopeSet{"send": scopeSend, "read": scopeRead, "channels": scopeChannels}

// String returns the name of the scope.
func (m scopeSet) String() string {
	for name, scope := range scopeNames {
		if m == scope {
			return name
		}
	}
	return "several scopes"
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

// grant is what one key may do in one app.
type grant struct {
	name   string
	scopes scopeSet
}

// apiKey is one key with its grants by app. A key can belong to several apps.
type apiKey struct {
	hash   [sha256.Size]byte
	grants map[string]grant
}

// keyring finds a key by the first bytes of its hash. The time of the lookup reveals nothing,
// because an attacker cannot choose the hash of a guessed key. The rest of the hash is compared in
// constant time.
type keyring map[[8]byte][]apiKey

func newKeyring(apps map[string]App) (keyring, error) {
	ring := keyring{}
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		if !isPlain(name, 64) {
			return nil, fmt.Errorf("apps: a name must be 1 to 64 letters, digits, '.', '_' or '-', not %q", name)
		}
		for i, key := range apps[name].Keys {
			if err := ring.add(name, key); err != nil {
				return nil, fmt.Errorf("apps.%s.keys[%d].%w", name, i, err)
			}
		}
	}
	return ring, nil
}

func (k keyring) add(app string, key Key) error {
	sum, err := parseHash(key.Hash)
	if err != nil {
		return err
	}
	g := grant{name: key.Name, scopes: scopeSend}
	if len(key.Scopes) > 0 {
		g.scopes = 0
	}
	for _, name := range key.Scopes {
		scope, ok := scopeNames[name]
		if !ok {
			return fmt.Errorf("scopes: must be any of send, read, channels, not %q", name)
		}
		g.scopes |= scope
	}
	if grants := k.find(sum); grants != nil {
		grants[app] = g
		return nil
	}
	index := [8]byte(sum[:])
	k[index] = append(k[index], apiKey{sum, map[string]grant{app: g}})
	return nil
}

func parseHash(s string) (sum [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	if n, err := hex.Decode(sum[:], bytesOfLength(digits, 2*len(sum))); !ok || err != nil || n != len(sum) {
		return sum, fmt.Errorf("hash: must be sha256: and 64 hex digits (gateway key creates one)")
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

// find returns the grants of the key with this hash, or nil.
func (k keyring) find(sum [sha256.Size]byte) map[string]grant {
	for _, h := range k[[8]byte(sum[:])] {
		if subtle.ConstantTimeCompare(h.hash[:], sum[:]) == 1 {
			return h.grants
		}
	}
	return nil
}

// authenticate returns the hash and the grants of the request's key.
func (k keyring) authenticate(w *response, r *http.Request) (sum [sha256.Size]byte, grants map[string]grant, p *problem) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		var buf [128]byte // avoids an allocation
		sum = sha256.Sum256(append(buf[:0], strings.TrimSpace(key)...))
		if grants := k.find(sum); grants != nil {
			return sum, grants, nil
		}
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
	return sum, nil, &problem{kind: unauthenticated, field: "Authorization",
		detail: "must be Bearer and an API key of this app (gateway key creates one; its hash goes into the configuration)"}
}

// authorize calls h if the request's key has the scope in the app of the path. The problem for an
// app that does not exist is the same as for another app.
func (s *server) authorize(scope scopeSet, h handler) handler {
	return func(w *response, r *http.Request) *problem {
		sum, grants, p := s.keys.authenticate(w, r)
		if p != nil {
			return p
		}
		app := cmp.Or(appOfSend(r), chi.URLParam(r, "app"))
		g, ok := grants[app]
		if !ok {
			return &problem{kind: wrongApp, detail: "a key is valid only for the apps that it is configured for"}
		}
		w.app, w.key, w.access = app, g.name, access{s, sum, app, scope}
		if g.scopes&scope == 0 {
			return &problem{kind: missingScope, detail: fmt.Sprintf("this request needs a key with the scope %s", scope)}
		}
		setBodyDeadline(w.ResponseWriter, r, time.Now().Add(s.limits.BodyTimeout))
		return h(w, r)
	}
}

// access is the permission of a request. It follows the configuration while the request is in
// progress. It is not safe for concurrent use.
type access struct {
	server *server // of the configuration in which the key was last found
	key    [sha256.Size]byte
	app    string
	scope  scopeSet
}

// changed returns a channel that is closed when the permission must be checked again.
func (a *access) changed() <-chan struct{} { return a.server.replaced }

// check returns a problem if a newer configuration no longer grants the permission.
func (a *access) check() *problem {
	for {
		select {
		case <-a.server.replaced:
		default:
			return nil
		}
		next := a.server.next
		if next.keys.find(a.key)[a.app].scopes&a.scope == 0 {
			return &problem{kind: unauthenticated, field: "Authorization", detail: "the API key is no longer valid for this request"}
		}
		a.server = next
	}
}

// readableApps returns the apps in which the request's key has the scope read.
func (s *server) readableApps(w *response, r *http.Request) ([]string, *problem) {
	_, grants, p := s.keys.authenticate(w, r)
	if p != nil {
		return nil, p
	}
	var apps []string
	for app, g := range grants {
		if g.scopes&scopeRead != 0 {
			apps, w.key = append(apps, app), g.name
		}
	}
	if apps == nil {
		return nil, &problem{kind: missingScope, detail: fmt.Sprintf("this request needs a key with the scope %s", scopeRead)}
	}
	slices.Sort(apps)
	return apps, nil
}
