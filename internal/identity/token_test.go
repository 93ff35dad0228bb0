// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/identity/identitytest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// issuerOf returns an Issuer for a provider. client nil connects without a network.
func issuerOf(p *identitytest.Provider, client *http.Client, change ...func(*identity.IssuerConfig)) *identity.Issuer {
	if client == nil {
		client = &http.Client{Transport: p}
	}
	cfg := identity.IssuerConfig{URL: p.URL, Audiences: []string{"sluice", "push"}, Algorithms: []string{"RS256", "ES256"}, ClockSkew: 30 * time.Second, Client: client}
	for _, f := range change {
		f(&cfg)
	}
	return identity.NewIssuer(cfg)
}

// start runs an issuer until the end of the test.
func start(t testing.TB, i *identity.Issuer) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := testwait.For(t, ended, "the end of the issuer"); err != nil {
			t.Error(err)
		}
	})
}

// allowSend is a rule for all tokens.
var allowSend = []identity.TokenRule{{Apps: []string{"shop"}, Scopes: identity.Send}}

func authFor(t testing.TB, rules []identity.TokenRule, issuers ...*identity.Issuer) *identity.Authenticator {
	t.Helper()
	cfg := identity.Config{Apps: []string{"bank", "shop"}}
	for _, i := range issuers {
		cfg.Issuers = append(cfg.Issuers, identity.IssuerRules{Issuer: i, NameClaim: "sub", Rules: rules})
	}
	return newAuth(t, cfg)
}

// TestTokensOverTLS uses two providers with discovery over TLS.
func TestTokensOverTLS(t *testing.T) {
	var issuers []*identity.Issuer
	var providers []*identitytest.Provider
	for range 2 {
		p := &identitytest.Provider{Keys: []*identitytest.Key{identitytest.RSAKey("r1"), identitytest.ECKey(t, "e1")}}
		server := httptest.NewTLSServer(p)
		t.Cleanup(server.Close)
		p.URL = server.URL
		client := server.Client()
		t.Cleanup(client.CloseIdleConnections)
		issuer := issuerOf(p, client)
		start(t, issuer)
		issuers, providers = append(issuers, issuer), append(providers, p)
	}
	a := authFor(t, allowSend, issuers...)
	for _, p := range providers {
		for _, key := range p.Keys {
			token := key.Sign(t, p.APIClaims(nil))
			testwait.Until(t, func() bool { // the first fetch may take more than one wait on a slow machine
				c, _ := a.Authenticate(request(token))
				return c != nil && c.Name == "orders" && c.Kind == identity.Token && c.Scopes("shop") == identity.Send && c.Scopes("bank") == 0
			}, "the token is accepted")
		}
	}
	wrong := providers[0].Keys[0].Sign(t, providers[0].APIClaims(map[string]any{"iss": "https://other.example.com"}))
	wantRefusal(t, a, request(wrong), "unknown_issuer")
	for n, issuer := range issuers {
		if s := issuer.Status(); s.URL != providers[n].URL || s.FetchedAt.IsZero() || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
		if keys, err := issuer.Verify(t.Context()); keys != 2 || err != nil {
			t.Errorf("%d keys, %v", keys, err)
		}
	}
}

func TestRefusedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.RSAKey("r1"), identitytest.ECKey(t, "e1")}}
		issuer := issuerOf(p, nil)
		start(t, issuer)
		a := authFor(t, allowSend, issuer)
		key := p.Keys[0]
		wantCaller(t, a, request(key.Sign(t, p.APIClaims(nil))))
		wantCaller(t, a, request(key.Sign(t, p.APIClaims(map[string]any{"aud": []string{"other", "push"}, "exp": time.Now().Add(-29 * time.Second).Unix(), "nbf": time.Now().Add(29 * time.Second).Unix()}))))
		unnamed := *p.Keys[1]
		unnamed.ID = ""
		wantCaller(t, a, request(unnamed.Sign(t, p.APIClaims(nil))))

		imposter := identitytest.ECKey(t, "e1")
		valid := key.Sign(t, p.APIClaims(nil))
		parts := strings.Split(valid, ".")
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"r1"}`))
		hmac := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(p.APIClaims(nil)))
		hmac.Header["kid"] = "r1"
		hmacText, err := hmac.SignedString([]byte("c2VjcmV0"))
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct{ token, reason, detail string }{
			"expired":              {key.Sign(t, p.APIClaims(map[string]any{"exp": time.Now().Add(-31 * time.Second).Unix()})), "expired_token", "has expired on 1999-12-31T23:59:29Z"},
			"without expiry":       {key.Sign(t, p.APIClaims(map[string]any{"exp": nil})), "expired_token", "no expiry"},
			"not yet valid":        {key.Sign(t, p.APIClaims(map[string]any{"nbf": time.Now().Add(31 * time.Second).Unix()})), "early_token", "valid from 2000-01-01T00:00:31Z"},
			"other audience":       {key.Sign(t, p.APIClaims(map[string]any{"aud": "other"})), "wrong_audience", "must contain sluice or push"},
			"no audience":          {key.Sign(t, p.APIClaims(map[string]any{"aud": nil})), "wrong_audience", ""},
			"other issuer":         {key.Sign(t, p.APIClaims(map[string]any{"iss": "https://evil.example.com"})), "unknown_issuer", "auth.oidc"},
			"no issuer":            {key.Sign(t, p.APIClaims(map[string]any{"iss": nil})), "unknown_issuer", ""},
			"no name":              {key.Sign(t, p.APIClaims(map[string]any{"sub": nil})), "unnamed_token", "claim sub"},
			"imposter's signature": {imposter.Sign(t, p.APIClaims(nil)), "bad_signature", ""},
			"changed claims":       {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+p.URL+`","aud":"sluice","sub":"root","exp":99999999999}`)) + "." + parts[2], "bad_signature", ""},
			"no signature":         {none + "." + parts[1] + ".", "invalid_token", "RS256 or ES256"},
			"algorithm of secrets": {hmacText, "invalid_token", ""},
			"garbage":              {"eyJhbGciOiJSUzI1NiJ9." + parts[1] + ".x", "invalid_token", ""},
			"wrong signature":      {"eyJhbGciOiJSUzI1NiJ9." + parts[1] + "." + parts[2], "bad_signature", ""},
			"no JSON":              {"eyJ." + "e30" + ".x", "unknown_issuer", ""},
			"very long":            {valid + strings.Repeat("A", 16<<10), "invalid_token", "bytes"},
		} {
			refusal := wantRefusal(t, a, request(c.token), c.reason)
			if !strings.Contains(refusal.Detail, c.detail) || strings.Contains(refusal.Detail, "eyJ") || strings.Contains(refusal.Detail, "evil") || refusal.RetryAfter != 0 {
				t.Errorf("%s: %+v", name, refusal)
			}
		}
		for _, notAToken := range []string{"eyJ", "eyJ.x", "eyJ.x.y.z", "slk_x_y"} {
			wantRefusal(t, a, request(notAToken), "unknown_key")
		}
	})
}

// TestCachedTokenExpires uses a token several times, until it expires.
func TestCachedTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.ECKey(t, "e1")}}
		issuer := issuerOf(p, nil)
		start(t, issuer)
		a := authFor(t, allowSend, issuer)
		token := p.Keys[0].Sign(t, p.APIClaims(nil))
		c := wantCaller(t, a, request(token))
		if again := wantCaller(t, a, request(token)); again != c {
			t.Error("the token was verified again")
		}
		time.Sleep(time.Hour + 29*time.Second)
		if wantCaller(t, a, request(token)) != c || c.Expired() || a.Renew(c) == nil {
			t.Error("expired too early")
		}
		time.Sleep(time.Second)
		wantRefusal(t, a, request(token), "expired_token")
		if !c.Expired() || a.Renew(c) != nil {
			t.Error("not expired")
		}
	})
}

func TestRotationOfSigningKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := identitytest.ECKey(t, "1"), identitytest.ECKey(t, "2")
		p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{old}}
		issuer := issuerOf(p, nil)
		start(t, issuer)
		a := authFor(t, allowSend, issuer)
		token := old.Sign(t, p.APIClaims(nil))
		wantCaller(t, a, request(token))
		time.Sleep(time.Minute)
		p.Set(func(p *identitytest.Provider) { p.Keys = []*identitytest.Key{old, next} })
		started := time.Now()
		wantCaller(t, a, request(next.Sign(t, p.APIClaims(nil)))) // fetches the keys
		if took := time.Since(started); took > 0 || p.Fetches() != 2 {
			t.Errorf("%s, %d fetches", took, p.Fetches())
		}
		wantCaller(t, a, request(token))
		// A key that is no longer published is known until the next refresh in the background.
		p.Set(func(p *identitytest.Provider) { p.Keys = []*identitytest.Key{next} })
		time.Sleep(11 * time.Minute)
		wantRefusal(t, a, request(token), "unknown_signing_key")
		wantCaller(t, a, request(next.Sign(t, p.APIClaims(nil))))
	})
}

// TestUnknownKeysDoNotFloodTheIssuer sends many tokens with unknown keys at once and over two minutes.
func TestUnknownKeysDoNotFloodTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.ECKey(t, "1")}}
		issuer := issuerOf(p, nil)
		start(t, issuer)
		a := authFor(t, allowSend, issuer)
		unknown := identitytest.ECKey(t, "2").Sign(t, p.APIClaims(nil))
		time.Sleep(time.Minute)
		before := p.Fetches()
		var calls sync.WaitGroup
		for range 100 {
			calls.Go(func() { wantRefusal(t, a, request(unknown), "unknown_signing_key") })
		}
		calls.Wait()
		if n := p.Fetches() - before; n != 1 {
			t.Errorf("%d fetches for 100 tokens at once", n)
		}
		started := time.Now()
		for range 1200 {
			wantRefusal(t, a, request(unknown), "unknown_signing_key")
			time.Sleep(100 * time.Millisecond)
		}
		if n := p.Fetches() - before; n > 13 || time.Since(started) > 130*time.Second {
			t.Errorf("%d fetches in two minutes", n)
		}
	})
}

