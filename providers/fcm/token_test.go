// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// runInBackground runs p until the test ends.
func runInBackground(t *testing.T, p *fcm.Provider) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := testwait.For(t, ended, "the end"); err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	synctest.Wait()
}

// mustAccept sends a notification that must be accepted, and returns the access token of the
// request.
func mustAccept(t *testing.T, p *fcm.Provider) (token string) {
	t.Helper()
	o := send(t, p, func(r *wire.Request) (*wire.Response, error) {
		token = strings.TrimPrefix(authorizationOf(r), "Bearer ")
		return accept(r)
	}, newNotification())
	if o.Verdict != push.Accepted {
		t.Errorf("%v: %+v", time.Now(), o)
	}
	return token
}

// mustNotSend checks that an attempt ends without a request to FCM.
func mustNotSend(t *testing.T, p *fcm.Provider) push.Outcome {
	t.Helper()
	return send(t, p, func(*wire.Request) (*wire.Response, error) {
		t.Error("sent without an access token")
		return nil, errors.New("no")
	}, newNotification())
}

func TestTokenExchangeRequest(t *testing.T) {
	o := &fakeOAuth{}
	mustAccept(t, newProviderWith(t, o))
	equal(t, "URL", o.urls, []string{tokenEndpoint})
	form, err := url.ParseQuery(o.forms[0])
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "grant type", form.Get("grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer")
	claims := jwt.MapClaims{}
	parsed, err := jwt.ParseWithClaims(form.Get("assertion"), claims, func(*jwt.Token) (any, error) { return &testKey().PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(tokenEndpoint), jwt.WithExpirationRequired())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "kid", parsed.Header["kid"], any("0123456789abcdef"))
	equal(t, "iss", claims["iss"], any("sa@demo-project.iam.gserviceaccount.com"))
	equal(t, "scope", claims["scope"], any("https://www.googleapis.com/auth/firebase.messaging"))
	equal(t, "life", claims["exp"].(float64)-claims["iat"].(float64) <= 3600, true)
}

func TestTokenEndpointErrorTable(t *testing.T) {
	for _, r := range loadRows(t, "fcm_oauth") {
		for _, status := range r.statuses() {
			t.Run(fmt.Sprintf("%v %d", r, status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { r.checkExchange(t, status) })
			})
		}
	}
}

func (r row) checkExchange(t *testing.T, status int) {
	if r.Class == "accepted" {
		mustAccept(t, newProviderWith(t, &fakeOAuth{}))
		return
	}
	body := fmt.Sprintf(`{"error":%q,"error_description":"LEAK of %s"}`, r.Code, accessToken(0))
	if r.Code == push.IntermediaryResponse {
		body = "<html>LEAK"
	}
	p := newProviderWith(t, &fakeOAuth{status: status, body: body})
	o := mustNotSend(t, p)
	equal(t, "verdict", o.Verdict, providertest.VerdictFor(r.Class))
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "scope", o.Scope.String(), r.Scope)
	equal(t, "FCM endpoint affected", o.EndpointFault() || o.EndpointOK() || o.CloseConnection, r.EndpointFault)
	equal(t, "ForgetToken", o.ForgetToken, r.ForgetToken)
	switch o.Verdict {
	case push.Throttled:
		equal(t, "wait", o.RetryAfter, time.Duration(*r.MinBackoff)*time.Second)
	case push.Unavailable: // until the next exchange
		reason := "OAUTH_UNAVAILABLE"
		if r.Code == push.IntermediaryResponse {
			reason = "OAUTH_INTERMEDIARY_RESPONSE"
			equal(t, "detail", strings.Contains(o.Detail, fmt.Sprintf("(HTTP status %d) is not from the token endpoint", status)), true)
		}
		equal(t, "reason", o.Reason, reason)
		equal(t, "wait", o.RetryAfter >= 800*time.Millisecond && o.RetryAfter <= 1200*time.Millisecond, true)
	default:
		equal(t, "reason", o.Reason, r.Code)
		equal(t, "wait", o.RetryAfter, time.Duration(0))
	}
	text := fmt.Sprintf("%+v %v", o, p.Authorize(t.Context()))
	equal(t, "leaks", strings.Contains(text, "LEAK") || strings.Contains(text, "SECRET"), false)
}

