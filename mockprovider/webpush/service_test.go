// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
	"github.com/sluice-push/sluice/mockprovider/script"
	"github.com/sluice-push/sluice/mockprovider/webpush"
	"github.com/sluice-push/sluice/mockprovider/webpush/webpushtest"
)

var flavours = []webpush.Flavour{webpush.Google, webpush.Mozilla, webpush.Apple, webpush.Windows}

// realHosts holds the host names of the real services.
var realHosts = map[webpush.Flavour]string{
	webpush.Google: "fcm.googleapis.com", webpush.Mozilla: "updates.push.services.mozilla.com", webpush.Apple: "web.push.apple.com",
	webpush.Windows: "wns2-par02p.notify.windows.com",
}

// change changes a valid request and the claims of its VAPID token.
type change func(r *h2.Request, claims jwttest.Claims)

func set(name, value string) change {
	return func(r *h2.Request, _ jwttest.Claims) {
		r.Header = slices.DeleteFunc(r.Header, func(f hpack.HeaderField) bool { return f.Name == name })
		r.Header = append(r.Header, h2.Field(name, value))
	}
}

func remove(name string) change {
	return func(r *h2.Request, _ jwttest.Claims) {
		r.Header = slices.DeleteFunc(r.Header, func(f hpack.HeaderField) bool { return f.Name == name })
	}
}

func claim(name string, value any) change {
	return func(_ *h2.Request, claims jwttest.Claims) { claims[name] = value }
}

func body(text string) change { return func(r *h2.Request, _ jwttest.Claims) { r.Body = []byte(text) } }

func path(p string) change { return func(r *h2.Request, _ jwttest.Claims) { r.Path = p } }

func method(m string) change { return func(r *h2.Request, _ jwttest.Claims) { r.Method = m } }

// push returns a valid push to the endpoint with changes.
func push(t *testing.T, endpoint string, encrypted []byte, changes ...change) *h2.Request {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	r := &h2.Request{Method: "POST", Path: u.RequestURI(), Authority: u.Host, Body: encrypted}
	for _, f := range [][2]string{{"ttl", "60"}, {"urgency", "normal"}, {"content-encoding", "aes128gcm"}} {
		r.Header = append(r.Header, h2.Field(f[0], f[1]))
	}
	claims := jwttest.Claims{"exp": time.Now().Add(time.Hour).Unix(), "sub": "mailto:ops@example.com"}
	for _, c := range changes {
		c(r, claims)
	}
	if claims["aud"] == nil {
		claims["aud"] = "https://" + r.Authority
	}
	if !r.Has("authorization") {
		r.Header = append(r.Header, h2.Field("authorization", webpushtest.Authorization(t, claims)))
	}
	return r
}

// openEndpoint is an active subscription whose messages cannot be decrypted.
const openEndpoint = "https://mock.example/push/JzLQ3raZJfFBR0"

