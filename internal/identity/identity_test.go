// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/identity"
)

func TestNewKeyFormat(t *testing.T) {
	key, hash := identity.NewKey()
	other, _ := identity.NewKey()
	if !regexp.MustCompile(`^slk_[a-z2-7]{8}_[a-z2-7]{52}$`).MatchString(key) || key == other {
		t.Error(key)
	}
	if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(hash) {
		t.Error(hash)
	}
}

func newAuth(t testing.TB, cfg identity.Config) *identity.Authenticator {
	t.Helper()
	a, err := identity.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// request returns a request with a bearer credential, or without one if it is empty.
func request(credential string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	if credential != "" {
		r.Header.Set("Authorization", "Bearer "+credential)
	}
	return r
}

func wantRefusal(t testing.TB, a *identity.Authenticator, r *http.Request, reason string) *identity.Refusal {
	t.Helper()
	caller, refusal := a.Authenticate(r)
	if caller != nil || refusal == nil || refusal.Reason != reason {
		t.Fatalf("got %+v and %+v, want the reason %s", caller, refusal, reason)
	}
	for _, value := range r.Header {
		if _, credential, _ := strings.Cut(value[0], " "); len(credential) > 8 && strings.Contains(refusal.Detail, credential) {
			t.Fatalf("the refusal contains the credential: %s", refusal.Detail)
		}
	}
	return refusal
}

func wantCaller(t testing.TB, a *identity.Authenticator, r *http.Request) *identity.Caller {
	t.Helper()
	caller, refusal := a.Authenticate(r)
	if refusal != nil {
		t.Fatalf("%+v", refusal)
	}
	return caller
}

func TestScopesInclude(t *testing.T) {
	for _, c := range []struct {
		given []string
		want  []string
	}{
		{[]string{"send"}, []string{"send"}},
		{[]string{"read"}, []string{"read", "events"}},
		{[]string{"events"}, []string{"events"}},
		{[]string{"broadcasts", "channels"}, []string{"channels", "broadcasts"}},
		{[]string{"admin"}, []string{"send", "read", "events", "channels", "broadcasts", "approve", "admin"}},
		{nil, nil},
	} {
		got, err := identity.ParseScopes(c.given)
		if err != nil || !slices.Equal(got.Names(), c.want) {
			t.Errorf("%v: got %v (%v), want %v", c.given, got.Names(), err, c.want)
		}
	}
	if _, err := identity.ParseScopes([]string{"send", "write"}); err == nil || !strings.Contains(err.Error(), `not "write"`) {
		t.Error(err)
	}
	if text := (identity.Send | identity.Broadcasts).String(); text != "send or broadcasts" {
		t.Error(text)
	}
}

func TestKeyOfSeveralApps(t *testing.T) {
	key, hash := identity.NewKey()
	admin, adminHash := identity.NewKey()
	a := newAuth(t, identity.Config{Apps: []string{"bank", "lab", "shop"}, Keys: []identity.Key{
		{Path: "apps.bank.keys[0]", Name: "bank-backend", Hash: hash, Apps: []string{"bank"}, Scopes: identity.Read | identity.Events},
		{Path: "apps.shop.keys[0]", Name: "backend", Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send},
		{Path: "auth.keys[0]", Name: "ops", Hash: adminHash, Scopes: identity.Send | identity.Admin},
	}})
	c := wantCaller(t, a, request(key))
	if c.NameIn("bank") != "bank-backend" || c.NameIn("shop") != "backend" || c.Scopes("shop") != identity.Send || c.Scopes("lab") != 0 || c.IsAdmin() || c.Kind != identity.APIKey {
		t.Errorf("%+v", c)
	}
	if got := c.Apps(identity.Read); !slices.Equal(got, []string{"bank"}) {
		t.Error(got)
	}
	if c := wantCaller(t, a, request(admin)); !c.IsAdmin() || !slices.Equal(c.Apps(identity.Send), []string{"bank", "lab", "shop"}) {
		t.Errorf("%+v", c)
	}
}

func TestTimesOfKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, hash := identity.NewKey()
		next, nextHash := identity.NewKey()
		a := newAuth(t, identity.Config{Apps: []string{"shop"}, Keys: []identity.Key{
			{Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send, ExpiresAt: time.Now().Add(time.Hour)},
			{Hash: nextHash, Apps: []string{"shop"}, Scopes: identity.Send, NotBefore: time.Now().Add(30 * time.Minute)},
		}})
		caller := wantCaller(t, a, request(key))
		if refusal := wantRefusal(t, a, request(next), "early_key"); !strings.Contains(refusal.Detail, "valid from 2000-01-01T00:30:00Z") {
			t.Error(refusal.Detail)
		}
		time.Sleep(45 * time.Minute)
		wantCaller(t, a, request(key))
		wantCaller(t, a, request(next))
		if caller.Expired() || a.Renew(caller) == nil {
			t.Error("expired early")
		}
		time.Sleep(15 * time.Minute)
		if refusal := wantRefusal(t, a, request(key), "expired_key"); !strings.Contains(refusal.Detail, "expired on 2000-01-01T01:00:00Z") {
			t.Error(refusal.Detail)
		}
		if !caller.Expired() || a.Renew(caller) != nil {
			t.Error("not expired")
		}
	})
}

