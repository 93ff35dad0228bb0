// SPDX-License-Identifier: Apache-2.0

package console

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"net/url"
	"slices"
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
	Error   string
	Issuers []issuerLink
	Dev     bool // a button signs in without a key
}

// issuerLink leads to a sign-in at an issuer.
type issuerLink struct{ Name, URL string }

func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	if c.current(r) != nil {
		http.Redirect(w, r, Path, http.StatusSeeOther)
		return
	}
	c.renderSignIn(w, r, http.StatusOK, refusalTexts[r.URL.Query().Get("error")])
}

func (c *Console) renderSignIn(w http.ResponseWriter, r *http.Request, status int, text string) {
	data := signInData{Error: text, Dev: c.cfg.Dev != nil && isLoopback(r.Host)}
	for _, s := range c.cfg.Authenticator().SignIns() {
		data.Issuers = append(data.Issuers, issuerLink{s.Name(), c.cfg.URL() + startPath + "?issuer=" + url.QueryEscape(s.Issuer())})
	}
	c.render(w, r, status, "sign-in", &pageData{Title: "Sign in", Data: data})
}

// allow reports whether an address may try to sign in. If not, it responds. The caller uses the limiter
// for each failure.
func (c *Console) allow(w http.ResponseWriter, r *http.Request, address string) (limiter *rate.Limiter, ok bool) {
	limiter = c.attempts.limiter(address)
	if limiter.Tokens() >= 1 {
		return limiter, true
	}
	w.Header().Set("Retry-After", "6")
	c.renderSignIn(w, r, http.StatusTooManyRequests, "Too many failed attempts from your address. Try again in a few seconds.")
	return nil, false
}

// signIn handles the form of the sign-in page. Cross-origin requests do not get here.
func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	address := c.cfg.Address(r)
	limiter, ok := c.allow(w, r, address)
	if !ok {
		return
	}
	key := strings.TrimSpace(r.PostFormValue("key"))
	if c.cfg.Dev != nil && r.PostFormValue("dev") != "" && isLoopback(r.Host) {
		key = c.cfg.Dev.Key
	}
	caller, refusal := c.authenticate(r, key)
	if refusal != nil {
		c.refused(limiter, address, refusal)
		c.renderSignIn(w, r, http.StatusUnauthorized, cmp.Or(refusalTexts[refusal.Reason], "This key or token is not valid."))
		return
	}
	c.endSession(w, r, cookieName)
	lifetime := c.cfg.Lifetime()
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: c.sessions.start(caller, lifetime), Path: Path, MaxAge: int(lifetime.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: isHTTPS(r),
	})
	c.signedIn(w, r, caller, address)
}

// signedIn records a sign-in, and responds with a redirect to the first page.
func (c *Console) signedIn(w http.ResponseWriter, r *http.Request, caller *identity.Caller, address string) {
	c.log.Info("console sign-in", "caller", caller.Name, "kind", caller.Kind, "address", address)
	c.audit("console.sign_in", caller, address, "ok")
	http.Redirect(w, r, Path, http.StatusSeeOther)
}

// refused records a failed sign-in.
func (c *Console) refused(limiter *rate.Limiter, address string, refusal *identity.Refusal) {
	limiter.Allow()
	c.log.Warn("console sign-in failed", "address", address, "reason", refusal.Reason, "detail", refusal.Detail)
	c.audit("console.sign_in", nil, address, refusal.Reason)
}

func (c *Console) audit(action string, caller *identity.Caller, address, result string) {
	if c.cfg.Audit != nil {
		c.cfg.Audit(action, caller, address, result)
	}
}

