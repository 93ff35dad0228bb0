// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"html"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/identity/identitytest"
	"github.com/sluice-push/sluice/internal/proxy/proxytest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// tokenOf returns a token for the API, with changed claims.
func tokenOf(t *testing.T, issuer *identitytest.Provider, claims map[string]any) string {
	t.Helper()
	return issuer.Keys[0].Sign(t, issuer.APIClaims(claims))
}

// authBlock returns a configuration with the issuer and one rule.
func authBlock(t *testing.T, issuer *identitytest.Provider, rule string) string {
	return fmt.Sprintf("auth: {oidc: [{issuer: '%s', audience: [sluice], ca_file: %q, rules: [%s]}]}\n", issuer.URL, issuer.CAFile(t), rule)
}

// TestSendWithToken sends with a token of an OpenID Connect provider over TLS, and changes its rules.
func TestSendWithToken(t *testing.T) {
	s, issuer := newMockEnv(t), identitytest.Start(t)
	apps := "apps:\n" + strings.Replace(s.appBlock("shop", s.fcmBlock()), s.keysBlock(), "weight: 1", 1)
	const allowed = "{claim: groups, value: push, apps: [shop], scopes: [send]}"
	text := listenConfig + authBlock(t, issuer, allowed)
	h := s.start(t, text+apps)
	h.key = tokenOf(t, issuer, map[string]any{"groups": []string{"push"}})
	testwait.Until(t, func() bool { code, _ := h.post("shop", fcmNotification); return code == 200 }, "the token is accepted")
	for name, c := range map[string]struct {
		claims map[string]any
		code   int
		detail string
	}{
		"other group": {map[string]any{"groups": "sales"}, 403, "only for the apps"},
		"expired":     {map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, 401, "has expired"},
		"audience":    {map[string]any{"aud": "mail"}, 401, "its claim aud must contain sluice"},
		"issuer":      {map[string]any{"iss": "https://login.example.com"}, 401, "not of an issuer"},
	} {
		h := h
		h.key = tokenOf(t, issuer, c.claims)
		code, problem := h.post("shop", fcmNotification)
		if detail := fmt.Sprint(problem["detail"]); code != c.code || !strings.Contains(detail, c.detail) || strings.Contains(detail, "eyJ") {
			t.Errorf("%s: %d %v", name, code, problem)
		}
	}
	if code, text := h.get(h.adminURL + "/metrics"); code != 200 || !strings.Contains(text, `sluice_callers_refused_total{kind="none",reason="expired_token"} 1`) ||
		!strings.Contains(text, `sluice_oidc_fetch_failures_total{issuer="`+issuer.URL+`"} 0`) {
		t.Error("the metrics do not contain the refusals")
	}
	// A reload that leaves the issuer keeps its keys, and applies the rules.
	fetches := issuer.Fetches()
	changed := strings.Replace(text, "value: push", "value: sales", 1)
	if changes, err := h.reload(changed + apps); err != nil || len(changes) == 0 {
		t.Error(changes, err)
	}
	if code, _ := h.post("shop", fcmNotification); code != 403 {
		t.Errorf("%d after the rule was removed", code)
	}
	h.key = tokenOf(t, issuer, map[string]any{"groups": "sales"})
	if code, problem := h.post("shop", fcmNotification); code != 200 || issuer.Fetches() != fetches {
		t.Errorf("%d %v, %d fetches", code, problem, issuer.Fetches()-fetches)
	}
	// Without the issuer its tokens are refused.
	if _, err := h.reload(listenConfig + "apps:\n" + s.appBlock("shop", s.fcmBlock())); err != nil {
		t.Fatal(err)
	}
	if code, _ := h.post("shop", fcmNotification); code != 401 {
		t.Errorf("%d without the issuer", code)
	}
}

