// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// FuzzJudge checks that every response has a reason from the closed set and a verdict that fits its
// status.
func FuzzJudge(f *testing.F) {
	known := map[string]bool{"": true, "UnknownReason": true, push.IntermediaryResponse: true}
	for _, word := range []string{
		"BadRequest", "Unauthorized", "Forbidden", "NotFound", "MethodNotAllowed", "Gone", "PayloadTooLarge", "TooManyRequests",
		"InternalServerError", "BadGateway", "ServiceUnavailable", "GatewayTimeout",
	} {
		known[word] = true
	}
	for _, r := range loadRows(f) {
		known[r.Code] = true
		for _, status := range r.statuses() {
			for _, conn := range r.responses(status) {
				response, _ := conn(nil)
				response.Header = append(response.Header, wire.Field{})
				f.Add(status, response.Body, response.Header[0].Name, response.Header[0].Value)
			}
		}
	}
	p, n := newProvider(f), newNotification()
	r := translate(f, n)
	f.Fuzz(func(t *testing.T, status int, body []byte, name, value string) {
		o := providertest.Send(t.Context(), p, respond(status, string(body), wire.Field{Name: name, Value: value}), n, r)
		switch {
		case !known[o.Reason]:
			t.Errorf("reason %q is not in the table", o.Reason)
		case o.Reason == push.IntermediaryResponse:
			if o != push.Intermediary(status, o.RetryAfter) {
				t.Errorf("%+v", o)
			}
		case (o.Verdict == push.Accepted) != (status/100 == 2):
			t.Errorf("status %d is %v", status, o.Verdict)
		case o.ForgetToken && status != 400 && status != 403 && status != 404 && status != 410:
			t.Errorf("ForgetToken is set for status %d", status)
		case o.EndpointFault() && status/100 >= 2 && status/100 <= 4:
			t.Errorf("status %d is an endpoint fault", status)
		case o.Verdict == push.Throttled && o.RetryAfter <= 0:
			t.Error("Throttled without RetryAfter")
		case strings.Contains(o.ProviderID, "SECRET"), len(o.ProviderID) > 256:
			t.Errorf("ProviderID is %q", o.ProviderID)
		}
	})
}

// FuzzTranslate checks that every request goes to a known push service, and that the browser
// decrypts the original text.
func FuzzTranslate(f *testing.F) {
	good := testBrowser().subscription(endpoint)
	f.Add(endpoint, good.Keys.P256dh, good.Keys.Auth, "Hello", "", "TTL", "60", "score", int64(time.Hour))
	f.Add("https://fcm.googleapis.com:443/fcm/send/a:b?x=%0a", good.Keys.P256dh+"=", good.Keys.Auth+"==", "", "raw \xff", "Urgency", "very-low", "a b", int64(0))
	f.Add("https://user@web.push.apple.com\\.evil.example/Q", "BA", "", "\xff", "", "Topic", "x\r\ny: z", "", int64(-1))
	f.Add("https://[::ffff:127.0.0.1]/x", good.Keys.P256dh, good.Keys.Auth, "", "x", "", "", strings.Repeat("a", 33), int64(1))
	p := newProvider(f)
	f.Fuzz(func(t *testing.T, to, p256dh, auth, title, payload, name, value, collapse string, ttl int64) {
		n := &push.Notification{
			AcceptedAt: time.Now(), Title: title, CollapseKey: collapse,
			Target:  push.Target{Subscription: &push.Subscription{Endpoint: to, Keys: push.SubscriptionKeys{P256dh: p256dh, Auth: auth}}},
			WebPush: &push.WebPushBlock{Payload: payload, Headers: map[string]string{}},
		}
		if name != "" {
			n.WebPush.Headers[name] = value
		}
		if ttl >= 0 {
			n.TTL = (*push.Duration)(&ttl)
		}
		r, err := p.Translate(n)
		if err != nil {
			if refused, ok := errors.AsType[*push.FieldError](err); !ok || refused.Reason == "" || refused.Allowed == "" {
				t.Errorf("%v", err)
			}
			return
		}
		origin, err := p.Origin(n)
		u, parseErr := url.Parse(origin)
		if err != nil || parseErr != nil || u.Scheme != "https" || u.Path != "" || !isKnownHost(u.Host) {
			t.Fatalf("%q goes to %q: %v", to, origin, err)
		}
		if !strings.HasPrefix(r.Path, "/") {
			t.Errorf("path is %q", r.Path)
		}
		for _, h := range append(r.Header, wire.Field{Name: ":path", Value: r.Path}) {
			if strings.ContainsFunc(h.Value, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Errorf("%s is %q", h.Name, h.Value)
			}
		}
		if text, err := testBrowser().decrypt(r.Body); p256dh == good.Keys.P256dh && auth == good.Keys.Auth && (err != nil || payload != "" && text != payload) {
			t.Errorf("%q arrives as %q: %v", payload, text, err)
		}
	})
}

// isKnownHost reports whether host is one of KnownServices.
func isKnownHost(host string) bool {
	for _, pattern := range webpush.KnownServices {
		if below, isSuffix := strings.CutPrefix(pattern, "*"); pattern == host || isSuffix && strings.HasSuffix(host, below) {
			return true
		}
	}
	return false
}

// FuzzParseKey checks that no input causes a panic, that a parsed key survives a round trip, and
// that no error contains the input.
func FuzzParseKey(f *testing.F) {
	private, err := testKey().PEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(private)
	f.Add(private[:len(private)/2])
	f.Add([]byte(strings.Repeat("A", 42) + "E="))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := webpush.ParseKey(text)
		if err != nil {
			if len(text) > 20 && strings.Contains(err.Error(), string(text)) {
				t.Errorf("error contains the input: %v", err)
			}
			return
		}
		written, err := key.PEM()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := webpush.ParseKey(written); err != nil || again.Public() != key.Public() {
			t.Errorf("the key changes in a round trip: %v", err)
		}
	})
}
