// SPDX-License-Identifier: Apache-2.0

package console_test

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/identity/identitytest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// signInSite is a console over TLS at whose issuer people sign in. Several gateways serve it in turn.
type signInSite struct {
	*testing.T
	*identitytest.Provider
	base     string
	gateways atomic.Pointer[[]http.Handler]
	turn     atomic.Int64

	mu      sync.Mutex
	log     bytes.Buffer
	audited []string
}

func newSignInSite(t *testing.T, gateways int) *signInSite {
	t.Helper()
	s := &signInSite{T: t, Provider: identitytest.Start(t)}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := *s.gateways.Load()
		all[int(s.turn.Add(1))%len(all)].ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.base = server.URL + "/console/"
	s.RedirectURL, s.SignedOutURL = s.base+"sign-in/callback", s.base+"sign-in"
	s.restart(gateways)
	return s
}

// Write implements io.Writer for the log.
func (s *signInSite) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// restart replaces the gateways by new ones, which know nothing of the old ones.
func (s *signInSite) restart(n int) {
	s.Helper()
	var all []http.Handler
	for range n {
		auth := s.authenticator(s.Client(), s.base)
		all = append(all, newTestConsole(s.T, func(cfg *console.Config) {
			cfg.Authenticator, cfg.URL, cfg.Logger = func() *identity.Authenticator { return auth }, func() string { return s.base }, slog.New(slog.NewTextHandler(s, nil))
			cfg.Audit = func(action string, caller *identity.Caller, address, result string) {
				s.mu.Lock()
				defer s.mu.Unlock()
				name := "-"
				if caller != nil {
					name = caller.Name
				}
				s.audited = append(s.audited, fmt.Sprint(action, " ", name, " ", result, " ", strings.Contains(address, "127.0.0.1")))
			}
		}).Console)
	}
	s.gateways.Store(&all)
}

// authenticator returns the authenticator of a gateway with the provider. ada may read in shop.
func (s *signInSite) authenticator(client *http.Client, base string) *identity.Authenticator {
	s.Helper()
	issuer := identity.NewIssuer(identity.IssuerConfig{URL: s.URL, Algorithms: []string{"ES256"}, ClockSkew: 30 * time.Second, Client: client})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- issuer.Run(ctx) }()
	s.Cleanup(func() {
		cancel()
		_ = testwait.For(s.T, ended, "the end of the issuer") // it returns no error
	})
	signIn := identity.NewSignIn(issuer, identity.SignInConfig{Name: "Example <login>", ClientID: s.ClientID, RedirectURL: base + "sign-in/callback", SignedOutURL: base + "sign-in"})
	rules := []identity.TokenRule{{Claim: "groups", Value: "push", Apps: []string{"shop"}, Scopes: identity.Read}}
	a, err := identity.New(identity.Config{Apps: []string{"bank", "shop"}, Keys: []identity.Key{{Name: "shop-key", Hash: shopHash, Apps: []string{"shop"}, Scopes: identity.Read}},
		Issuers: []identity.IssuerRules{{Issuer: issuer, NameClaim: "email", Rules: rules, SignIn: signIn}}})
	if err != nil {
		s.Fatal(err)
	}
	testwait.Until(s.T, func() bool { return !issuer.Status().FetchedAt.IsZero() }, "the keys are known")
	return a
}

// person is someone with a browser.
type person struct {
	*signInSite
	client   http.Client
	seen     []*http.Response // all responses, without their bodies
	prompted bool             // the provider has asked for the user at the last sign-in
}

func (s *signInSite) person() *person {
	s.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.Fatal(err)
	}
	p := &person{signInSite: s}
	p.client = http.Client{Jar: jar, Transport: p}
	s.Cleanup(p.client.CloseIdleConnections)
	return p
}

// RoundTrip implements http.RoundTripper. It keeps the responses.
func (p *person) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := p.Client().Transport.RoundTrip(r)
	if err == nil {
		p.seen = append(p.seen, response)
	}
	return response, err
}

