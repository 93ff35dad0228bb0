// SPDX-License-Identifier: Apache-2.0

package browsertest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/sluice-push/sluice/internal/identity/identitytest"
	"github.com/sluice-push/sluice/internal/testtool"
	"github.com/sluice-push/sluice/internal/testwait"
)

// startSignIn builds and starts a gateway whose console people sign in to at p, and returns the URL of its
// admin listener. The site of the console is another one than that of the provider.
func startSignIn(t *testing.T, p *identitytest.Provider) (adminURL string) {
	t.Helper()
	dir := t.TempDir()
	program := buildGateway(t, dir)
	key, err := exec.Command(program, "key", "vapid").Output()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // console.url needs a known port
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	adminURL = strings.Replace("http://"+address, "127.0.0.1", "localhost", 1)
	p.RedirectURL, p.SignedOutURL = adminURL+"/console/sign-in/callback", adminURL+"/console/sign-in"
	for name, text := range map[string]string{"vapid.pem": string(key), "gateway.yaml": fmt.Sprintf(`listen: 127.0.0.1:0
admin: {listen: %q}
console: {url: '%s/console/'}
auth: {oidc: [{issuer: '%s', ca_file: %q, name_claim: email, sign_in: {client_id: %s, name: Example login}, rules: [{claim: groups, value: push, apps: [shop], scopes: [read]}]}]}
apps: {shop: {keys: [{name: k, hash: "sha256:%064x"}], webpush: {vapid_key_file: vapid.pem, subject: "mailto:ops@example.com"}}}
`, address, adminURL, p.URL, p.CAFile(t), p.ClientID, 1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, program, "serve", "-c", "gateway.yaml")
	testwait.Until(t, func() bool {
		response, err := http.Get(adminURL + "/livez")
		return err == nil && response.Body.Close() == nil
	}, "the gateway listens")
	return adminURL
}

// TestSignInAtProvider signs in at an OpenID Connect provider on another site and out, and is refused once.
func TestSignInAtProvider(t *testing.T) {
	testtool.Require(t, "chromium")
	p := identitytest.Start(t)
	b := newBrowser(t, startSignIn(t, p), chromedp.Flag("ignore-certificate-errors", true))
	b.allowed = strings.TrimPrefix(p.URL, "https://")

	b.open("/console/")
	b.wait("a.issuer")
	b.shoot(page{name: "sign-in-provider"})
	signIn := func(user string) {
		b.click("a.issuer")
		b.wait("input[name=user]")
		b.enter("input[name=user]", user)
		b.click("button")
	}
	signIn("eve")
	b.until("document.querySelector('[role=alert]')?.textContent.includes('did not sign you in')", "the reason is shown")
	b.shoot(page{name: "sign-in-refused"})
	p.Set(func(p *identitytest.Provider) { p.SignOutEverywhere() })
	signIn("ada")
	b.wait("#tiles")
	b.until("document.querySelector('#connection').dataset.state === 'live'", "the page is live")
	if who := eval[string](b, "document.querySelector('.who').textContent"); who != "ada@example.com" {
		t.Errorf("%q has signed in", who)
	}
	if eval[bool](b, "Boolean(document.querySelector('nav a[href=\"/console/send\"]'))") {
		t.Error("the scope read may send")
	}
	if cookies := eval[string](b, "document.cookie"); strings.Contains(cookies, "eyJ") {
		t.Error("a script can read the session")
	}
	b.click("form[action='/console/sign-out'] button")
	b.wait("a.issuer")
	b.open("/console/")
	b.wait("a.issuer")
	signIn("ada") // the provider asks again, because the browser has signed out there too
	b.wait("#tiles")
	b.check()
}
