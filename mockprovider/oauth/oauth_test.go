// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"crypto/rsa"
	"encoding/json"
	"net/url"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
	"github.com/sluice-push/sluice/mockprovider/oauth"
	"github.com/sluice-push/sluice/mockprovider/script"
)

const tokenURL = "https://mock.example/token"

// mock is a token endpoint with its account and its tokens.
type mock struct {
	*oauth.Service
	tokens  *oauth.Tokens
	account *oauth.Account
}

func newMock(t *testing.T, lifetime time.Duration, now func() time.Time) mock {
	t.Helper()
	account, err := oauth.NewAccount("demo-project")
	if err != nil {
		t.Fatal(err)
	}
	tokens := oauth.NewTokens()
	return mock{oauth.New(account, tokens, lifetime, now, func() string { return tokenURL }), tokens, account}
}

// assertion returns the assertion of the account with a change.
func (m mock) assertion(t *testing.T, change func(header, claims jwttest.Claims)) string {
	t.Helper()
	file, err := m.account.KeyFile(tokenURL)
	if err != nil {
		t.Fatal(err)
	}
	var account struct {
		Email    string `json:"client_email"`
		Key      string `json:"private_key"`
		KeyID    string `json:"private_key_id"`
		TokenURI string `json:"token_uri"`
	}
	if err := json.Unmarshal(file, &account); err != nil {
		t.Fatal(err)
	}
	header := jwttest.Claims{"alg": "RS256", "typ": "JWT", "kid": account.KeyID}
	claims := jwttest.Claims{
		"iss": account.Email, "scope": "https://www.googleapis.com/auth/firebase.messaging", "aud": account.TokenURI,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if change != nil {
		change(header, claims)
	}
	return jwttest.RS256(t, jwttest.PrivateKey[*rsa.PrivateKey](t, []byte(account.Key)), header, claims)
}

// form returns the form of a request for an access token.
func form(assertion string) url.Values {
	return url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
}

// response is a response body.
type response struct {
	AccessToken string `json:"access_token"`
	ExpiresIn   int    `json:"expires_in"`
	TokenType   string `json:"token_type"`
	Error       string `json:"error"`
}

func (m mock) exchange(t *testing.T, form url.Values) (status int, body response) {
	t.Helper()
	got := m.Respond(&h2.Request{Method: "POST", Path: "/token", Body: []byte(form.Encode())})
	if err := json.Unmarshal(got.Body, &body); err != nil {
		t.Fatal(err)
	}
	if body.Error != got.Reason || got.Accepted != (got.Status == 200) {
		t.Errorf("body %s with reason %q, accepted %v", got.Body, got.Reason, got.Accepted)
	}
	return got.Status, body
}

func TestAssertionsAreChecked(t *testing.T) {
	m := newMock(t, time.Hour, time.Now)
	valid := func() url.Values { return form(m.assertion(t, nil)) }
	with := func(change func(header, claims jwttest.Claims)) url.Values { return form(m.assertion(t, change)) }
	claim := func(name string, value any) url.Values {
		return with(func(_, claims jwttest.Claims) { claims[name] = value })
	}
	for _, c := range []struct {
		form   url.Values
		status int
		error  string
	}{
		{valid(), 200, ""},
		{claim("aud", "https://oauth2.googleapis.com/token"), 200, ""},
		{with(func(header, _ jwttest.Claims) { delete(header, "kid") }), 200, ""},
		{claim("scope", "https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/userinfo.email"), 200, ""},
		{url.Values{}, 400, "invalid_request"},
		{url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type"},
		{url.Values{"grant_type": valid()["grant_type"]}, 400, "invalid_request"},
		{form("x"), 400, "invalid_grant"},
		{form(m.assertion(t, nil) + "AA"), 400, "invalid_grant"},
		{claim("iss", "stranger@example.com"), 400, "invalid_grant"},
		{claim("aud", "https://example.com"), 400, "invalid_grant"},
		{claim("exp", time.Now().Add(2*time.Hour).Unix()), 400, "invalid_grant"},
		{claim("exp", time.Now().Add(-time.Second).Unix()), 400, "invalid_grant"},
		{claim("iat", time.Now().Add(10*time.Minute).Unix()), 400, "invalid_grant"},
		{claim("scope", ""), 400, "invalid_scope"},
		{with(func(header, _ jwttest.Claims) { header["kid"] = "other" }), 400, "invalid_grant"},
	} {
		status, body := m.exchange(t, c.form)
		if status != c.status || body.Error != c.error {
			t.Errorf("%v: got %d %+v, want %d %s", c.form, status, body, c.status, c.error)
		}
		if c.status == 200 && (body.ExpiresIn != 3599 || body.TokenType != "Bearer") {
			t.Errorf("got %+v", body)
		}
	}
}

func TestOtherPathsAndMethodsAreRejected(t *testing.T) {
	m := newMock(t, time.Hour, time.Now)
	for _, c := range []struct {
		method, path string
		status       int
	}{{"POST", "/tokens", 404}, {"GET", "/token", 405}, {"POST", "/o/oauth2/token", 400}} {
		if got := m.Respond(&h2.Request{Method: c.method, Path: c.path}); got.Status != c.status || got.Reason == "" {
			t.Errorf("%s %s: got %d %q", c.method, c.path, got.Status, got.Reason)
		}
	}
}

func TestClockDecidesAboutAssertions(t *testing.T) {
	for ahead, want := range map[time.Duration]int{61 * time.Minute: 400, -61 * time.Minute: 400, time.Minute: 200} {
		m := newMock(t, time.Hour, func() time.Time { return time.Now().Add(ahead) })
		if status, body := m.exchange(t, form(m.assertion(t, nil))); status != want {
			t.Errorf("%v ahead: got %d %+v, want %d", ahead, status, body, want)
		}
	}
}

func TestLookupKnowsScopeAndExpiry(t *testing.T) {
	m := newMock(t, time.Minute, time.Now)
	_, strong := m.exchange(t, form(m.assertion(t, nil)))
	_, weak := m.exchange(t, form(m.assertion(t, func(_, claims jwttest.Claims) {
		claims["scope"] = "https://www.googleapis.com/auth/userinfo.email"
	})))
	for token, want := range map[string]bool{strong.AccessToken: true, weak.AccessToken: false} {
		expires, messaging, ok := m.tokens.Lookup(token)
		if left := time.Until(expires); !ok || messaging != want || left <= 0 || left > time.Minute {
			t.Errorf("got messaging %v, ok %v, %v left", messaging, ok, left)
		}
	}
	if _, _, ok := m.tokens.Lookup("unknown"); ok {
		t.Error("an unknown token is known")
	}
	m.tokens.ExpireAll()
	if expires, _, ok := m.tokens.Lookup(strong.AccessToken); !ok || time.Until(expires) > 0 {
		t.Errorf("after ExpireAll: ok %v, expires %v", ok, expires)
	}
}

func TestFaultHasAnOAuthError(t *testing.T) {
	m := newMock(t, time.Hour, time.Now)
	for want, f := range map[string]script.Fault{"backend_error": {Status: 503}, "slow_down": {Status: 400, Reason: "slow_down"}} {
		got := m.RespondFault(&h2.Request{}, &f)
		var body response
		if err := json.Unmarshal(got.Body, &body); err != nil || got.Status != f.Status || body.Error != want {
			t.Errorf("%+v: got %d %s, %v", f, got.Status, got.Body, err)
		}
	}
}

func TestIssuedTokenHasTheScopeOfTheRequest(t *testing.T) {
	m := newMock(t, time.Hour, time.Now)
	valid := m.IssueToken(&h2.Request{Method: "POST", Path: "/token", Body: []byte(form(m.assertion(t, nil)).Encode())})
	if _, messaging, ok := m.tokens.Lookup(valid); !ok || !messaging {
		t.Errorf("known %t, allows sending %t", ok, messaging)
	}
	invalid := m.IssueToken(&h2.Request{Body: []byte("%")})
	if _, messaging, ok := m.tokens.Lookup(invalid); !ok || messaging {
		t.Errorf("invalid request: known %t, allows sending %t", ok, messaging)
	}
}