// open opens a page and returns its body and URL.
func (p *person) open(method, address string, form url.Values, header ...string) (body string, at *url.URL, status int) {
	p.Helper()
	r, err := http.NewRequestWithContext(p.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		p.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	response, err := p.client.Do(r)
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.Fatal(err)
	}
	return string(text), response.Request.URL, response.StatusCode
}

var linkOf = regexp.MustCompile(`<a class="issuer" role="button" href="([^"]+)"`)

// signIn signs in at the provider, from the page that needs it, and returns the page after it.
func (p *person) signIn(user string) (body string, at *url.URL) {
	p.Helper()
	body, at, _ = p.open("GET", p.base, nil)
	link := linkOf.FindStringSubmatch(body)
	if at.Path != "/console/sign-in" || link == nil || !strings.Contains(body, "Sign in with Example &lt;login&gt;") {
		p.Fatalf("%s %s", at, body)
	}
	body, at, _ = p.open("GET", html.UnescapeString(link[1]), nil)
	if p.prompted = at.Path == "/authorize" && strings.Contains(body, "Test provider"); p.prompted {
		body, at, _ = p.open("POST", at.String(), url.Values{"user": {user}})
	}
	return body, at
}

// check fails the test if a token or code is in a URL or in the log.
func (p *person) check() {
	p.Helper()
	for _, response := range p.seen {
		if u := response.Request.URL.String(); strings.Contains(u, "eyJ") || strings.Contains(response.Header.Get("Location"), "eyJ") {
			p.Errorf("a token in a URL: %s", u)
		}
		if code := response.Request.URL.Query().Get("code"); code != "" && strings.Contains(p.logged(), code) {
			p.Error("a code in the log")
		}
	}
	if strings.Contains(p.logged(), "eyJ") {
		p.Error(p.logged())
	}
}

func (s *signInSite) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *signInSite) audit() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.audited)
}

// cookies returns the cookies that the console has set, the last one with each name.
func (p *person) cookies() map[string]*http.Cookie {
	found := map[string]*http.Cookie{}
	for _, response := range p.seen {
		if strings.HasPrefix(response.Request.URL.String(), p.base) {
			for _, c := range response.Cookies() {
				found[c.Name] = c
			}
		}
	}
	return found
}