// TestCheckVerifiesTokenIssuer checks an issuer that responds, and one whose certificate is not trusted.
func TestCheckVerifiesTokenIssuer(t *testing.T) {
	s, issuer := newMockEnv(t), identitytest.Start(t)
	const rule = "{apps: ['*']}"
	apps := "apps:\n" + s.appBlock("shop", s.fcmBlock())
	for text, want := range map[string]string{
		authBlock(t, issuer, rule): issuer.URL + " publishes 1 keys",
		"auth: {oidc: [{issuer: '" + issuer.URL + "', audience: [x], rules: [" + rule + "]}]}\n": "certificate signed by unknown authority",
	} {
		g, err := gateway.New(parse(t, listenConfig+text+apps), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, check := range g.Checks() {
			if check.Key != "auth.oidc[0]" {
				continue
			}
			found, err := check.Verify(t.Context())
			if got := fmt.Sprint(found, err); !strings.Contains(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			want = ""
		}
		if want != "" {
			t.Error("no check of the issuer")
		}
	}
}

// TestTokenIssuerBehindProxy fetches the keys of an issuer whose name only a proxy can resolve.
func TestTokenIssuerBehindProxy(t *testing.T) {
	s, issuer := newMockEnv(t), identitytest.Start(t)
	p := proxytest.Start(t, proxytest.Config{Hosts: map[string]string{"example.com:443": strings.TrimPrefix(issuer.URL, "https://")}})
	issuer.Set(func(p *identitytest.Provider) { p.URL = "https://example.com" }) // the certificate is for this name
	block := strings.Replace(authBlock(t, issuer, "{apps: [shop], scopes: [send]}"), "rules:", fmt.Sprintf("proxy: {url: '%s'}, rules:", p.URL()), 1)
	h := s.start(t, listenConfig+block+"apps:\n"+s.appBlock("shop", s.fcmBlock()))
	h.key = tokenOf(t, issuer, nil)
	testwait.Until(t, func() bool { code, _ := h.post("shop", fcmNotification); return code == 200 }, "the token is accepted")
	if !slices.Contains(p.Seen(), "example.com:443") {
		t.Errorf("%v", p.Seen())
	}
}

// TestTokenIssuerThatIsDown checks that a token which cannot be verified gets 503, and an API key 200.
func TestTokenIssuerThatIsDown(t *testing.T) {
	s, issuer := newMockEnv(t), identitytest.Start(t)
	h := s.start(t, listenConfig+authBlock(t, issuer, "{apps: [shop], scopes: [send]}")+"apps:\n"+s.appBlock("shop", s.fcmBlock()))
	if code, problem := h.post("shop", fcmNotification); code != 200 {
		t.Errorf("%d %v", code, problem)
	}
	issuer.Close()
	text := strings.Replace(authBlock(t, issuer, "{apps: [shop], scopes: [send]}"), "audience: [sluice]", "audience: [sluice, push]", 1) // another issuer, without keys
	if _, err := h.reload(listenConfig + text + "apps:\n" + s.appBlock("shop", s.fcmBlock())); err != nil {
		t.Fatal(err)
	}
	key := h.key
	h.key = tokenOf(t, issuer, nil)
	if code, problem := h.post("shop", fcmNotification); code != 503 || !strings.HasSuffix(fmt.Sprint(problem["type"]), "/issuer-unavailable") {
		t.Errorf("%d %v", code, problem)
	}
	h.key = key
	if code, problem := h.post("shop", fcmNotification); code != 200 {
		t.Errorf("%d %v", code, problem)
	}
}

// signInBlock returns a configuration with a sign-in at the issuer. changes replaces parts of it.
func signInBlock(t *testing.T, issuer *identitytest.Provider, consoleURL string, changes ...string) string {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "client.secret")
	if err := os.WriteFile(secret, []byte("canary-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(changes...).Replace(fmt.Sprintf(`console: {url: '%s'}
auth: {oidc: [{issuer: '%s', ca_file: %q, name_claim: email, sign_in: {client_id: sluice-console, client_secret_file: %q, name: Example}, rules: [{claim: groups, value: push, apps: [shop], scopes: [read]}]}]}
`, consoleURL, issuer.URL, issuer.CAFile(t), secret))
}

// TestSignInToTheConsole signs in at an issuer and out, and reads the audit log.
func TestSignInToTheConsole(t *testing.T) {
	s, issuer := newMockEnv(t), identitytest.Start(t)
	admin, adminHash := identity.NewKey()
	more := fmt.Sprintf("queue: {dir: %q}\naudit_log: {enabled: true}\napps:\n", t.TempDir()) + s.appBlock("shop", s.fcmBlock())
	text := func(url string) string {
		return listenConfig + strings.Replace(signInBlock(t, issuer, url), "auth: {", fmt.Sprintf("auth: {keys: [{name: ops, hash: %q, scopes: [admin]}], ", adminHash), 1) + more
	}
	h := s.start(t, text("https://push.example.com/console/"))
	base := h.adminURL + "/console/"
	if _, err := h.reload(text(base)); err != nil {
		t.Fatal(err)
	}
	issuer.Set(func(p *identitytest.Provider) {
		p.ClientSecret, p.RedirectURL, p.SignedOutURL = "canary-secret", base+"sign-in/callback", base+"sign-in"
	})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &consoleClient{T: t, Client: http.Client{Jar: jar, Transport: issuer.Client().Transport}, base: base}
	defer c.CloseIdleConnections()
	link := regexp.MustCompile(`href="([^"]+)">Sign in with Example<`).FindStringSubmatch(c.get(""))
	if link == nil || !strings.HasPrefix(html.UnescapeString(link[1]), base) {
		t.Fatal(link)
	}
	var page string
	testwait.Until(t, func() bool { // the issuer is known soon after the reload
		response, err := c.Get(html.UnescapeString(link[1]))
		if err != nil {
			t.Fatal(err)
		}
		at := response.Request.URL
		if page = c.read(response, nil); at.Path != "/authorize" {
			return false
		}
		page = c.read(c.PostForm(at.String(), url.Values{"user": {"ada"}}))
		return true
	}, "the issuer asks who signs in")
	if !strings.Contains(page, "<h1>Live</h1>") || !strings.Contains(page, "ada@example.com") || strings.Contains(page, "Send a test") {
		t.Error(page)
	}
	if body := c.post("sign-out", nil); !strings.Contains(body, issuer.URL+"/logout?") {
		t.Error(body)
	}
	// The ID token is no credential of the API.
	if code, text := h.getWithKey("/v1/status", issuer.Tokens[0]); code != 401 || !strings.Contains(text, "only for signing in") {
		t.Error(code, text)
	}
	if code, _ := h.getWithKey("/v1/status", admin); code != 200 {
		t.Error(code)
	}
	testwait.Until(t, func() bool {
		var found []string
		for _, r := range h.auditLog(t, admin, 100) {
			if strings.HasPrefix(r.Action, "console.") {
				found = append(found, r.Action+" "+r.Result+" "+r.Caller+" "+r.Kind+" "+r.Address)
			}
		}
		return slices.Equal(found, []string{"console.sign_out ok ada@example.com token 127.0.0.1", "console.sign_in ok ada@example.com token 127.0.0.1"})
	}, "the audit log has the sign-in and the sign-out")
}

// TestCheckVerifiesSignIn makes mistakes that check and check --deep name with their fix.
func TestCheckVerifiesSignIn(t *testing.T) {
	const consoleURL = "https://push.example.com/console/"
	s, issuer := newMockEnv(t), identitytest.Start(t)
	issuer.ClientSecret, issuer.RedirectURL = "canary-secret", consoleURL+"sign-in/callback"
	for name, c := range map[string]struct {
		change    []string
		key, seen string // the key is that of the problem, or empty if the check succeeds
		shallow   bool   // check without --deep finds it
	}{
		"valid":    {seen: "accepts the client sluice-console and its redirect URL"},
		"issuer":   {change: []string{issuer.URL, issuer.URL + "/"}, key: "auth.oidc[0].issuer", seen: "is of the issuer", shallow: true},
		"client":   {change: []string{"client_id: sluice-console", "client_id: other"}, key: "auth.oidc[0].sign_in.client_id", seen: "responds 400"},
		"redirect": {change: []string{"push.example.com", "other.example.com"}, key: "auth.oidc[0].sign_in.client_id", seen: "https://other.example.com/console/sign-in/callback"},
		"secret":   {change: []string{"client_secret_file", "name: x, #"}, key: "auth.oidc[0].sign_in.client_secret_file", seen: "invalid_client"},
	} {
		text := signInBlock(t, issuer, consoleURL, c.change...)
		if name == "secret" {
			text = regexp.MustCompile(`name: x, #: "[^"]+", `).ReplaceAllString(text, "")
		}
		g, err := gateway.New(parse(t, listenConfig+text+"apps:\n"+s.appBlock("shop", s.fcmBlock())), nil)
		if err != nil {
			t.Fatal(name, err)
		}
		for deep, checks := range map[bool][]gateway.Check{false: g.Checks(), true: g.DeepChecks()} {
			ran := false
			for _, check := range checks {
				if check.Key != "auth.oidc[0].sign_in" {
					continue
				}
				ran = true
				found, err := check.Verify(t.Context())
				problem, _ := err.(*gateway.Problem)
				switch {
				case c.key == "" || !deep && !c.shallow:
					if err != nil || deep && !strings.Contains(found, c.seen) || !deep && !strings.Contains(found, "/console/sign-in/callback") {
						t.Errorf("%s, deep %v: %s %v", name, deep, found, err)
					}
				case problem == nil || problem.Key != c.key || !strings.Contains(problem.Seen, c.seen) || problem.Fix == "" || strings.Contains(problem.Error(), "canary"):
					t.Errorf("%s, deep %v: %v", name, deep, err)
				}
			}
			if !ran {
				t.Errorf("%s, deep %v: no check", name, deep)
			}
		}
	}
}
