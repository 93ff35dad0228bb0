// SPDX-License-Identifier: Apache-2.0

package console

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/sluice-push/sluice/internal/identity"
)

// cookieName is the name of the session cookie. Its value is a random ID; everything else is in
// memory.
const cookieName = "sluice_console"

// maxSessions limits the memory of the sessions. Beyond it the oldest one ends.
const maxSessions = 1000

// session is one sign-in. It does not hold the credential: the caller is renewed with each request.
type session struct {
	caller  *identity.Caller
	started time.Time
	ends    time.Time
}

// sessions are the sessions by the SHA-256 of their ID. The zero value is ready to use.
type sessions struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]session
}

// start starts a session and returns its ID.
func (s *sessions) start(caller *identity.Caller, lifetime time.Duration) (id string) {
	id = rand.Text() // 130 bits
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[[sha256.Size]byte]session{}
	}
	s.makeRoom(now)
	s.all[sha256.Sum256([]byte(id))] = session{caller: caller, started: now, ends: now.Add(lifetime)}
	return id
}

// makeRoom removes the sessions that have ended and, at the limit, the oldest one. s.mu is held.
func (s *sessions) makeRoom(now time.Time) {
	var oldest [sha256.Size]byte
	for id, session := range s.all {
		if now.After(session.ends) {
			delete(s.all, id)
		} else if o, ok := s.all[oldest]; !ok || session.started.Before(o.started) {
			oldest = id
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, oldest)
	}
}

// get returns the session of a request, if it has one that has not ended.
func (s *sessions) get(r *http.Request) (session, bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.all[sha256.Sum256([]byte(cookie.Value))]
	return found, ok && time.Now().Before(found.ends)
}

// end ends the session of a request.
func (s *sessions) end(r *http.Request) {
	if cookie, err := r.Cookie(cookieName); err == nil {
		s.mu.Lock()
		delete(s.all, sha256.Sum256([]byte(cookie.Value)))
		s.mu.Unlock()
	}
}

// Failed sign-ins that an address may have at once, and how often it may have another one.
const (
	maxFailures     = 10
	failureInterval = 6 * time.Second
	maxAddresses    = 1024 // whose failures are remembered
)

// attempts limits failed sign-ins by address. Keys are too long to guess: the limit protects the log
// and the processor.
type attempts struct {
	once     sync.Once
	limiters *lru.Cache[string, *rate.Limiter]
}

func (a *attempts) limiter(address string) *rate.Limiter {
	a.once.Do(func() { a.limiters, _ = lru.New[string, *rate.Limiter](maxAddresses) }) // fails only for sizes below 1
	if found, ok := a.limiters.Get(address); ok {
		return found
	}
	l := rate.NewLimiter(rate.Every(failureInterval), maxFailures)
	a.limiters.Add(address, l)
	return l
}

// signInData is the data of the sign-in page.
type signInData struct {
	Error string
	Dev   bool // a button signs in without a key
}

func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	if c.current(r) != nil {
		http.Redirect(w, r, Path, http.StatusSeeOther)
		return
	}
	c.renderSignIn(w, r, http.StatusOK, "")
}

func (c *Console) renderSignIn(w http.ResponseWriter, r *http.Request, status int, text string) {
	c.render(w, r, status, "sign-in", &pageData{Title: "Sign in", Data: signInData{Error: text, Dev: c.cfg.Dev != nil && isLoopback(r.Host)}})
}

// signIn handles the form of the sign-in page. Cross-origin requests do not get here.
func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	address := remoteAddress(r)
	limiter := c.attempts.limiter(address)
	if limiter.Tokens() < 1 {
		w.Header().Set("Retry-After", "6")
		c.renderSignIn(w, r, http.StatusTooManyRequests, "Too many failed attempts from your address. Try again in a few seconds.")
		return
	}
	key := strings.TrimSpace(r.PostFormValue("key"))
	if c.cfg.Dev != nil && r.PostFormValue("dev") != "" && isLoopback(r.Host) {
		key = c.cfg.Dev.Key
	}
	caller, refusal := c.authenticate(r, key)
	if refusal != nil {
		limiter.Allow()
		c.log.Warn("console sign-in failed", "address", address, "reason", refusal.Reason)
		c.signedIn(nil, address, refusal.Reason)
		c.renderSignIn(w, r, http.StatusUnauthorized, cmp.Or(refusalTexts[refusal.Reason], "This key or token is not valid."))
		return
	}
	c.sessions.end(r)
	lifetime := c.cfg.Lifetime()
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: c.sessions.start(caller, lifetime), Path: Path, MaxAge: int(lifetime.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: isHTTPS(r),
	})
	c.log.Info("console sign-in", "key", caller.Name, "address", address)
	c.signedIn(caller, address, "ok")
	http.Redirect(w, r, Path, http.StatusSeeOther)
}

// signedIn reports the result of a sign-in. caller is nil if it has failed.
func (c *Console) signedIn(caller *identity.Caller, address, result string) {
	if c.cfg.SignedIn != nil {
		c.cfg.SignedIn(caller, address, result)
	}
}

// refusalTexts say why nobody has signed in, by the reason of the refusal.
var refusalTexts = map[string]string{
	"expired_key": "This key has expired.", "early_key": "This key is not valid yet.", "unknown_key": "This key is not in the configuration of the gateway.",
}

// authenticate returns the holder of a key or token, as if a call of the API had it.
func (c *Console) authenticate(r *http.Request, credential string) (*identity.Caller, *identity.Refusal) {
	call := r.Clone(r.Context())
	call.Header = http.Header{"Authorization": {"Bearer " + credential}}
	return c.cfg.Authenticator().Authenticate(call)
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	c.sessions.end(r)
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: Path, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: isHTTPS(r)})
	http.Redirect(w, r, Path+"sign-in", http.StatusSeeOther)
}

// isHTTPS reports whether the browser uses TLS, also if a proxy ends it. A client that sets the header
// without TLS only loses its own cookie.
func isHTTPS(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// remoteAddress returns the address of the peer.
func remoteAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