// TestSignInAtIssuer signs in and out, with two gateways in turn and a restart of both.
func TestSignInAtIssuer(t *testing.T) {
	s := newSignInSite(t, 2)
	p := s.person()
	body, at := p.signIn("ada")
	if at.String() != s.base || !strings.Contains(body, "SHOPKEY") || strings.Contains(body, "BANKKEY") || !strings.Contains(body, ">ada@example.com<") || strings.Contains(body, "Send a test") {
		t.Fatalf("%s %s", at, body)
	}
	for name, c := range p.cookies() {
		if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || !strings.HasPrefix(c.Path, "/console/") || c.MaxAge > 3600 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if c := p.cookies(); c["sluice_console_token0"].MaxAge < 3500 || c["sluice_sign_in"].MaxAge != -1 || len(c) != 2 {
		t.Errorf("%v", c)
	}
	s.restart(2)
	for _, path := range []string{"", "notifications", "unregistered", "help/"} {
		for range 2 {
			if _, at, status := p.open("GET", s.base+path, nil); status != http.StatusOK || at.Path != "/console/"+path {
				t.Errorf("%s: %d %s", path, status, at)
			}
		}
	}
	// The scopes apply, and other sites cannot do anything, although their links are sent with the cookie.
	if body, _, _ := p.open("POST", s.base+"send", url.Values{"app": {"shop"}, "platform": {"apns"}, "kind": {"token"}, "target": {deviceToken}, "title": {"x"}}); strings.Contains(body, knownID) {
		t.Error(body)
	}
	for _, path := range []string{"sign-out", "send", "sign-in"} {
		if _, _, status := p.open("POST", s.base+path, nil, "Sec-Fetch-Site: cross-site"); status != http.StatusForbidden {
			t.Errorf("%s from another site: %d", path, status)
		}
		if _, _, status := p.open("POST", s.base+path, nil, "Origin: https://evil.example.com"); status != http.StatusForbidden {
			t.Errorf("%s from another origin: %d", path, status)
		}
	}
	if _, at, status := p.open("GET", s.base+"sign-in/callback", nil); status != http.StatusOK || at.String() != s.base {
		t.Errorf("the callback of who has signed in: %d %s", status, at)
	}

	s.restart(1)
	base, err := url.Parse(s.base)
	if err != nil {
		t.Fatal(err)
	}
	old := p.client.Jar.Cookies(base)
	body, at, _ = p.open("POST", s.base+"sign-out", nil)
	link := regexp.MustCompile(`content="0; url=([^"]+)"`).FindStringSubmatch(body)
	if link == nil || at.String() != s.base+"sign-out" {
		t.Fatal(at, body)
	}
	body, at, _ = p.open("GET", html.UnescapeString(link[1]), nil) // the refresh of the page
	if at.String() != s.base+"sign-in" || !strings.Contains(body, "Sign in with") {
		t.Errorf("%s %s", at, body)
	}
	if body, at := p.signIn("ada"); at.String() != s.base || !p.prompted {
		t.Errorf("prompted %v, %s %s", p.prompted, at, body)
	}
	thief := s.person()
	thief.client.Jar.SetCookies(base, old)
	if _, at, _ := thief.open("GET", s.base, nil); at.Path != "/console/sign-in" {
		t.Errorf("the session continues after the sign-out: %s", at)
	}
	if got := strings.Join(s.audit(), "; "); got != "console.sign_in ada@example.com ok true; console.sign_out ada@example.com ok true; console.sign_in ada@example.com ok true" {
		t.Error(got)
	}
	p.check()
}

// TestKeyReplacesSignInAtIssuer signs in with a key after a sign-in at the issuer, and the other way round.
func TestKeyReplacesSignInAtIssuer(t *testing.T) {
	s := newSignInSite(t, 1)
	p := s.person()
	p.signIn("ada")
	for _, who := range []string{"shop-key", "ada@example.com"} {
		var body string
		if who == "shop-key" {
			body, _, _ = p.open("POST", s.base+"sign-in", url.Values{"key": {shopKey}})
		} else {
			p.open("POST", s.base+"sign-out", nil)
			body, _ = p.signIn("ada")
		}
		if !strings.Contains(body, ">"+who+"<") {
			t.Errorf("%s has not signed in: %s", who, body)
		}
	}
}

// TestLargeIDTokens uses tokens of one, two and four cookies.
func TestLargeIDTokens(t *testing.T) {
	s := newSignInSite(t, 1)
	for parts, groups := range map[int]int{1: 1, 2: 100, 0: 400} {
		all := []string{"push"}
		for n := range groups {
			all = append(all, fmt.Sprintf("01a20286-0ae1-7e05-8dcc-%012d", n))
		}
		s.Set(func(p *identitytest.Provider) { p.Claims = map[string]any{"groups": all} })
		p := s.person()
		body, at := p.signIn("ada")
		if parts == 0 {
			if !strings.Contains(body, "too large") {
				t.Error(at, body)
			}
			continue
		}
		if at.String() != s.base || len(p.cookies()) != parts+1 {
			t.Errorf("%d groups: %s %v", groups, at, len(p.cookies()))
		}
		if parts == 2 { // a smaller token replaces it
			p.open("POST", s.base+"sign-out", nil)
			for name, c := range p.cookies() {
				if c.MaxAge != -1 {
					t.Errorf("the cookie %s remains", name)
				}
			}
		}
	}
}

// TestRefusedSignInsAtIssuer checks that each error leads to a page that says what to do.
func TestRefusedSignInsAtIssuer(t *testing.T) {
	for name, c := range map[string]struct {
		text, reason string
		provider     func(*identitytest.Provider)
		user         string
	}{
		"denied":       {text: "did not sign you in", reason: "access_denied", user: "eve"},
		"client":       {text: "check --deep", reason: "client_refused", provider: func(p *identitytest.Provider) { p.AuthorizeError = "unauthorized_client" }},
		"error":        {text: "reports an error", reason: "provider_error", provider: func(p *identitytest.Provider) { p.AuthorizeError = "<b>provider_text" }},
		"code":         {text: "took too long", reason: "expired_sign_in", provider: func(p *identitytest.Provider) { p.TokenError = "invalid_grant" }},
		"clock":        {text: "compare the clocks", reason: "expired_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"exp": 1} }},
		"other clock":  {text: "compare the clocks", reason: "early_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"iat": time.Now().Add(time.Hour).Unix()} }},
		"no name":      {text: "name_claim", reason: "unnamed_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"email": nil} }},
		"no rule":      {text: "no access", reason: "no_access", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"groups": "sales"} }},
		"no ID token":  {text: "cannot verify", reason: "invalid_token", provider: func(p *identitytest.Provider) { p.NoIDToken = true }},
		"audience":     {text: "another application", reason: "wrong_audience", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"aud": "mail"} }},
		"down":         {text: "does not respond", reason: "issuer_unavailable", provider: func(p *identitytest.Provider) { p.TokenError = "server_error" }},
		"other client": {text: "check --deep", reason: "client_refused", provider: func(p *identitytest.Provider) { p.ClientSecret = "x" }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSignInSite(t, 1)
			if c.provider != nil {
				s.Set(c.provider)
			}
			user := "ada"
			if c.user != "" {
				user = c.user
			}
			p := s.person()
			body, at := p.signIn(user)
			if at.Path != "/console/sign-in" || !strings.Contains(body, c.text) || !strings.Contains(body, `role="alert"`) || !strings.Contains(body, "Sign in with") ||
				strings.Contains(body, "<b>provider_text") || strings.Contains(body, "described") || strings.Contains(body, "goroutine") || at.Query().Get("code") != "" {
				t.Errorf("%s %s", at, body)
			}
			if got := strings.Join(s.audit(), "; "); got != "console.sign_in - "+c.reason+" true" || !strings.Contains(s.logged(), "reason="+c.reason) {
				t.Errorf("%s; log %s", got, s.logged())
			}
			if _, at, _ := p.open("GET", s.base, nil); at.Path != "/console/sign-in" {
				t.Error("signed in nevertheless")
			}
			p.check()
		})
	}
}