// TestIssuerOutage checks that an issuer that is down or does not respond affects neither tokens with known
// keys nor those of other issuers.
func TestIssuerOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.ECKey(t, "1")}}
		hanging := &identitytest.Provider{URL: "https://hanging.example.com", Keys: []*identitytest.Key{identitytest.ECKey(t, "1")}, Block: make(chan struct{})}
		var log bytes.Buffer
		logged := func(cfg *identity.IssuerConfig) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
		issuer, other := issuerOf(p, nil, logged), issuerOf(hanging, nil)
		start(t, issuer)
		start(t, other)
		a := authFor(t, allowSend, issuer, other)
		token := p.Keys[0].Sign(t, p.APIClaims(map[string]any{"exp": time.Now().AddDate(0, 0, 2).Unix()}))
		wantCaller(t, a, request(token))
		late := hanging.Keys[0].Sign(t, hanging.APIClaims(map[string]any{"exp": time.Now().AddDate(0, 0, 2).Unix()}))
		started := time.Now()
		if refusal := wantRefusal(t, a, request(late), "issuer_unavailable"); refusal.RetryAfter == 0 || time.Since(started) > 5*time.Second {
			t.Errorf("%+v after %s", refusal, time.Since(started))
		}
		p.Set(func(p *identitytest.Provider) { p.Down = true })
		for range 8 {
			time.Sleep(10 * time.Minute)
			fresh := p.Keys[0].Sign(t, p.APIClaims(nil))
			started := time.Now()
			wantCaller(t, a, request(token))
			wantCaller(t, a, request(fresh))
			if took := time.Since(started); took > 0 {
				t.Fatalf("a token with a known key took %s", took)
			}
		}
		if refusal := wantRefusal(t, a, request(identitytest.ECKey(t, "2").Sign(t, p.APIClaims(nil))), "issuer_unavailable"); refusal.RetryAfter == 0 {
			t.Errorf("%+v", refusal)
		}
		synctest.Wait()
		if n := issuer.Status().Failures; n == 0 || strings.Count(log.String(), "not fetched") != 1 {
			t.Errorf("%d failures, log:\n%s", n, log.String())
		}
		p.Set(func(p *identitytest.Provider) { p.Down = false })
		close(hanging.Block)
		hanging.Set(func(p *identitytest.Provider) { p.Block = nil })
		time.Sleep(time.Minute)
		wantCaller(t, a, request(late))
		synctest.Wait()
		if strings.Count(log.String(), "fetched again") != 1 || strings.Contains(log.String(), "eyJ") {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

func TestDiscoveryMustBeHTTPS(t *testing.T) {
	p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.ECKey(t, "1")}, Document: map[string]any{"jwks_uri": "http://login.example.com/keys"}}
	if _, err := issuerOf(p, nil).Verify(t.Context()); err == nil || !strings.Contains(err.Error(), "not an https URL") || p.Fetches() != 0 {
		t.Error(err)
	}
	p.URL = "https://other.example.com"
	if _, err := issuerOf(p, nil, func(cfg *identity.IssuerConfig) { cfg.URL = "https://login.example.com" }).Verify(t.Context()); err == nil {
		t.Error("a document of another issuer was accepted")
	}
	direct := issuerOf(p, nil, func(cfg *identity.IssuerConfig) { cfg.JWKSURL = p.URL + "/keys" })
	if keys, err := direct.Verify(t.Context()); keys != 1 || err != nil {
		t.Error(keys, err)
	}
}

func TestRulesOfTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.ECKey(t, "1")}}
		issuer := issuerOf(p, nil)
		start(t, issuer)
		both := []string{"bank", "shop"}
		read := identity.Read | identity.Events
		a := authFor(t, []identity.TokenRule{
			{Claim: "groups", Value: "ops", Scopes: identity.Admin | identity.Send},
			{Claim: "realm_access.roles", Value: "push", Apps: both, Scopes: identity.Send, Limit: identity.Limit{Concurrency: 1}},
			{Claim: "https://example.com/team", Value: "shop", Apps: []string{"shop"}, Scopes: read},
			{Claim: "scope", Value: "sluice", Apps: both, AppsClaim: "apps", Scopes: identity.Send | read, ScopesClaim: "scope", ScopesPrefix: "sluice:"},
			{Claim: "verified", Value: "true", Apps: both, Scopes: identity.Events},
		}, issuer)
		for name, c := range map[string]struct {
			claims     map[string]any
			bank, shop identity.Scopes
			admin      bool
		}{
			"no rule":       {map[string]any{"groups": "opsx", "realm_access": "push", "verified": false}, 0, 0, false},
			"admin":         {map[string]any{"groups": []string{"dev", "ops"}}, identity.Admin | identity.Send, identity.Admin | identity.Send, true},
			"nested":        {map[string]any{"realm_access": map[string]any{"roles": []string{"push"}}, "groups": map[string]any{"ops": 1}}, identity.Send, identity.Send, false},
			"with dots":     {map[string]any{"https://example.com/team": "shop"}, 0, read, false},
			"from claims":   {map[string]any{"scope": "openid sluice sluice:send sluice:read", "apps": []string{"shop", "lab"}}, 0, identity.Send | read, false},
			"never more":    {map[string]any{"scope": "sluice sluice:admin sluice:channels send", "apps": "bank shop"}, 0, 0, false},
			"only events":   {map[string]any{"scope": "sluice sluice:events", "apps": "bank"}, identity.Events, 0, false},
			"boolean":       {map[string]any{"verified": true}, identity.Events, identity.Events, false},
			"first matches": {map[string]any{"realm_access": map[string]any{"roles": []string{"push"}}, "verified": true}, identity.Send, identity.Send, false},
		} {
			caller := wantCaller(t, a, request(p.Keys[0].Sign(t, p.APIClaims(c.claims))))
			if caller.Scopes("bank") != c.bank || caller.Scopes("shop") != c.shop || caller.IsAdmin() != c.admin {
				t.Errorf("%s: bank %v, shop %v, admin %v", name, caller.Scopes("bank").Names(), caller.Scopes("shop").Names(), caller.IsAdmin())
			}
		}
		nested := map[string]any{"realm_access": map[string]any{"roles": []string{"push"}}, "sub": "a\nb\u202e" + strings.Repeat("x", 200)}
		first, second := wantCaller(t, a, request(p.Keys[0].Sign(t, p.APIClaims(nested)))), wantCaller(t, a, request(p.Keys[0].Sign(t, p.APIClaims(map[string]any{"realm_access": nested["realm_access"]}))))
		if first.Limits.TryAcquire() != nil || second.Limits.TryAcquire() == nil {
			t.Error("the holders of tokens of one rule do not share its limit")
		}
		if !strings.HasPrefix(first.Name, "a?b?xxx") || len(first.Name) > 140 {
			t.Errorf("%q", first.Name)
		}
		// A reload applies to callers with a token too.
		if next := authFor(t, nil, issuer).Renew(first); next == nil || next.Scopes("shop") != 0 {
			t.Errorf("%+v", next)
		}
		strict := issuerOf(p, nil, func(cfg *identity.IssuerConfig) { cfg.Audiences = []string{"other"} })
		if authFor(t, nil, strict).Renew(first) != nil || newAuth(t, identity.Config{}).Renew(first) != nil {
			t.Error("the caller is still accepted")
		}
	})
}