func TestNewRejectsEntriesThatDisagreeAboutAKey(t *testing.T) {
	_, hash := identity.NewKey()
	first := identity.Key{Path: "apps.bank.keys[0]", Hash: hash, Apps: []string{"bank"}, Scopes: identity.Send}
	for name, change := range map[string]func(*identity.Key){
		"expiry": func(k *identity.Key) { k.ExpiresAt = time.Now() },
		"start":  func(k *identity.Key) { k.NotBefore = time.Now() },
		"limit":  func(k *identity.Key) { k.Limit.Concurrency = 1 },
	} {
		second := first
		second.Path = "apps.shop.keys[1]"
		change(&second)
		_, err := identity.New(identity.Config{Apps: []string{"bank", "shop"}, Keys: []identity.Key{first, second}})
		if err == nil || !strings.Contains(err.Error(), "apps.shop.keys[1]: is the same key as apps.bank.keys[0]") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// withCertificate returns a request over a connection with a client certificate.
func withCertificate(cert *x509.Certificate) *http.Request {
	r := request("")
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
	return r
}

func TestCertificates(t *testing.T) {
	key, hash := identity.NewKey()
	a := newAuth(t, identity.Config{
		Apps: []string{"shop"}, Keys: []identity.Key{{Name: "backend", Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send}},
		Certificates: []identity.CertificateRule{
			{Name: "spiffe://example.com/shop/*", Apps: []string{"shop"}, Scopes: identity.Send},
			{Name: "prometheus", Scopes: identity.Admin},
		},
	})
	workload := &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/shop/orders"}}, Subject: pkix.Name{CommonName: "prometheus"}, NotAfter: time.Now().Add(time.Hour)}
	c := wantCaller(t, a, withCertificate(workload))
	if c.Name != "spiffe://example.com/shop/orders" || c.Kind != identity.Certificate || c.Scopes("shop") != identity.Send || c.IsAdmin() || !c.ExpiresAt.Equal(workload.NotAfter) {
		t.Errorf("%+v", c)
	}
	if c := wantCaller(t, a, withCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "prometheus"}, NotAfter: time.Now().Add(time.Hour)})); !c.IsAdmin() {
		t.Errorf("%+v", c)
	}
	for _, unknown := range []*x509.Certificate{
		{}, {Subject: pkix.Name{CommonName: "prometheus2"}}, {Subject: pkix.Name{CommonName: "spiffe://example.com/shop"}}, {DNSNames: []string{"shop"}},
	} {
		wantRefusal(t, a, withCertificate(unknown), "missing")
	}
	unverified := withCertificate(workload)
	unverified.TLS.VerifiedChains = nil
	wantRefusal(t, a, unverified, "missing")
	// The header has precedence, also if it is wrong.
	r := withCertificate(workload)
	r.Header.Set("Authorization", "Bearer "+key)
	if c := wantCaller(t, a, r); c.Kind != identity.APIKey {
		t.Errorf("%+v", c)
	}
	r.Header.Set("Authorization", "Bearer slk_wrong_wrongwrong")
	wantRefusal(t, a, r, "unknown_key")
	if next := newAuth(t, identity.Config{Apps: []string{"shop"}}); next.Renew(c) != nil || a.Renew(c) == nil {
		t.Error("the caller of a certificate was not renewed")
	}
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, hash := identity.NewKey()
		other, otherHash := identity.NewKey()
		cfg := identity.Config{Apps: []string{"shop"}, Keys: []identity.Key{
			{Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send, Limit: identity.Limit{Rate: 10, RatePer: time.Second}},
			{Hash: otherHash, Apps: []string{"shop"}, Scopes: identity.Send, Limit: identity.Limit{Rate: 10, RatePer: time.Second}},
		}}
		a := newAuth(t, cfg)
		l := wantCaller(t, a, request(key)).Limits
		for range 10 {
			if exceeded := l.Take(1); exceeded != nil {
				t.Fatal(exceeded)
			}
		}
		if exceeded := l.Take(1); exceeded == nil || exceeded.Name != "rate" || exceeded.Detail != "its rate is 10/s" || exceeded.RetryAfter != 100*time.Millisecond {
			t.Errorf("%+v", exceeded)
		}
		if wantCaller(t, a, request(other)).Limits.Take(1) != nil {
			t.Error("another key is limited")
		}
		// A reload that leaves the limit does not renew it.
		cfg.Previous = a
		l = wantCaller(t, newAuth(t, cfg), request(key)).Limits
		if l.Take(1) == nil {
			t.Error("the reload has renewed the limit")
		}
		// A request for more than the limit passes, and the next ones wait.
		time.Sleep(time.Second)
		if exceeded := l.Take(35); exceeded != nil {
			t.Error(exceeded)
		}
		if exceeded := l.Take(1); exceeded == nil || exceeded.RetryAfter != 2600*time.Millisecond {
			t.Errorf("%+v", exceeded)
		}
		time.Sleep(2600 * time.Millisecond)
		if exceeded := l.Take(1); exceeded != nil {
			t.Error(exceeded)
		}
		// A stream is slowed.
		time.Sleep(time.Second)
		start := time.Now()
		for range 30 {
			time.Sleep(l.Wait(1))
		}
		if took := time.Since(start); took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("30 items took %s", took)
		}
	})
}