// TestForgedResponses sends responses that no issuer has sent to this browser, and asks for redirects to
// other sites.
func TestForgedResponses(t *testing.T) {
	s := newSignInSite(t, 1)
	begun := s.person()
	body, _, _ := begun.open("GET", s.base, nil)
	begun.open("GET", html.UnescapeString(linkOf.FindStringSubmatch(body)[1]), nil)
	for _, p := range []*person{begun, s.person()} {
		for _, query := range []string{"", "?code=x", "?code=x&state=y", "?error=access_denied&error_description=%3Cscript%3E&state=y", "?code=x&state="} {
			body, at, status := p.open("GET", s.base+"sign-in/callback"+query, nil)
			if at.String() != s.base+"sign-in?error=expired_sign_in" && status != http.StatusTooManyRequests || !strings.Contains(body, `role="alert"`) || strings.Contains(body, "%3Cscript") {
				t.Errorf("%s: %d %s", query, status, at)
			}
		}
	}
	p := s.person()
	for _, path := range []string{"sign-in/start", "sign-in/start?issuer=https://evil.example.com", "sign-in/start?issuer=//evil.example.com&redirect_uri=https://evil.example.com", "sign-in?error=%3Cscript%3Ealert(1)%3C/script%3E", "sign-in?error=https://evil.example.com"} {
		body, at, _ := p.open("GET", s.base+path, nil)
		if !strings.HasPrefix(at.String(), s.base) || strings.Contains(body, "evil") || strings.Contains(body, "<script>alert") {
			t.Errorf("%s: %s %s", path, at, body)
		}
	}
	// The address has failed ten times by now.
	if body, _, status := p.open("GET", s.base+"sign-in/callback?code=x&state=y", nil); status != http.StatusTooManyRequests || !strings.Contains(body, "Too many failed attempts") {
		t.Errorf("%d %s", status, body)
	}
	for _, response := range p.seen {
		if policy := response.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "form-action 'self'") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: %s", response.Request.URL, policy)
		}
	}
	// Garbage instead of a token is no session.
	base, err := url.Parse(s.base)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"x", "eyJ.e30.x", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0."} {
		p := s.person()
		p.client.Jar.SetCookies(base, []*http.Cookie{{Name: "sluice_console_token0", Value: value, Path: "/console/"}, {Name: "sluice_sign_in", Value: "%zz", Path: "/console/"}})
		if _, at, _ := p.open("GET", s.base, nil); at.Path != "/console/sign-in" {
			t.Errorf("%q is a session", value)
		}
	}
}