// FuzzAuthorization checks that no header without a valid credential has a caller, and that no refusal
// repeats a part of it.
func FuzzAuthorization(f *testing.F) {
	p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.ECKey(f, "1")}}
	key, hash := identity.NewKey()
	issuer := issuerOf(p, nil)
	a, err := identity.New(identity.Config{
		Apps: []string{"shop"}, Keys: []identity.Key{{Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send}},
		Issuers: []identity.IssuerRules{{Issuer: issuer, NameClaim: "sub", Rules: allowSend}},
	})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing is fetched, and no request waits for it
	token := p.Keys[0].Sign(f, p.APIClaims(nil))
	for _, seed := range []string{"Bearer " + key[:len(key)-1], "Bearer " + token, "bearer  " + token[:len(token)/2], "Basic Og==", "Bearer eyJ.e30.", "Bearer eyJhbGciOiJub25lIn0.e30.", "Bearer\t", " "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		r.Header["Authorization"] = []string{header}
		c, refusal := a.Authenticate(r)
		if c != nil || (refusal == nil) == (header != "Bearer "+key) {
			t.Fatalf("%+v, %+v", c, refusal)
		}
		for _, word := range strings.FieldsFunc(header, func(r rune) bool { return r == ' ' || r == '.' }) {
			if len(word) > 20 && strings.Contains(refusal.Detail, word) {
				t.Fatalf("the refusal repeats the header: %s", refusal.Detail)
			}
		}
	})
}

func BenchmarkToken(b *testing.B) {
	p := &identitytest.Provider{URL: "https://login.example.com", Keys: []*identitytest.Key{identitytest.RSAKey("r1")}}
	issuer := issuerOf(p, nil)
	start(b, issuer)
	a := authFor(b, allowSend, issuer)
	r := request(p.Keys[0].Sign(b, p.APIClaims(nil)))
	testwait.Until(b, func() bool { c, _ := a.Authenticate(r); return c != nil }, "the token is accepted")
	b.ReportAllocs()
	for b.Loop() {
		if c, _ := a.Authenticate(r); c == nil {
			b.Fatal("refused")
		}
	}
}
