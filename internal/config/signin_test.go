// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

func TestSignIn(t *testing.T) {
	const block = "console: {url: 'http://localhost:9090/console/'}\nauth: {oidc: [{issuer: 'https://login.example.com', rules: [{apps: [shop]}], sign_in: {client_id: sluice, client_secret_file: s}}]}\n"
	got := parse(t, shopConfig+block)
	if want := (&config.SignIn{ClientID: "sluice", ClientSecretFile: "etc/s", Scopes: []string{"profile", "email"}}); got.Console.URL != "http://localhost:9090/console/" || !reflect.DeepEqual(got.Auth.OIDC[0].SignIn, want) {
		t.Errorf("%+v %+v", got.Console, got.Auth.OIDC[0].SignIn)
	}
	for _, url := range []string{"https://push.example.com/console/", "https://push.example.com:8443/console/", "http://127.0.0.1:9090/console/", "http://[::1]:9090/console/"} {
		if got := parse(t, shopConfig+"console: {url: '"+url+"'}\n").Console.URL; string(got) != url {
			t.Error(got)
		}
	}
}

func TestSignInErrors(t *testing.T) {
	const rules, console = "rules: [{apps: [shop]}], ", "console: {url: 'https://push.example.com/console/'}\n"
	for text, want := range map[string]string{
		"auth: {oidc: [{issuer: 'https://a.example.com', " + rules + "sign_in: {client_id: x}}]}\n":                                                "console.url: required by auth.oidc[0].sign_in: the URL of the console in browsers",
		"auth: {oidc: [{issuer: 'https://a.example.com', " + rules + "}]}\n":                                                                       "auth.oidc[0].audience: required",
		console + "auth: {oidc: [{issuer: 'https://a.example.com', jwks_url: 'https://a.example.com/k', " + rules + "sign_in: {client_id: x}}]}\n": "auth.oidc[0].sign_in: needs the discovery document of the issuer: leave jwks_url out",
		console + "auth: {oidc: [{issuer: 'https://a.example.com', " + rules + "sign_in: {}}]}\n":                                                  "auth.oidc[0].sign_in.client_id: required",
		console + "auth: {oidc: [{issuer: 'https://a.example.com', " + rules + "sign_in: {client_id: x, client_secret: y}}]}\n":                    "auth.oidc[0].sign_in.client_secret: unknown key",
		"console: {url: 'http://push.example.com/console/'}\n":                                                                                     `console.url: "http://push.example.com/console/": must be an https URL with the path /console/`,
		"console: {url: 'https://push.example.com/'}\n":                                                                                            "console.url: ",
		"console: {url: 'https://push.example.com/console'}\n":                                                                                     "console.url: ",
		"console: {url: 'https://push.example.com/console/?x=1'}\n":                                                                                "console.url: ",
		"console: {url: 'https://user@push.example.com/console/'}\n":                                                                               "console.url: ",
		"console: {url: 'https://push.example.com/a/../console/'}\n":                                                                               "console.url: ",
		"console: {url: '/console/'}\n":                                                                                                            "console.url: ",
		"console: {url: 'http://127.0.0.1.example.com/console/'}\n":                                                                                "console.url: ",
	} {
		if got := parseErrors(t, shopConfig+text); !strings.Contains(got, want) {
			t.Errorf("%s\n got: %s\nwant: %s", text, got, want)
		}
	}
}
