// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// running runs p until the test ends.
func running(t *testing.T, p *fcm.Provider) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	synctest.Wait()
}

// accepted sends and fails the test unless FCM takes it; it returns the access
// token that went along.
func accepted(t *testing.T, p *fcm.Provider) (token string) {
	t.Helper()
	o := send(t, p, func(r *wire.Request) (*wire.Response, error) {
		token = strings.TrimPrefix(authorization(r), "Bearer ")
		return &wire.Response{Status: 200}, nil
	}, hello())
	if o.Verdict != push.Accepted {
		t.Errorf("%v: %+v", time.Now(), o)
	}
	return token
}

// unsent sends and fails the test if anything gets to FCM.
func unsent(t *testing.T, p *fcm.Provider) push.Outcome {
	t.Helper()
	return send(t, p, func(*wire.Request) (*wire.Response, error) {
		t.Error("sent without an access token")
		return nil, errors.New("no")
	}, hello())
}

func TestTheExchangeSaysWhatGoogleAsksFor(t *testing.T) {
	o := &oauth{}
	accepted(t, with(t, o))
	equal(t, "URL", o.urls, []string{endpoint})
	form, err := url.ParseQuery(o.forms[0])
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "grant type", form.Get("grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer")
	claims := jwt.MapClaims{}
	parsed, err := jwt.ParseWithClaims(form.Get("assertion"), claims, func(*jwt.Token) (any, error) { return &theKey().PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(endpoint), jwt.WithExpirationRequired())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "kid", parsed.Header["kid"], any("0123456789abcdef"))
	equal(t, "iss", claims["iss"], any("sa@demo-project.iam.gserviceaccount.com"))
	equal(t, "scope", claims["scope"], any("https://www.googleapis.com/auth/firebase.messaging"))
	equal(t, "life", claims["exp"].(float64)-claims["iat"].(float64) <= 3600, true)
}

func TestEveryRowOfTheTokenEndpointIsJudgedAsTheTableSays(t *testing.T) {
	for _, r := range rowsOf(t, "fcm_oauth") {
		for _, status := range r.statuses() {
			t.Run(fmt.Sprintf("%v %d", r, status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { r.checkExchange(t, status) })
			})
		}
	}
}

func (r row) checkExchange(t *testing.T, status int) {
	if r.Class == "accepted" {
		accepted(t, with(t, &oauth{}))
		return
	}
	body := fmt.Sprintf(`{"error":%q,"error_description":"LEAK of %s"}`, r.Code, accessToken(0))
	p := with(t, &oauth{status: status, body: body})
	o := unsent(t, p)
	equal(t, "verdict", o.Verdict, providertest.Verdict(r.Class))
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "scope", o.Scope.String(), r.Scope)
	equal(t, "an endpoint of FCM is judged", o.EndpointFault() || o.EndpointProven() || o.CloseConnection, r.Fault)
	equal(t, "forget the token", o.ForgetToken, r.Forget)
	switch o.Verdict {
	case push.Throttled:
		equal(t, "wait", o.RetryAfter, time.Duration(*r.LeastWait)*time.Second)
	case push.Unavailable: // the next exchange is not before then
		equal(t, "wait", o.RetryAfter >= 800*time.Millisecond && o.RetryAfter <= 1200*time.Millisecond, true)
	default:
		equal(t, "reason", o.Reason, r.Code)
		equal(t, "wait", o.RetryAfter, time.Duration(0))
	}
	text := fmt.Sprintf("%+v %v", o, p.Authorize(t.Context()))
	equal(t, "leaks", strings.Contains(text, "LEAK") || strings.Contains(text, "SECRET"), false)
}

