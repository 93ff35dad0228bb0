// SPDX-License-Identifier: Apache-2.0

package console

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/identity"
)

// Paths below Path: the sign-in page, which an issuer also sends the browser to after a sign-out, and
// where an issuer sends it after a sign-in.
const (
	SignInPath   = "sign-in"
	CallbackPath = "sign-in/callback"
	startPath    = "sign-in/start"
)

// The session of who has signed in at an issuer is the ID token, in cookies: every gateway can verify it,
// also after a restart. Browsers limit a cookie to 4,096 bytes, and servers the header to 16 KiB.
const (
	tokenCookie     = "sluice_console_token" // followed by the number of the part
	tokenPart       = 3800                   // bytes
	maxTokenParts   = 3
	attemptCookie   = "sluice_sign_in"
	attemptLifetime = 15 * time.Minute
)

// tokenOf returns the ID token of a request, or "".
func tokenOf(r *http.Request) string {
	var token strings.Builder
	for part := range maxTokenParts {
		cookie, err := r.Cookie(tokenCookie + strconv.Itoa(part))
		if err != nil {
			break
		}
		token.WriteString(cookie.Value)
	}
	return token.String()
}

// setCookie sets a cookie that the browser also sends when another site links or redirects to the console.
func (c *Console) setCookie(w http.ResponseWriter, name, value, path string, age time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: path, MaxAge: cmp.Or(int(age.Seconds()), -1), HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: strings.HasPrefix(c.cfg.URL(), "https:"),
	})
}

// startSignIn sends the browser to an issuer. The page of the sign-in links to it with the host of the
// console's URL, to which the issuer sends the browser back.
func (c *Console) startSignIn(w http.ResponseWriter, r *http.Request) {
	signIn := c.cfg.Authenticator().SignIn(r.URL.Query().Get("issuer"))
	if signIn == nil {
		c.failSignIn(w, r, "unknown_issuer")
		return
	}
	address, attempt, refusal := signIn.Begin(r.Context())
	if refusal != nil {
		c.log.Warn("console sign-in failed", "address", c.cfg.Address(r), "reason", refusal.Reason, "detail", refusal.Detail)
		c.failSignIn(w, r, refusal.Reason)
		return
	}
	value := url.Values{"issuer": {attempt.Issuer}, "state": {attempt.State}, "nonce": {attempt.Nonce}, "verifier": {attempt.Verifier}}
	c.setCookie(w, attemptCookie, value.Encode(), Path+SignInPath, attemptLifetime)
	http.Redirect(w, r, address, http.StatusSeeOther)
}

// attemptOf returns the attempt that the browser has begun, if it has.
func attemptOf(r *http.Request) (identity.Attempt, bool) {
	cookie, err := r.Cookie(attemptCookie)
	if err != nil {
		return identity.Attempt{}, false
	}
	value, err := url.ParseQuery(cookie.Value)
	return identity.Attempt{Issuer: value.Get("issuer"), State: value.Get("state"), Nonce: value.Get("nonce"), Verifier: value.Get("verifier")}, err == nil
}

// finishSignIn handles the response of an issuer. It redirects in any case, so that the code disappears from
// the address bar.
func (c *Console) finishSignIn(w http.ResponseWriter, r *http.Request) {
	attempt, begun := attemptOf(r)
	if !begun && c.current(r) != nil { // the browser has sent the response again
		http.Redirect(w, r, Path, http.StatusSeeOther)
		return
	}
	address := c.cfg.Address(r)
	limiter, ok := c.allow(w, r, address)
	if !ok {
		return
	}
	if begun {
		c.setCookie(w, attemptCookie, "", Path+SignInPath, 0)
	}
	token, caller, ends, refusal := c.finish(r, attempt)
	if refusal != nil {
		c.refused(limiter, address, refusal)
		c.failSignIn(w, r, refusal.Reason)
		return
	}
	var names []string
	for text := range slices.Chunk([]byte(token), tokenPart) {
		name := tokenCookie + strconv.Itoa(len(names))
		c.setCookie(w, name, string(text), Path, time.Until(ends))
		names = append(names, name)
	}
	c.endSession(w, r, names...)
	c.signedIn(w, r, caller, address)
}

// finish returns the ID token of an attempt, and its holder.
func (c *Console) finish(r *http.Request, attempt identity.Attempt) (token string, caller *identity.Caller, ends time.Time, refusal *identity.Refusal) {
	auth := c.cfg.Authenticator()
	signIn := auth.SignIn(attempt.Issuer)
	if signIn == nil {
		return "", nil, ends, &identity.Refusal{Reason: "expired_sign_in", Detail: "the browser has begun no sign-in, or at an issuer that was removed"}
	}
	if token, refusal = signIn.Finish(r.Context(), attempt, r.URL.Query()); refusal != nil {
		return "", nil, ends, refusal
	}
	if len(token) > maxTokenParts*tokenPart {
		return "", nil, ends, &identity.Refusal{Reason: "large_token", Detail: "the ID token has " + strconv.Itoa(len(token)) + " bytes; " + strconv.Itoa(maxTokenParts*tokenPart) + " are allowed"}
	}
	caller, ends, refusal = auth.SignedIn(r.Context(), token, c.cfg.Lifetime())
	return token, caller, ends, refusal
}

// failSignIn redirects to the sign-in page, which says what to do.
func (c *Console) failSignIn(w http.ResponseWriter, r *http.Request, reason string) {
	if refusalTexts[reason] == "" {
		reason = "provider_error"
	}
	http.Redirect(w, r, Path+SignInPath+"?error="+reason, http.StatusSeeOther)
}
