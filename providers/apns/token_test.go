// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// recordingAPNs responds with a settable status and reason. It records the distinct provider tokens
// in the order in which they first arrive; a send with the old token can arrive after one with the
// new token.
type recordingAPNs struct {
	mu     sync.Mutex
	tokens []string
	status int
	reason string
}

func (a *recordingAPNs) do(r *wire.Request) (*wire.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if value := (&wire.Response{Header: r.Header}).Get("authorization"); !slices.Contains(a.tokens, value) {
		a.tokens = append(a.tokens, value)
	}
	return &wire.Response{Status: a.status, Body: []byte(`{"reason":"` + a.reason + `"}`)}, nil
}

// setResponse sets the following responses.
func (a *recordingAPNs) setResponse(status int, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status, a.reason = status, reason
}

// issuedTimes returns the iat of every recorded token.
func (a *recordingAPNs) issuedTimes(t *testing.T) (times []time.Time) {
	t.Helper()
	for _, value := range a.tokens {
		_, claims := verifyToken(t, value)
		at, err := claims.GetIssuedAt()
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, at.Time)
	}
	return times
}

// verifyToken checks a provider token as APNs does.
func verifyToken(t *testing.T, authorization string) (*jwt.Token, jwt.MapClaims) {
	t.Helper()
	text, found := strings.CutPrefix(authorization, "bearer ")
	if !found {
		t.Fatal("authorization does not begin with bearer")
	}
	claims := jwt.MapClaims{}
	parsed, err := jwt.ParseWithClaims(text, claims, func(*jwt.Token) (any, error) { return &testKey().PublicKey, nil },
		jwt.WithValidMethods([]string{"ES256"}))
	if err != nil {
		t.Fatal(err)
	}
	return parsed, claims
}

func TestProviderTokenClaims(t *testing.T) {
	conn := &recordingAPNs{status: 200}
	before := time.Now().Unix()
	send(t, newKeyProvider(t), conn.do, newNotification())
	parsed, claims := verifyToken(t, conn.tokens[0])
	equal(t, "header", parsed.Header, map[string]any{"alg": "ES256", "kid": "ABC123DEFG", "typ": "JWT"})
	equal(t, "iss", claims["iss"], any("DEF123GHIJ"))
	equal(t, "claims", len(claims), 2)
	if iat := int64(claims["iat"].(float64)); iat < before || iat > time.Now().Unix() {
		t.Errorf("iat is %d, now is %d", iat, before)
	}
}

func TestSignAsChangesNothing(t *testing.T) {
	signer := newSigner(t)
	field, err := signer.SignAs("OTHERKEY01", "OTHERTEAM1", time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	parsed, claims := verifyToken(t, field.Value)
	if parsed.Header["kid"] != "OTHERKEY01" || claims["iss"] != "OTHERTEAM1" || claims["iat"] != 1_700_000_000.0 || field.Name != "authorization" || !field.NeverIndexed {
		t.Errorf("%v %v", parsed.Header, claims)
	}
}

func TestConcurrentSendsShareOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &recordingAPNs{status: 200}
		p := newKeyProvider(t)
		runConcurrently(t, 100, func() { send(t, p, conn.do, newNotification()) })
		equal(t, "tokens", len(conn.tokens), 1)
	})
}

// runConcurrently calls do n times concurrently and waits for all calls.
func runConcurrently(t *testing.T, n int, do func()) {
	var all sync.WaitGroup
	for range n {
		all.Go(do)
	}
	testwait.Call(t, all.Wait, "the end of all calls")
}

func TestAppsSharingSignerShareToken(t *testing.T) {
	conn := &recordingAPNs{status: 200}
	s := newSigner(t)
	send(t, newProvider(t, apns.Config{Topic: "com.example.one", Signer: s}), conn.do, newNotification())
	send(t, newProvider(t, apns.Config{Topic: "com.example.two", Signer: s}), conn.do, newNotification())
	equal(t, "tokens", len(conn.tokens), 1)
}

func TestTokenIsReplacedBetween40And50Minutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &recordingAPNs{status: 200}
		p := newKeyProvider(t)
		for range 24 * 60 {
			send(t, p, conn.do, newNotification())
			time.Sleep(time.Minute)
		}
		times := conn.issuedTimes(t)
		for i := 1; i < len(times); i++ {
			if age := times[i].Sub(times[i-1]); age < 40*time.Minute || age > 51*time.Minute {
				t.Errorf("token %d replaced a token of age %v", i, age)
			}
		}
		equal(t, "tokens in a day", len(times) > 24*60/51 && len(times) <= 24*60/40+1, true)
	})
}

func TestExpiredTokenIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &recordingAPNs{status: 200}
		p := newKeyProvider(t)
		send(t, p, conn.do, newNotification())
		time.Sleep(25 * time.Minute)
		conn.setResponse(403, "ExpiredProviderToken")
		runConcurrently(t, 100, func() {
			o := send(t, p, func(r *wire.Request) (*wire.Response, error) {
				response, err := conn.do(r)
				time.Sleep(time.Second) // so that all sends use the same token
				return response, err
			}, newNotification())
			equal(t, "retryable", o.Retryable() && o.Renewed && o.CloseConnection, true)
		})
		conn.setResponse(200, "")
		send(t, p, conn.do, newNotification())
		equal(t, "tokens", len(conn.tokens), 2)
	})
}

func TestExpiredTokenYoungerThan20MinutesIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &recordingAPNs{status: 403, reason: "ExpiredProviderToken"}
		p := newKeyProvider(t)
		for range 20 {
			o := send(t, p, conn.do, newNotification())
			equal(t, "retryable", o.Retryable(), false)
			time.Sleep(time.Minute - time.Millisecond)
		}
		equal(t, "tokens", len(conn.tokens), 1)
		time.Sleep(time.Second)
		equal(t, "retryable", send(t, p, conn.do, newNotification()).Retryable(), true)
		conn.setResponse(200, "")
		send(t, p, conn.do, newNotification())
		equal(t, "tokens", len(conn.tokens), 2)
	})
}

func TestTooManyTokenUpdatesKeepsTokenFor20Minutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &recordingAPNs{status: 200}
		p := newKeyProvider(t)
		send(t, p, conn.do, newNotification())
		time.Sleep(35 * time.Minute)
		conn.setResponse(429, "TooManyProviderTokenUpdates")
		send(t, p, conn.do, newNotification())
		conn.setResponse(403, "ExpiredProviderToken")
		time.Sleep(19 * time.Minute) // 54 minutes old: it would have been replaced otherwise
		equal(t, "retryable", send(t, p, conn.do, newNotification()).Retryable(), false)
		equal(t, "tokens", len(conn.tokens), 1)
		time.Sleep(5 * time.Minute) // but not longer than it is valid
		conn.setResponse(200, "")
		send(t, p, conn.do, newNotification())
		equal(t, "tokens", len(conn.tokens), 2)
	})
}

func TestTokensAreAtLeast20MinutesApart(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := mathrand.New(mathrand.NewPCG(seed, 0))
				conn := &recordingAPNs{}
				p := newKeyProvider(t)
				for range 600 {
					switch random.IntN(4) {
					case 0:
						conn.setResponse(403, "ExpiredProviderToken")
					case 1:
						conn.setResponse(429, "TooManyProviderTokenUpdates")
					case 2:
						conn.setResponse(403, "InvalidProviderToken")
					default:
						conn.setResponse(200, "")
					}
					runConcurrently(t, 3, func() { send(t, p, conn.do, newNotification()) })
					time.Sleep(time.Duration(random.Int64N(int64(2 * time.Minute))))
				}
				times := conn.issuedTimes(t)
				for i := 1; i < len(times); i++ { // iat is in whole seconds
					if age := times[i].Sub(times[i-1]); age < 20*time.Minute-time.Second || age > time.Hour {
						t.Errorf("token %d replaced a token of age %v", i, age)
					}
				}
			})
		})
	}
}

func TestCertificateSendsNoProviderToken(t *testing.T) {
	conn := &recordingAPNs{status: 200}
	p := newCertificateProvider(t)
	send(t, p, conn.do, newNotification())
	equal(t, "authorization", conn.tokens, []string{""})
	equal(t, "authorize", p.Authorize(t.Context()), error(nil))
	for _, reason := range []string{"ExpiredProviderToken", "TooManyProviderTokenUpdates"} {
		conn.setResponse(403, reason)
		equal(t, reason, send(t, p, conn.do, newNotification()).Renewed, false)
	}
}

func TestAuthorizeMintsTokenForLaterSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKeyProvider(t)
		equal(t, "error", p.Authorize(t.Context()), error(nil))
		began := time.Now()
		time.Sleep(time.Minute)
		conn := &recordingAPNs{status: 200}
		send(t, p, conn.do, newNotification())
		equal(t, "iat", conn.issuedTimes(t)[0].Unix(), began.Unix())
	})
}

func TestSendDoesNotModifyRequest(t *testing.T) {
	p := newKeyProvider(t)
	n := newNotification()
	r := translate(t, p, n)
	r.Header = append(r.Header, wire.Field{})[:len(r.Header)] // with spare capacity
	before := fmt.Sprint(*r, r.Header[:cap(r.Header)])
	runConcurrently(t, 10, func() { providertest.Send(t.Context(), p, respond(200, ""), n, r) })
	equal(t, "request", fmt.Sprint(*r, r.Header[:cap(r.Header)]), before)
}