func subscribe(t *testing.T, s *webpush.Service, flavour webpush.Flavour, serverKey string) webpush.Subscription {
	t.Helper()
	subscription, err := s.Subscribe("https://mock.example", flavour, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	return subscription
}

// encrypt encrypts a message for a subscription.
func encrypt(t *testing.T, to webpush.Subscription, text string, padding int) []byte {
	t.Helper()
	return webpushtest.Encrypt(t, to.Keys.P256DH, to.Keys.Auth, text, padding)
}

func get(r h2.Response, name string) string { return (&h2.Request{Header: r.Header}).Get(name) }

func TestPushesAreChecked(t *testing.T) {
	s := webpush.New()
	for name, c := range map[string]struct {
		status int
		change change
	}{
		"valid":           {201, path("/push/JzLQ3raZJfFBR0")},
		"empty":           {201, body("")},
		"no header":       {400, body("cipher")},
		"bad sender key":  {400, body(string(webpushtest.RFC8291(t)[:21]) + strings.Repeat("x", 123))},
		"no TTL":          {400, remove("ttl")},
		"bad TTL":         {400, set("ttl", "-1")},
		"bad urgency":     {400, set("urgency", "now")},
		"long topic":      {400, set("topic", strings.Repeat("x", 33))},
		"bad topic":       {400, set("topic", "a b")},
		"other encoding":  {400, set("content-encoding", "aesgcm")},
		"too large":       {413, body(strings.Repeat("x", 4097))},
		"no VAPID":        {401, set("authorization", "none")},
		"broken VAPID":    {401, set("authorization", "vapid t=a.b.c, k=AAAA")},
		"other audience":  {401, claim("aud", "https://example.com")},
		"expired":         {401, claim("exp", time.Now().Add(-time.Second).Unix())},
		"long lifetime":   {401, claim("exp", time.Now().Add(25*time.Hour).Unix())},
		"no contact":      {401, claim("sub", "me")},
		"no subscription": {404, path("/other")},
		"not POST":        {405, method("PUT")},
	} {
		r := push(t, openEndpoint, webpushtest.RFC8291(t), c.change)
		got := s.Respond(r)
		if got.Status != c.status || got.Accepted != (c.status == 201) || (got.Reason == "") != got.Accepted {
			t.Errorf("%s: got %d %q %s, want %d", name, got.Status, got.Reason, got.Body, c.status)
		}
		if c.status == 201 && (get(got, "location") != "https://mock.example/message/"+r.ID || get(got, "ttl") != "60") {
			t.Errorf("%s: got %v", name, got.Header)
		}
	}
}

func TestMessageIsDecrypted(t *testing.T) {
	s := webpush.New()
	for _, flavour := range flavours {
		to := subscribe(t, s, flavour, "")
		for _, c := range []struct {
			text    string
			padding int
		}{{"Hello", 0}, {"", 0}, {"Grüße, 世界 🌍", 100}, {strings.Repeat("x", 3993), 0}, {"padded to the last byte", 3993 - 23}} {
			r := push(t, to.Endpoint, encrypt(t, to, c.text, c.padding))
			if got := s.Respond(r); got.Status != 201 {
				t.Fatalf("%s: got %d %s", flavour, got.Status, got.Body)
			}
			if r.Plaintext != c.text || r.Undecryptable != "" || !strings.HasSuffix(to.Endpoint, r.Token) {
				t.Errorf("%s: got %q (%s), want %q", flavour, r.Plaintext, r.Undecryptable, c.text)
			}
		}
	}
}

func TestMessageForAnotherBrowserIsAcceptedAndUndecryptable(t *testing.T) {
	s := webpush.New()
	to, other := subscribe(t, s, webpush.Mozilla, ""), subscribe(t, s, webpush.Mozilla, "")
	r := push(t, to.Endpoint, encrypt(t, other, "secret", 0))
	if got := s.Respond(r); got.Status != 201 {
		t.Fatalf("got %d %s, although a service has no key", got.Status, got.Body)
	}
	if r.Plaintext != "" || !strings.Contains(r.Undecryptable, "not encrypted for this subscription") {
		t.Errorf("got %q, %q", r.Plaintext, r.Undecryptable)
	}
}

func TestEachServiceHasItsOwnErrors(t *testing.T) {
	s := webpush.New()
	_, serverKey := webpushtest.VAPIDKey(t)
	none := func(*h2.Request, jwttest.Claims) {}
	for _, c := range []struct {
		name                   string
		google, mozilla, apple string // status, and a part of the body
		change                 change
	}{
		{"no TTL", "400 TTL", `400 "errno":111`, "400 BadTtl", remove("ttl")},
		{"bad TTL", "400 TTL", `400 "errno":112`, "400 BadTtl", set("ttl", "soon")},
		{"bad urgency", "400 urgency", `400 "errno":110`, "400 BadUrgency", set("urgency", "now")},
		{"bad topic", "400 topic", `400 "errno":113`, "400 BadWebPushTopic", set("topic", strings.Repeat("x", 33))},
		{"too large", "413 large", `413 "errno":104`, "413 PayloadTooLarge", body(strings.Repeat("x", 4097))},
		{"old encoding", "400 encoding", `400 "errno":110`, "400 BadWebPushRequest", set("content-encoding", "aesgcm")},
		{"not encrypted", "400 encoding", `400 "errno":110`, "400 BadWebPushRequest", body("hello")},
		{"no VAPID", "400 UnauthorizedRegistration", `401 "errno":109`, "403 BadAuthorizationHeader", set("authorization", "none")},
		{"broken token", "403 JWT", `401 "errno":109`, "403 BadJwtToken", set("authorization", "vapid t=a.b.c, k="+serverKey)},
		{"broken key", "403 key", `401 "errno":109`, "403 BadVapidPublicKey", set("authorization", "vapid t=a.b.c, k=AAAA")},
		{"other audience", "403 JWT", `401 "errno":109`, "403 BadJwtToken", claim("aud", "https://example.com")},
		{"expired", "403 JWT", `401 "errno":109`, "403 BadJwtToken", claim("exp", time.Now().Unix()-1)},
		{"other key", "403 do not correspond", `401 "errno":109`, "400 VapidPkHashMismatch", none},
		{"not POST", "405 POST", "405 ", "405 MethodNotAllowed", method("PUT")},
		{"no endpoint", "404 endpoint", `404 "errno":102`, "404 BadPath", path("/no/such/path")},
		{"unknown", "404 expired", `404 "errno":102`, "410 Unregistered", func(r *h2.Request, _ jwttest.Claims) { r.Path += "x" }},
	} {
		for flavour, want := range map[webpush.Flavour]string{webpush.Google: c.google, webpush.Mozilla: c.mozilla, webpush.Apple: c.apple} {
			to := subscribe(t, s, flavour, serverKey)
			got := s.Respond(push(t, to.Endpoint, encrypt(t, to, "Hello", 0),
				func(r *h2.Request, _ jwttest.Claims) { r.Authority = realHosts[flavour] }, c.change))
			if status, text, _ := strings.Cut(want, " "); status != strconv.Itoa(got.Status) || !strings.Contains(string(got.Body), text) {
				t.Errorf("%s, %s: got %d %s, want %s", flavour, c.name, got.Status, got.Body, want)
			}
		}
	}
}

func TestAppleDecodesTopics(t *testing.T) {
	s := webpush.New()
	for topic, valid := range map[string]bool{"": true, "c": false, "goal": true, "score": false, "scores": true, "collie-update": false, strings.Repeat("a", 29): false} {
		for _, flavour := range flavours {
			to := subscribe(t, s, flavour, "")
			got := s.Respond(push(t, to.Endpoint, encrypt(t, to, "Hello", 0), set("topic", topic)))
			if want := valid || flavour != webpush.Apple; (got.Status == 201) != want || !want && got.Reason != "BadWebPushTopic" {
				t.Errorf("%s, %q: got %d %s", flavour, topic, got.Status, got.Body)
			}
		}
	}
}

func TestAppleRejectsContactsThatAreNotPublic(t *testing.T) {
	s := webpush.New()
	for contact, public := range map[string]bool{
		"mailto:ops@localhost": false, "https://localhost:8080/x": false, "mailto:ops@app.local": false, "mailto:ops@app.invalid": false,
		"mailto:ops@example.com?subject=x": true, "https://push.example.com/contact": true,
	} {
		for _, flavour := range flavours {
			to := subscribe(t, s, flavour, "")
			got := s.Respond(push(t, to.Endpoint, encrypt(t, to, "Hello", 0), claim("sub", contact)))
			if want := public || flavour != webpush.Apple; (got.Status == 201) != want || !want && got.Reason != "BadJwtToken" {
				t.Errorf("%s, %q: got %d %s", flavour, contact, got.Status, got.Body)
			}
		}
	}
}

func TestWindowsHasItsOwnHeaders(t *testing.T) {
	s := webpush.New()
	to := subscribe(t, s, webpush.Windows, "")
	for name, c := range map[string]struct {
		status      int
		description string
		changes     []change
	}{
		"accepted":             {201, "", nil},
		"TTL 0":                {400, "Ttl value conflicts with X-WNS-Cache-Policy.", []change{set("ttl", "0")}},
		"TTL 0, not cached":    {201, "", []change{set("ttl", "0"), set("x-wns-cache-policy", "no-cache")}},
		"a TTL and not cached": {400, "Ttl value conflicts with X-WNS-Cache-Policy.", []change{set("x-wns-cache-policy", "no-cache")}},
		"a TTL and cached":     {201, "", []change{set("x-wns-cache-policy", "cache")}},
		"no TTL":               {400, "The TTL header is missing.", []change{remove("ttl")}},
		"unknown":              {404, "The channel URI is not recognized.", []change{path("/w/?token=x")}},
	} {
		got := s.Respond(push(t, to.Endpoint, encrypt(t, to, "Hello", 0), c.changes...))
		status := map[bool]string{true: "received", false: "dropped"}[c.status == 201]
		if got.Status != c.status || get(got, "x-wns-status") != status || get(got, "x-wns-notificationstatus") != status ||
			get(got, "x-wns-error-description") != c.description || len(got.Body) != 0 {
			t.Errorf("%s: got %d %v", name, got.Status, got.Header)
		}
	}
	got := s.RespondFault(push(t, to.Endpoint, nil), &script.Fault{Status: 406, RetryAfter: time.Minute})
	if got.Status != 406 || get(got, "x-wns-status") != "appthrottled" || get(got, "retry-after") != "60" {
		t.Errorf("throttled: got %d %v", got.Status, got.Header)
	}
}

func TestSenderIsServiceAndKey(t *testing.T) {
	s := webpush.New()
	senders := map[string]bool{}
	signed := push(t, openEndpoint, nil).Header
	for _, flavour := range flavours {
		for range 2 {
			to := subscribe(t, s, flavour, "")
			r := push(t, to.Endpoint, nil)
			r.Header = signed
			s.Find(r)
			senders[r.Sender] = true
			if !strings.HasPrefix(r.Sender, string(flavour)+" ") || r.Token == "" {
				t.Errorf("got sender %q, token %q", r.Sender, r.Token)
			}
		}
	}
	if len(senders) != len(flavours) {
		t.Errorf("got %v", senders)
	}
	r := push(t, openEndpoint, nil, remove("authorization"), set("authorization", "none"))
	if s.Find(r); r.Sender != "" {
		t.Errorf("got %q without a key", r.Sender)
	}
}

func TestSubscriptionOfTheServerKeyIsAccepted(t *testing.T) {
	s := webpush.New()
	key, public := webpushtest.VAPIDKey(t)
	to := subscribe(t, s, webpush.Google, public)
	token := jwttest.ES256(t, key, jwttest.Claims{"alg": "ES256"},
		jwttest.Claims{"aud": "https://mock.example", "exp": time.Now().Add(time.Hour).Unix(), "sub": "https://example.com"})
	r := push(t, to.Endpoint, encrypt(t, to, "Hello", 0), set("authorization", "vapid k="+public+", t="+token))
	if got := s.Respond(r); got.Status != 201 || r.Plaintext != "Hello" {
		t.Errorf("got %d %s, %q", got.Status, got.Body, r.Plaintext)
	}
}

func TestEndedSubscriptionIsGone(t *testing.T) {
	s := webpush.New()
	for _, flavour := range flavours {
		to := subscribe(t, s, flavour, "")
		if !s.Unsubscribe(to.Endpoint) || s.Unsubscribe("https://example.com/nothing") || s.Unsubscribe("%") {
			t.Error("Unsubscribe reports the wrong result")
		}
		if got := s.Respond(push(t, to.Endpoint, encrypt(t, to, "Hello", 0))); got.Status != 410 {
			t.Errorf("%s: got %d %s", flavour, got.Status, got.Body)
		}
	}
}

func TestSubscribeRejectsUnknownFlavourAndKey(t *testing.T) {
	for flavour, serverKey := range map[webpush.Flavour]string{"wns": "", webpush.Apple: "AAAA", webpush.Google: "!"} {
		if s, err := webpush.New().Subscribe("https://mock.example", flavour, serverKey); err == nil {
			t.Errorf("%s, %q: got %+v", flavour, serverKey, s)
		}
	}
}

func TestFaultHasTheFormatOfEachService(t *testing.T) {
	s := webpush.New()
	fault := script.Fault{Status: 429, RetryAfter: 30 * time.Second}
	for flavour, want := range map[webpush.Flavour]string{
		webpush.Google: "status 429\n", webpush.Mozilla: "", webpush.Apple: `{"reason":"TooManyRequests"}`,
	} {
		to := subscribe(t, s, flavour, "")
		got := s.RespondFault(push(t, to.Endpoint, nil), &fault)
		if got.Status != 429 || get(got, "retry-after") != "30" || string(got.Body) != want {
			t.Errorf("%s: got %d %v %q", flavour, got.Status, got.Header, got.Body)
		}
	}
	got := s.RespondFault(push(t, openEndpoint, nil), &script.Fault{Status: 410, Reason: "errno 103"})
	if got.Status != 410 || !strings.Contains(string(got.Body), `"errno":103`) || got.Reason != "errno 103" {
		t.Errorf("errno 103: got %d %q %s", got.Status, got.Reason, got.Body)
	}
	if got := s.RespondFault(push(t, openEndpoint, nil), &script.Fault{Status: 201}); got.Status != 201 || !got.Accepted {
		t.Errorf("status 201: got %+v", got)
	}
}