func TestConcurrencyLimit(t *testing.T) {
	key, hash := identity.NewKey()
	a := newAuth(t, identity.Config{Apps: []string{"shop"}, Keys: []identity.Key{
		{Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send, Limit: identity.Limit{Concurrency: 2}},
	}})
	l := wantCaller(t, a, request(key)).Limits
	for range l.MaxInFlight() {
		if exceeded := l.TryAcquire(); exceeded != nil {
			t.Error("limited too early")
		}
	}
	if exceeded := l.TryAcquire(); exceeded == nil || exceeded.Name != "concurrency" || exceeded.Detail != "its concurrency is 2" || exceeded.RetryAfter != time.Second {
		t.Errorf("%+v", exceeded)
	}
	l.Release(1)
	if l.TryAcquire() != nil {
		t.Error("the place was not returned")
	}
	l.Release(2)
	if err := l.Acquire(t.Context(), 2); err != nil {
		t.Error(err)
	}
	l.Release(2)
}

func TestNoLimits(t *testing.T) {
	var l *identity.Limits
	if l.Take(1<<30) != nil || l.Wait(1<<30) != 0 || l.TryAcquire() != nil || l.Acquire(t.Context(), 1<<30) != nil {
		t.Error("limited")
	}
	l.Release(1)
}

func TestAuthenticateAKeyDoesNotAllocate(t *testing.T) {
	key, hash := identity.NewKey()
	a := newAuth(t, identity.Config{Apps: []string{"shop"}, Keys: []identity.Key{{Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send}}})
	r := request(key)
	if n := testing.AllocsPerRun(100, func() { _, _ = a.Authenticate(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