func TestAnExchangeThatFailsOtherwiseIsAnOutageOfTheTokenEndpoint(t *testing.T) {
	for name, o := range map[string]*oauth{
		"no network":       {err: errors.New("connection refused")},
		"no JSON":          {status: 200, body: "<html>"},
		"no token":         {status: 200, body: `{"expires_in":3599}`},
		"a redirect":       {status: 307, header: http.Header{"Location": {"https://example.com/"}}},
		"silence":          {latency: time.Hour},
		"an unknown error": {status: 418, body: `{"error":"teapot"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				judged := unsent(t, with(t, o))
				want := push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeCredential, Reason: "OAUTH_UNAVAILABLE", RetryAfter: judged.RetryAfter}
				if name == "an unknown error" {
					want = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential, Reason: "OAUTH_REFUSED"}
				}
				equal(t, "outcome", judged, want)
				equal(t, "exchanges", o.exchanges(), 1)
				equal(t, "ended in time", time.Since(began) <= 10*time.Second, true)
			})
		})
	}
}

func TestTheTokenEndpointsRetryAfterIsHonoured(t *testing.T) {
	for _, status := range []int{429, 503} {
		synctest.Test(t, func(t *testing.T) {
			o := &oauth{status: status, header: http.Header{"Retry-After": {"40"}}}
			p := with(t, o)
			running(t, p)
			equal(t, "wait", unsent(t, p).RetryAfter, 40*time.Second)
			time.Sleep(39 * time.Second)
			unsent(t, p)
			equal(t, "exchanges", o.exchanges(), 1)
			time.Sleep(2 * time.Second)
			equal(t, "exchanges", o.exchanges(), 2)
		})
	}
}

func TestAHundredGoroutinesShareOneExchange(t *testing.T) {
	for name, run := range map[string]bool{"with Run": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oauth{latency: time.Second}
				p := with(t, o)
				if run {
					running(t, p)
				}
				crowd(100, func() { equal(t, "token", accepted(t, p), accessToken(1)) })
				equal(t, "exchanges", o.exchanges(), 1)
			})
		})
	}
}

func TestAHundredGoroutinesShareOneFailedExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{latency: time.Second, status: 503}
		p := with(t, o)
		crowd(100, func() { equal(t, "verdict", unsent(t, p).Verdict, push.Unavailable) })
		equal(t, "exchanges", o.exchanges(), 1)
	})
}

func TestTheTokenIsRenewedAtAboutHalfItsLifeAndNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{latency: 5 * time.Second}
		p := with(t, o)
		running(t, p)
		time.Sleep(10 * time.Second)
		for range 24 * 60 {
			began := time.Now()
			accepted(t, p)
			equal(t, "waited", time.Since(began), time.Duration(0))
			time.Sleep(time.Minute)
		}
		for i, times := 1, o.asked(); i < len(times); i++ {
			if age := times[i].Sub(times[i-1]); age < 26*time.Minute || age > 34*time.Minute {
				t.Errorf("exchange %d came after %v", i, age)
			}
		}
	})
}

func TestAnOutageOfTwentyFiveMinutesIsNotFeltWheneverItBegins(t *testing.T) {
	for start := time.Duration(0); start < time.Hour; start += 4 * time.Minute {
		t.Run(start.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oauth{}
				p := with(t, o)
				running(t, p)
				began := time.Now()
				for time.Since(began) < 2*time.Hour {
					down := time.Since(began) > start && time.Since(began) < start+25*time.Minute
					o.set(func(o *oauth) {
						o.status = map[bool]int{true: 503}[down]
					})
					accepted(t, p)
					time.Sleep(10 * time.Second)
				}
				// 25 minutes of waits that double from a second to a minute.
				equal(t, "few exchanges", o.exchanges() < 5+6+32, true)
			})
		})
	}
}

func TestAnOutageLongerThanTheTokenEndsInATypedOutcomeAndMends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{}
		p := with(t, o)
		running(t, p)
		accepted(t, p)
		o.set(func(o *oauth) { o.status = 503 })
		time.Sleep(59 * time.Minute)
		equal(t, "token", accepted(t, p), accessToken(1))
		time.Sleep(time.Minute)
		judged := unsent(t, p)
		equal(t, "outcome", judged, push.Outcome{
			Verdict: push.Unavailable, Scope: push.ScopeCredential, Reason: "OAUTH_UNAVAILABLE", RetryAfter: judged.RetryAfter,
		})
		equal(t, "wait", judged.RetryAfter > 0 && judged.RetryAfter <= 72*time.Second, true)
		o.set(func(o *oauth) { o.status = 0 })
		time.Sleep(72 * time.Second)
		accepted(t, p)
	})
}

func TestAFirstStartWithoutTheTokenEndpointBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{status: 503}
		p := with(t, o)
		running(t, p)
		for range 600 { // a request every 100 ms for a minute
			equal(t, "verdict", unsent(t, p).Verdict, push.Unavailable)
			time.Sleep(100 * time.Millisecond)
		}
		least, greatest := 800*time.Millisecond, 1200*time.Millisecond
		for i, times := 1, o.asked(); i < len(times); i++ {
			if wait := times[i].Sub(times[i-1]); wait < least || wait > greatest+100*time.Millisecond {
				t.Errorf("exchange %d came after %v, want %v to %v", i, wait, least, greatest)
			}
			least, greatest = min(2*least, 48*time.Second), min(2*greatest, 72*time.Second)
		}
		o.set(func(o *oauth) { o.status = 0 })
		time.Sleep(72 * time.Second)
		accepted(t, p)
	})
}

func TestARefusedTokenIsReplacedOnceForEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{}
		p := with(t, o)
		accepted(t, p)
		time.Sleep(5 * time.Minute)
		crowd(100, func() {
			judged := send(t, p, func(r *wire.Request) (*wire.Response, error) {
				time.Sleep(time.Second) // so that all hundred go out with the same token
				return &wire.Response{Status: 401, Body: []byte(failure(401, "UNAUTHENTICATED", generic401))}, nil
			}, hello())
			equal(t, "retryable", judged.Renewed && judged.Retryable() && !judged.EndpointFault(), true)
		})
		crowd(100, func() { equal(t, "token", accepted(t, p), accessToken(2)) })
		equal(t, "exchanges", o.exchanges(), 2)
	})
}

func TestATokenThatIsRefusedWhenJustFetchedSpeaksAgainstTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{}
		p := with(t, o)
		for range 600 { // every second for ten minutes
			send(t, p, answering(401, failure(401, "UNAUTHENTICATED", generic401)), hello())
			time.Sleep(time.Second)
		}
		equal(t, "exchanges are a minute apart", o.exchanges() >= 9 && o.exchanges() <= 11, true)
	})
}

func TestAThirdPartysTroubleKeepsTheAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{}
		p := with(t, o)
		accepted(t, p)
		time.Sleep(5 * time.Minute)
		judged := send(t, p, answering(401, failure(401, "UNAUTHENTICATED", generic401, fcmError("THIRD_PARTY_AUTH_ERROR"))), hello())
		equal(t, "retryable", judged.Retryable(), false)
		equal(t, "token", accepted(t, p), accessToken(1))
	})
}

func TestACallerWhoLeavesNeitherWaitsNorSpoilsTheExchangeForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{latency: 5 * time.Second}
		p := with(t, o)
		ctx, leave := context.WithCancel(t.Context())
		r := translate(t, p, hello())
		first := make(chan push.Outcome, 1)
		go func() { first <- p.Send(ctx, answering(200, ""), hello(), r) }()
		synctest.Wait()
		second := make(chan string, 1)
		go func() { second <- accepted(t, p) }()
		synctest.Wait()

		began := time.Now()
		leave()
		equal(t, "verdict", (<-first).Verdict, push.Abandoned)
		equal(t, "waited", time.Since(began), time.Duration(0))
		equal(t, "token", <-second, accessToken(2))
	})
}

func TestADeadlineBeforeThereIsATokenSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := with(t, &oauth{latency: 5 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		o := p.Send(ctx, answering(200, ""), hello(), translate(t, p, hello()))
		equal(t, "outcome", o, push.Outcome{Verdict: push.Unsent, Reason: "LOCAL_CANCELLED"})
	})
}

func TestATokenWithoutAStatedLifeIsUsedForFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{life: -1}
		p := with(t, o)
		accepted(t, p)
		time.Sleep(4 * time.Minute)
		equal(t, "token", accepted(t, p), accessToken(1))
		time.Sleep(time.Minute)
		equal(t, "token", accepted(t, p), accessToken(2))
	})
}

func TestAuthorizeFetchesTheTokenThatIsThenUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oauth{}
		p := with(t, o)
		equal(t, "error", p.Authorize(t.Context()), error(nil))
		equal(t, "token", accepted(t, p), accessToken(1))

		down := with(t, &oauth{status: 400, body: `{"error":"invalid_grant","error_description":"LEAK"}`})
		equal(t, "error", fmt.Sprint(down.Authorize(t.Context())), "fcm: no access token: invalid_grant")
	})
}

func TestAFailedExchangeIsLoggedWithoutWhatTheEndpointSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		o := &oauth{status: 400, body: `{"error":"invalid_grant","error_description":"LEAK"}`}
		p, err := fcm.New(fcm.Config{
			Account: account(), TokenClient: &http.Client{Transport: o}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		unsent(t, p)
		o.set(func(o *oauth) { o.err = errors.New("connection refused") })
		time.Sleep(time.Minute)
		unsent(t, p)
		text := log.String()
		equal(t, "lines", strings.Count(text, "\n"), 2)
		equal(t, "names the reasons", strings.Contains(text, "invalid_grant") && strings.Contains(text, "connection refused"), true)
		equal(t, "leaks", strings.Contains(text, "LEAK") || strings.Contains(text, "assertion") || strings.Contains(text, "PRIVATE"), false)
	})
}

func TestTheAccessTokenMayBeIndexedAndTheSharedRequestStaysAsItIs(t *testing.T) {
	p := ready(t)
	r := translate(t, p, hello())
	before := fmt.Sprint(*r, r.Header[:cap(r.Header)])
	crowd(10, func() {
		p.Send(t.Context(), google(func(sent *wire.Request) (*wire.Response, error) {
			equal(t, "header", sent.Header, []wire.Field{
				{Name: "content-type", Value: "application/json; charset=UTF-8"},
				{Name: "authorization", Value: "Bearer " + accessToken(1)},
			})
			return &wire.Response{Status: 200}, nil
		}), hello(), r)
	})
	equal(t, "request", fmt.Sprint(*r, r.Header[:cap(r.Header)]), before)
}

func TestABadAccountIsRefusedWithWhatIsWrongAndNothingOfIt(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	whole, _ := pem.Decode([]byte(pkcs8(theKey())))
	cut := string(pem.EncodeToMemory(&pem.Block{Type: whole.Type, Bytes: whole.Bytes[:200]}))
	user, _ := json.Marshal(map[string]string{"type": "authorized_user", "refresh_token": "SECRET"})
	for want, text := range map[string][]byte{
		"not the JSON":             []byte("SECRET"),
		"type must be":             user,
		"client_email is missing":  account("client_email", ""),
		"must be an https URL":     account("token_uri", "http://SECRET.example.com/token"),
		"private_key is not PEM":   account("private_key", "SECRET"),
		"must be an RSA key":       account("private_key", pkcs8(ec)),
		"is it cut short?":         account("private_key", cut),
		"project: must be a":       account("project_id", ""),
		"project: must be a Fireb": account("project_id", "../SECRET"),
	} {
		_, err := fcm.New(fcm.Config{Account: text})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
			continue
		}
		equal(t, want+" leaks", strings.Contains(err.Error(), "SECRET"), false)
	}
}

func TestTheProjectCanBeAnotherThanTheAccounts(t *testing.T) {
	p, err := fcm.New(fcm.Config{Account: account("token_uri", ""), Project: "123456789012"})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "path", translate(t, p, hello()).Path, "/v1/projects/123456789012/messages:send")
}