func TestProviderTokenIsNotIndexed(t *testing.T) {
	send(t, newKeyProvider(t), func(r *wire.Request) (*wire.Response, error) {
		equal(t, "last field", r.Header[len(r.Header)-1].Name, "authorization")
		equal(t, "once", r.Header[len(r.Header)-1].NeverIndexed, true)
		return &wire.Response{Status: 200}, nil
	}, newNotification())
}

func TestRejectedFreshTokenLogsClockErrorOnce(t *testing.T) {
	for _, reason := range []string{"ExpiredProviderToken", "InvalidProviderToken"} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			s, err := apns.NewSigner(apns.SignerConfig{
				Key: encodeP8(testKey()), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			p := newProvider(t, apns.Config{Topic: topic, Signer: s})
			for range 10 {
				send(t, p, respond(403, `{"reason":"`+reason+`"}`), newNotification())
			}
			equal(t, "warnings", strings.Count(log.String(), "clock"), 1)
			equal(t, "level", strings.Contains(log.String(), "level=ERROR"), true)
			equal(t, "secrets", strings.Contains(log.String(), "bearer") || strings.Contains(log.String(), deviceToken), false)
		})
	}
}

func TestInvalidKeyErrorsHoldNoSecret(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	good := encodeP8(testKey())
	block, _ := pem.Decode(good)
	for name, c := range map[string]struct {
		cfg  apns.SignerConfig
		want string
	}{
		"no key":        {apns.SignerConfig{}, "it is empty"},
		"not PEM":       {apns.SignerConfig{Key: []byte("SECRETSECRET")}, "must have a PEM block PRIVATE KEY"},
		"a certificate": {apns.SignerConfig{Key: encodePEM("CERTIFICATE")}, "set cert_file and cert_key_file"},
		"encrypted":     {apns.SignerConfig{Key: encodePEM("ENCRYPTED PRIVATE KEY")}, "openssl pkey -in"},
		"SEC 1":         {apns.SignerConfig{Key: append(encodePEM("EC PARAMETERS"), encodePEM("EC PRIVATE KEY")...)}, "openssl pkcs8 -topk8 -nocrypt"},
		"a public key":  {apns.SignerConfig{Key: encodePEM("PUBLIC KEY")}, "a public key"},
		"PKCS #12":      {apns.SignerConfig{Key: []byte("\x30\x82\x01\x00\x02\x01\x03SECRET")}, "openssl pkcs12"},
		"JSON":          {apns.SignerConfig{Key: []byte(`{"private_key":"SECRET"}`)}, "JSON"},
		"truncated":     {apns.SignerConfig{Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes[:50]})}, "PKCS #8"},
		"RSA":           {apns.SignerConfig{Key: encodeP8(rsaKey)}, "P-256"},
		"P-384":         {apns.SignerConfig{Key: encodeP8(p384)}, "curve key on P-384"},
		"key ID":        {apns.SignerConfig{Key: good, KeyID: "abc123defg", TeamID: "DEF123GHIJ"}, "key_id"},
		"team ID":       {apns.SignerConfig{Key: good, KeyID: "ABC123DEFG", TeamID: "DEF123GHIJK"}, "team_id"},
	} {
		_, err := apns.NewSigner(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
			continue
		}
		equal(t, name+" leaks", strings.Contains(err.Error(), "SECRET"), false)
	}
}

func encodePEM(kind string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("SECRETSECRETSECRET")})
}

func TestKeyFileMayHaveByteOrderMark(t *testing.T) {
	good := encodeP8(testKey())
	utf16 := []byte{0xff, 0xfe}
	for _, c := range good {
		utf16 = append(utf16, c, 0)
	}
	for _, key := range [][]byte{append([]byte("\ufeff"), good...), utf16, bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n"))} {
		if _, err := apns.NewSigner(apns.SignerConfig{Key: key, KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ"}); err != nil {
			t.Error(err)
		}
	}
}

func TestPrintedSignerHidesKey(t *testing.T) {
	s := newSigner(t)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "signer", s)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "signer", s)
	text := fmt.Sprintf("%v %+v %#v %s", s, s, s, log.String())
	equal(t, "shows the key", strings.Contains(text, testKey().X.String()) || strings.Contains(text, "ecdsa"), false)
	equal(t, "names the key", strings.Count(text, "ABC123DEFG") >= 4, true)
}

func TestConfigErrorsNameField(t *testing.T) {
	s := newSigner(t)
	for want, cfg := range map[string]apns.Config{
		"topic: missing": {Signer: s},
		"topic: must be": {Topic: "com.example/app", Signer: s},
	} {
		if _, err := apns.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	equal(t, "verdict", send(t, newProvider(t, apns.Config{}), respond(200, ""), newNotification()).Verdict, push.Accepted)
}