func TestOtherExchangeFailures(t *testing.T) {
	for name, c := range map[string]struct {
		oauth  *fakeOAuth
		reason string
	}{
		"no network":            {&fakeOAuth{err: errors.New("connection refused")}, "OAUTH_UNAVAILABLE"},
		"timeout":               {&fakeOAuth{latency: time.Hour}, "OAUTH_UNAVAILABLE"},
		"503 without a body":    {&fakeOAuth{status: 503}, "OAUTH_UNAVAILABLE"},
		"a page":                {&fakeOAuth{status: 200, body: "<html>"}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"not JSON":              {&fakeOAuth{status: 200, body: "please log in"}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"empty":                 {&fakeOAuth{status: 200}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"a redirect":            {&fakeOAuth{status: 307, header: http.Header{"Location": {"https://example.com/"}}}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"an error of a proxy":   {&fakeOAuth{status: 403, body: `{"error":"Access denied"}`}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"another JSON":          {&fakeOAuth{status: 403, body: `{"message":"Forbidden"}`}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"an error of no format": {&fakeOAuth{status: 404, body: `{"error":{"code":404,"message":"not found"}}`}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"a proxy's JSON":        {&fakeOAuth{status: 407, body: `{"error":"access_denied"}`}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"no token":              {&fakeOAuth{status: 200, body: `{"expires_in":3599}`}, "OAUTH_INVALID_TOKEN"},
		"an error with 200":     {&fakeOAuth{status: 200, body: `{"error":"invalid_grant"}`}, "OAUTH_INVALID_TOKEN"},
		"a word of a proxy":     {&fakeOAuth{status: 403, body: `{"error":"forbidden"}`}, "OAUTH_INTERMEDIARY_RESPONSE"},
		"an unknown error":      {&fakeOAuth{status: 418, body: `{"error":"teapot","error_description":"LEAK"}`}, "OAUTH_REFUSED"},
		"an error with a URI":   {&fakeOAuth{status: 400, body: `{"error":"teapot","error_uri":"https://example.com/"}`}, "OAUTH_REFUSED"},
		"an error of an API":    {&fakeOAuth{status: 403, body: `{"error":{"code":403,"status":"PERMISSION_DENIED"}}`}, "OAUTH_REFUSED"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				judged := mustNotSend(t, newProviderWith(t, c.oauth))
				want := push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeCredential, Reason: c.reason, RetryAfter: judged.RetryAfter, Detail: judged.Detail}
				if c.reason == "OAUTH_REFUSED" {
					want.Verdict = push.Unauthorized
				}
				equal(t, "outcome", judged, want)
				equal(t, "exchanges", c.oauth.exchanges(), 1)
				equal(t, "within the timeout", time.Since(began) <= 10*time.Second, true)
			})
		})
	}
}

// TestUnusualLifetimes sends ten notifications a second for a minute with each value of expires_in.
func TestUnusualLifetimes(t *testing.T) {
	expired := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1}`)) + ".x"
	for member, maxExchanges := range map[string]int{
		`"expires_in":3599`: 1, `"expires_in":10000000000`: 1, `"expires_in":1e10`: 1, `"expires_in":1e999`: 1, `"expires_in":9223372036854775807`: 1,
		`"expires_in":3599.7`: 1, `"expires_in":"3599"`: 1, `"expires_in":"3599.5"`: 1, `"expires_in":null`: 1, `"expires_in":"soon"`: 1, `"expires_in":{}`: 1,
		`"expires_in":true`: 1, `"scope":"no expires_in"`: 1, `"expires_in":3599,"id_token":"` + expired + `"`: 1, `"expires_in":3599,"id_token":"?"`: 1,
		`"expires_in":0`: 15, `"expires_in":-1`: 15, `"expires_in":-1e10`: 15, `"expires_in":1`: 15, `"expires_in":8`: 15, `"expires_in":"0"`: 15,
	} {
		for _, run := range []bool{true, false} {
			t.Run(fmt.Sprint(strings.ReplaceAll(member, expired, "expired"), ", Run: ", run), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := &fakeOAuth{status: 200, body: `{"access_token":"ya29.SECRET","token_type":"bearer",` + member + `}`, latency: 50 * time.Millisecond}
					p := newProviderWith(t, o)
					if run {
						runInBackground(t, p)
					}
					for range 600 {
						mustAccept(t, p)
						time.Sleep(100 * time.Millisecond)
					}
					equal(t, fmt.Sprint(o.exchanges(), " exchanges"), o.exchanges() <= maxExchanges, true)
				})
			})
		}
	}
}

// A token that really lives for eight seconds is never sent later.
func TestShortLivedTokenIsNotSentAfterItsExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{life: 8}
		p := newProviderWith(t, o)
		for range 600 {
			token := mustAccept(t, p)
			times := o.requestTimes()
			equal(t, "token", token, accessToken(len(times)))
			equal(t, "age", time.Since(times[len(times)-1]) < 8*time.Second, true)
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestTokenThatIsNoHeaderValueIsNotSent(t *testing.T) {
	for name, body := range map[string]string{
		"CR": `{"access_token":"a\rb"}`, "LF": `{"access_token":"a\nX-Evil: 1"}`, "NUL": `{"access_token":"a\u0000"}`, "space": `{"access_token":"a b"}`,
		"DEL": `{"access_token":"a\u007f"}`, "not ASCII": `{"access_token":"é"}`, "empty": `{"access_token":""}`, "number": `{"access_token":7}`, "null": `{"access_token":null}`,
		"900 KB": `{"access_token":"` + strings.Repeat("a", 900<<10) + `"}`, "17 KiB": `{"access_token":"` + strings.Repeat("a", 17<<10) + `"}`,
		"token type": `{"access_token":"a","token_type":"mac"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &fakeOAuth{status: 200, body: body}
				p := newProviderWith(t, o)
				runInBackground(t, p)
				for range 600 { // a send every 100 ms for a minute
					judged := mustNotSend(t, p)
					equal(t, "outcome", fmt.Sprint(judged.Verdict, " ", judged.Reason), "unavailable OAUTH_INVALID_TOKEN")
					time.Sleep(100 * time.Millisecond)
				}
				equal(t, "backs off", o.exchanges() < 8, true)
				o.set(func(o *fakeOAuth) { o.status = 0 })
				time.Sleep(72 * time.Second)
				mustAccept(t, p)
			})
		})
	}
}

func TestPanicInExchangeIsAFailedExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		calls := 0
		p, err := fcm.New(fcm.Config{
			Account: keyFile(), Logger: slog.New(slog.NewTextHandler(&log, nil)),
			TokenClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if calls++; calls < 3 {
					panic("LEAK")
				}
				return (&fakeOAuth{}).RoundTrip(r)
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		runInBackground(t, p)
		equal(t, "reason", mustNotSend(t, p).Reason, "OAUTH_UNAVAILABLE")
		time.Sleep(10 * time.Second)
		mustAccept(t, p)
		equal(t, "exchanges", calls, 3)
		equal(t, "logged", strings.Count(log.String(), "background task panicked"), 2)
		equal(t, "leaks", strings.Contains(log.String(), "LEAK"), false)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTokenEndpointRetryAfter(t *testing.T) {
	for _, status := range []int{429, 503} {
		synctest.Test(t, func(t *testing.T) {
			o := &fakeOAuth{status: status, header: http.Header{"Retry-After": {"40"}}}
			p := newProviderWith(t, o)
			runInBackground(t, p)
			equal(t, "wait", mustNotSend(t, p).RetryAfter, 40*time.Second)
			time.Sleep(39 * time.Second)
			mustNotSend(t, p)
			equal(t, "exchanges", o.exchanges(), 1)
			time.Sleep(2 * time.Second)
			equal(t, "exchanges", o.exchanges(), 2)
		})
	}
}

func TestConcurrentSendsShareOneExchange(t *testing.T) {
	for name, run := range map[string]bool{"with Run": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &fakeOAuth{latency: time.Second}
				p := newProviderWith(t, o)
				if run {
					runInBackground(t, p)
				}
				runConcurrently(t, 100, func() { equal(t, "token", mustAccept(t, p), accessToken(1)) })
				equal(t, "exchanges", o.exchanges(), 1)
			})
		})
	}
}

func TestConcurrentSendsShareOneFailedExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{latency: time.Second, status: 503}
		p := newProviderWith(t, o)
		runConcurrently(t, 100, func() { equal(t, "verdict", mustNotSend(t, p).Verdict, push.Unavailable) })
		equal(t, "exchanges", o.exchanges(), 1)
	})
}

func TestTokenIsRenewedInBackgroundAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{latency: 5 * time.Second}
		p := newProviderWith(t, o)
		runInBackground(t, p)
		time.Sleep(10 * time.Second)
		for range 24 * 60 {
			began := time.Now()
			mustAccept(t, p)
			equal(t, "waited", time.Since(began), time.Duration(0))
			time.Sleep(time.Minute)
		}
		for i, times := 1, o.requestTimes(); i < len(times); i++ {
			if age := times[i].Sub(times[i-1]); age < 26*time.Minute || age > 34*time.Minute {
				t.Errorf("exchange %d after %v", i, age)
			}
		}
	})
}

func TestOutageOf25MinutesDoesNotAffectSends(t *testing.T) {
	for start := time.Duration(0); start < time.Hour; start += 4 * time.Minute {
		t.Run(start.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &fakeOAuth{}
				p := newProviderWith(t, o)
				runInBackground(t, p)
				began := time.Now()
				for time.Since(began) < 2*time.Hour {
					down := time.Since(began) > start && time.Since(began) < start+25*time.Minute
					o.set(func(o *fakeOAuth) {
						o.status = map[bool]int{true: 503}[down]
					})
					mustAccept(t, p)
					time.Sleep(10 * time.Second)
				}
				// In 25 minutes the backoff doubles from one second to one minute.
				equal(t, "few exchanges", o.exchanges() < 5+6+32, true)
			})
		})
	}
}

func TestOutageLongerThanTokenLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{}
		p := newProviderWith(t, o)
		runInBackground(t, p)
		mustAccept(t, p)
		o.set(func(o *fakeOAuth) { o.status = 503 })
		time.Sleep(59 * time.Minute)
		equal(t, "token", mustAccept(t, p), accessToken(1))
		time.Sleep(time.Minute)
		judged := mustNotSend(t, p)
		equal(t, "outcome", judged, push.Outcome{
			Verdict: push.Unavailable, Scope: push.ScopeCredential, Reason: "OAUTH_UNAVAILABLE", RetryAfter: judged.RetryAfter,
		})
		equal(t, "wait", judged.RetryAfter > 0 && judged.RetryAfter <= 72*time.Second, true)
		o.set(func(o *fakeOAuth) { o.status = 0 })
		time.Sleep(72 * time.Second)
		mustAccept(t, p)
	})
}

func TestFirstExchangeBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{status: 503}
		p := newProviderWith(t, o)
		runInBackground(t, p)
		for range 600 { // a send every 100 ms for a minute
			equal(t, "verdict", mustNotSend(t, p).Verdict, push.Unavailable)
			time.Sleep(100 * time.Millisecond)
		}
		minWait, maxWait := 800*time.Millisecond, 1200*time.Millisecond
		for i, times := 1, o.requestTimes(); i < len(times); i++ {
			if wait := times[i].Sub(times[i-1]); wait < minWait || wait > maxWait+100*time.Millisecond {
				t.Errorf("exchange %d after %v, want %v to %v", i, wait, minWait, maxWait)
			}
			minWait, maxWait = min(2*minWait, 48*time.Second), min(2*maxWait, 72*time.Second)
		}
		o.set(func(o *fakeOAuth) { o.status = 0 })
		time.Sleep(72 * time.Second)
		mustAccept(t, p)
	})
}

func TestRefusedTokenIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{}
		p := newProviderWith(t, o)
		mustAccept(t, p)
		time.Sleep(5 * time.Minute)
		runConcurrently(t, 100, func() {
			judged := send(t, p, func(r *wire.Request) (*wire.Response, error) {
				time.Sleep(time.Second) // so that all sends use the same token
				return &wire.Response{Status: 401, Body: []byte(errorResponse(401, "UNAUTHENTICATED", generic401))}, nil
			}, newNotification())
			equal(t, "retryable", judged.Renewed && judged.Retryable() && !judged.EndpointFault(), true)
		})
		runConcurrently(t, 100, func() { equal(t, "token", mustAccept(t, p), accessToken(2)) })
		equal(t, "exchanges", o.exchanges(), 2)
	})
}

func TestRefusedFreshTokenIsKeptForOneMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{}
		p := newProviderWith(t, o)
		for range 600 { // every second for ten minutes
			send(t, p, respond(401, errorResponse(401, "UNAUTHENTICATED", generic401)), newNotification())
			time.Sleep(time.Second)
		}
		equal(t, "exchanges are a minute apart", o.exchanges() >= 9 && o.exchanges() <= 11, true)
	})
}

func TestThirdPartyAuthErrorKeepsAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{}
		p := newProviderWith(t, o)
		mustAccept(t, p)
		time.Sleep(5 * time.Minute)
		judged := send(t, p, respond(401, errorResponse(401, "UNAUTHENTICATED", generic401, fcmError("THIRD_PARTY_AUTH_ERROR"))), newNotification())
		equal(t, "retryable", judged.Retryable(), false)
		equal(t, "token", mustAccept(t, p), accessToken(1))
	})
}

func TestCancelledCallerDoesNotAffectOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{latency: 5 * time.Second}
		p := newProviderWith(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		r := translate(t, p, newNotification())
		first := make(chan push.Outcome, 1)
		go func() { first <- providertest.Send(ctx, p, accept, newNotification(), r) }()
		synctest.Wait()
		second := make(chan string, 1)
		go func() { second <- mustAccept(t, p) }()
		synctest.Wait()
		time.Sleep(4 * time.Second)

		began := time.Now()
		cancel()
		equal(t, "verdict", (<-first).Verdict, push.Abandoned)
		equal(t, "waited", time.Since(began), time.Duration(0))
		equal(t, "token", <-second, accessToken(1))
		equal(t, "waited", time.Since(began), time.Second)
	})
}

func TestDeadlineDuringExchangeSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		oauth := &fakeOAuth{latency: 5 * time.Second}
		p := newProviderWith(t, oauth)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		o := providertest.Send(ctx, p, accept, newNotification(), translate(t, p, newNotification()))
		equal(t, "outcome", o, push.Outcome{Verdict: push.Unsent, Reason: "LOCAL_CANCELLED"})
		time.Sleep(4 * time.Second)
		mustAccept(t, p)
		equal(t, "exchanges", oauth.exchanges(), 1)
	})
}

func TestTokenWithoutLifetimeIsUsedForFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{life: -1}
		p := newProviderWith(t, o)
		mustAccept(t, p)
		time.Sleep(4 * time.Minute)
		equal(t, "token", mustAccept(t, p), accessToken(1))
		time.Sleep(time.Minute)
		equal(t, "token", mustAccept(t, p), accessToken(2))
	})
}

func TestAuthorizeFetchesTokenForLaterSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &fakeOAuth{}
		p := newProviderWith(t, o)
		equal(t, "error", p.Authorize(t.Context()), error(nil))
		equal(t, "token", mustAccept(t, p), accessToken(1))

		down := newProviderWith(t, &fakeOAuth{status: 400, body: `{"error":"invalid_grant","error_description":"LEAK"}`})
		equal(t, "error", fmt.Sprint(down.Authorize(t.Context())), "fcm: no access token: invalid_grant")
	})
}

func TestInvalidGrantSaysHowToFixIt(t *testing.T) {
	for description, want := range map[string]string{
		"Invalid grant: account not found": "does not exist any more",
		"Invalid JWT Signature.":           "deleted or revoked: create a new one (Firebase console",
		"Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.": "the clock of this machine is wrong",
	} {
		p := newProviderWith(t, &fakeOAuth{status: 400, body: `{"error":"invalid_grant","error_description":"LEAK ` + description + `"}`})
		if err := fmt.Sprint(p.Authorize(t.Context())); !strings.Contains(err, "invalid_grant: ") || !strings.Contains(err, want) || strings.Contains(err, "LEAK") {
			t.Errorf("%s: got %q, want %q", description, err, want)
		}
	}
}

func TestAccountIsThatOfTheFile(t *testing.T) {
	p, err := fcm.New(fcm.Config{Account: keyFile(), Project: "other", TokenURL: "https://oauth2.example/token"})
	if err != nil {
		t.Fatal(err)
	}
	got := p.Account()
	if got.Project == "other" || got.Project == "" || !strings.Contains(got.Email, "@") || got.TokenURL != "https://oauth2.example/token" || p.Project() != "other" {
		t.Errorf("%+v", got)
	}
}

func TestFailedExchangeLogHoldsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		o := &fakeOAuth{status: 400, body: `{"error":"invalid_grant","error_description":"LEAK"}`}
		p, err := fcm.New(fcm.Config{
			Account: keyFile(), TokenClient: &http.Client{Transport: o}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		mustNotSend(t, p)
		o.set(func(o *fakeOAuth) { o.err = errors.New("connection refused") })
		time.Sleep(time.Minute)
		mustNotSend(t, p)
		text := log.String()
		equal(t, "lines", strings.Count(text, "\n"), 2)
		equal(t, "contains the reasons", strings.Contains(text, "invalid_grant") && strings.Contains(text, "connection refused"), true)
		equal(t, "leaks", strings.Contains(text, "LEAK") || strings.Contains(text, "assertion") || strings.Contains(text, "PRIVATE"), false)
	})
}

func TestSendDoesNotModifyRequest(t *testing.T) {
	p := newProvider(t)
	r := translate(t, p, newNotification())
	before := fmt.Sprint(*r, r.Header[:cap(r.Header)])
	runConcurrently(t, 10, func() {
		providertest.Send(t.Context(), p, fakeFCM(func(sent *wire.Request) (*wire.Response, error) {
			equal(t, "header", sent.Header, []wire.Field{
				{Name: "content-type", Value: "application/json; charset=UTF-8"},
				{Name: "authorization", Value: "Bearer " + accessToken(1)},
			})
			return &wire.Response{Status: 200}, nil
		}), newNotification(), r)
	})
	equal(t, "request", fmt.Sprint(*r, r.Header[:cap(r.Header)]), before)
}