// TestSignInAtIssuerEnds checks that a session ends with the ID token, after the lifetime of sessions, and
// when the issuer withdraws the key.
func TestSignInAtIssuerEnds(t *testing.T) {
	for name, c := range map[string]struct {
		lifetime, expiry, want time.Duration
		withdraw               bool
	}{
		"token": {12 * time.Hour, time.Hour, time.Hour + 30*time.Second, false}, "lifetime": {time.Hour, 24 * time.Hour, time.Hour, false}, "withdrawn key": {12 * time.Hour, 12 * time.Hour, 20 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const base = "https://push.example.com/console/"
				p := &identitytest.Provider{
					URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.ECKey(t, "1")}, ClientID: "c", RedirectURL: base + "sign-in/callback",
					Users: map[string]map[string]any{"ada": {"email": "ada@example.com", "groups": "push", "exp": time.Now().Add(c.expiry).Unix()}},
				}
				s := &signInSite{T: t, Provider: p}
				auth := s.authenticator(&http.Client{Transport: p}, base)
				ts := newTestConsole(t, func(cfg *console.Config) {
					cfg.Authenticator, cfg.URL, cfg.Lifetime = func() *identity.Authenticator { return auth }, func() string { return base }, func() time.Duration { return c.lifetime }
				})
				started := ts.do("GET", "/console/sign-in/start?issuer="+p.URL, nil)
				ts.cookie = started.Result().Cookies()[0]
				r := httptest.NewRequestWithContext(t.Context(), "POST", started.Header().Get("Location"), strings.NewReader("user=ada"))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				answer := httptest.NewRecorder()
				p.ServeHTTP(answer, r)
				finished := ts.do("GET", strings.TrimPrefix(answer.Header().Get("Location"), "https://push.example.com"), nil)
				for _, cookie := range finished.Result().Cookies() {
					if strings.HasPrefix(cookie.Name, "sluice_console_token") {
						ts.cookie = cookie
					}
				}
				if c.withdraw {
					p.Set(func(p *identitytest.Provider) { p.Keys = []*identitytest.Key{identitytest.ECKey(t, "2")} })
				} else if got := time.Duration(ts.cookie.MaxAge) * time.Second; got > c.want || got < c.want-time.Second {
					t.Errorf("the cookie lasts %s", got)
				}
				time.Sleep(c.want - 20*time.Minute)
				ts.get("/console/")
				time.Sleep(20 * time.Minute)
				if w := ts.do("GET", "/console/", nil); w.Code != http.StatusSeeOther {
					t.Errorf("%d after %s", w.Code, c.want)
				}
			})
		})
	}
}