// refusalTexts have the cause of a refused sign-in and what to do, by the reason of the refusal.
var refusalTexts = map[string]string{
	"expired_key": "This key has expired.", "early_key": "This key is not valid yet.", "unknown_key": "This key is not in the configuration of the gateway.",
	"access_denied":       "The identity provider did not sign you in. If you did not cancel, ask its administrator for access to this application.",
	"expired_sign_in":     "This sign-in took too long, was already used, or was started in another tab. Sign in again. If this repeats, allow cookies for this site.",
	"issuer_unavailable":  "The identity provider does not respond. Try again in a moment, or use an API key.",
	"client_refused":      "The identity provider does not accept this gateway. An operator finds the cause with gateway check --deep.",
	"provider_error":      "The identity provider reports an error. Sign in again. If this repeats, the log of the gateway has the error.",
	"expired_token":       "The identity provider has sent a token that has already expired. An operator has to compare the clocks of the gateway and the provider.",
	"early_token":         "The identity provider has sent a token that is not valid yet. An operator has to compare the clocks of the gateway and the provider.",
	"unnamed_token":       "The identity provider does not say who you are: the claim that name_claim names is missing in the ID token. An operator has to change name_claim or scopes in auth.oidc, or add the claim at the provider.",
	"no_access":           "You have signed in, but you have no access to this console. Ask an operator: the rules in auth.oidc decide by the claims of your ID token, and the log of the gateway lists the claims that it has.",
	"large_token":         "Your ID token is too large for cookies. An operator has to reduce its claims at the identity provider, for example to the groups of this application.",
	"wrong_issuer":        "The response comes from another identity provider than the one you chose. Sign in again.",
	"wrong_audience":      "The identity provider has sent a token for another application. An operator has to correct client_id in auth.oidc.",
	"unknown_issuer":      "The configuration of the gateway has changed. Sign in again.",
	"invalid_token":       unverifiable,
	"bad_signature":       unverifiable,
	"unknown_signing_key": unverifiable,
}

const unverifiable = "The gateway cannot verify the token of the identity provider. The log of the gateway has the reason; auth.oidc lists the allowed algorithms."

// authenticate returns the holder of a key or token, as if a call of the API had it.
func (c *Console) authenticate(r *http.Request, credential string) (*identity.Caller, *identity.Refusal) {
	call := r.Clone(r.Context())
	call.Header = http.Header{"Authorization": {"Bearer " + credential}}
	return c.cfg.Authenticator().Authenticate(call)
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	if v := c.current(r); v != nil {
		address := c.cfg.Address(r)
		c.log.Info("console sign-out", "caller", v.Name, "kind", v.Kind, "address", address)
		c.audit("console.sign_out", v.Caller, address, "ok")
	}
	address := ""
	if s := c.cfg.Authenticator().SignInFor(tokenOf(r)); s != nil {
		address = s.SignOutURL()
	}
	c.endSession(w, r)
	if address != "" {
		// A redirect of this form to another site would break the Content-Security-Policy.
		c.render(w, r, http.StatusOK, "signing-out", &pageData{Title: "Signing out", Data: address})
		return
	}
	http.Redirect(w, r, Path+SignInPath, http.StatusSeeOther)
}

// endSession ends the session of a request, whatever its kind, and removes its cookies except for those that
// the response replaces.
func (c *Console) endSession(w http.ResponseWriter, r *http.Request, replaced ...string) {
	c.sessions.end(r)
	if token := tokenOf(r); token != "" {
		c.signedOut.Add(sha256.Sum256([]byte(token)), struct{}{})
	}
	for _, cookie := range r.Cookies() {
		if (cookie.Name == cookieName || strings.HasPrefix(cookie.Name, tokenCookie)) && !slices.Contains(replaced, cookie.Name) {
			http.SetCookie(w, &http.Cookie{Name: cookie.Name, Path: Path, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: isHTTPS(r)})
		}
	}
}

// sessionOf identifies the session of a request that has one.
func sessionOf(r *http.Request) string {
	if cookie, err := r.Cookie(cookieName); err == nil {
		return cookie.Value
	}
	return tokenOf(r)
}

// isHTTPS reports whether the browser uses TLS, also if a proxy ends it. A client that sets the header
// without TLS only loses its own cookie.
func isHTTPS(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}