func TestInvalidAccountErrorsHoldNoSecret(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	whole, _ := pem.Decode([]byte(encodePKCS8(testKey())))
	cut := string(pem.EncodeToMemory(&pem.Block{Type: whole.Type, Bytes: whole.Bytes[:200]}))
	user, _ := json.Marshal(map[string]string{"type": "authorized_user", "refresh_token": "SECRET"})
	for want, text := range map[string][]byte{
		"not the JSON":                []byte("SECRET"),
		"type must be":                user,
		"client_email is missing":     keyFile("client_email", ""),
		"must be an https URL":        keyFile("token_uri", "http://SECRET.example.com/token"),
		"private_key is not PEM":      keyFile("private_key", "SECRET"),
		"must be an RSA key":          keyFile("private_key", encodePKCS8(ec)),
		"is it truncated?":            keyFile("private_key", cut),
		"private_key is missing":      keyFile("private_key", ""),
		"is an encrypted private key": keyFile("private_key", string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("SECRET")}))),
		"is a public key":             keyFile("private_key", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("SECRET")}))),
		"a google-services.json":      []byte(`{"project_info":{"project_id":"SECRET"},"client":[{"api_key":"SECRET"}]}`),
		"configuration of a web app":  []byte(`{"apiKey":"SECRET","projectId":"p"}`),
		"an OAuth client":             []byte(`{"installed":{"client_secret":"SECRET"}}`),
		"type is missing":             keyFile("type", ""),
		"a PKCS #12 file":             []byte("\x30\x82\x01\x00\x02\x01\x03SECRET"),
		"a private key in PKCS #8":    []byte(encodePKCS8(testKey())),
		"a property list":             []byte("<?xml version=\"1.0\"?><plist>SECRET</plist>"),
		"project: must be":            keyFile("project_id", ""),
		"project: must be the ID":     keyFile("project_id", "../SECRET"),
	} {
		_, err := fcm.New(fcm.Config{Account: text})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
			continue
		}
		equal(t, want+" leaks", strings.Contains(err.Error(), "SECRET"), false)
	}
}

func TestAccountFileMayHaveByteOrderMark(t *testing.T) {
	o := &fakeOAuth{}
	p, err := fcm.New(fcm.Config{Account: append([]byte("\ufeff"), keyFile()...), TokenClient: &http.Client{Transport: o}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "token", mustAccept(t, p), accessToken(1))
	c := newCloud(t, httptest.NewTLSServer)
	federated := c.newProvider(t, append([]byte("\ufeff"), c.workloadFile(nil)...), io.Discard)
	equal(t, "token of an external account", mustAccept(t, federated), accessToken(2))
}

func TestProjectOverridesAccountProject(t *testing.T) {
	p, err := fcm.New(fcm.Config{Account: keyFile("token_uri", ""), Project: "123456789012"})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "path", translate(t, p, newNotification()).Path, "/v1/projects/123456789012/messages:send")
}

func TestUnreachableTokenEndpointIsNamed(t *testing.T) {
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for name, c := range map[string]struct{ url, detail string }{
		"certificate": {untrusted.URL, "certificate"},
		"no TLS":      {"https" + strings.TrimPrefix(plain.URL, "http"), "does not look like a TLS handshake"},
		"refused":     {"https" + strings.TrimPrefix(closed.URL, "http"), "connection refused"},
	} {
		p, err := fcm.New(fcm.Config{Account: keyFile(), TokenURL: c.url + "/token", TokenClient: &http.Client{Transport: &http.Transport{}}})
		if err != nil {
			t.Fatal(err)
		}
		o := mustNotSend(t, p)
		equal(t, name+": reason", o.Reason, "OAUTH_UNAVAILABLE")
		if !strings.Contains(o.Detail, "the token endpoint cannot be reached: ") || !strings.Contains(o.Detail, c.detail) {
			t.Errorf("%s: detail %q, want %q", name, o.Detail, c.detail)
		}
		if err := p.Authorize(t.Context()); err == nil || !strings.Contains(err.Error(), c.detail) {
			t.Errorf("%s: check reports %v", name, err)
		}
	}
}
