// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

func to(token string) string {
	return `{"message":{"token":"` + token + `","notification":{"title":"Hello","body":"World"}}}`
}

func TestAGoodMessageIsAcceptedByName(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	name := regexp.MustCompile(`^\{\n  "name": "projects/demo-project/messages/0:[0-9]{16}%[0-9a-f]{16}"\n\}\n$`)
	for _, text := range []string{
		to(fcmToken),
		`{"message":{"topic":"news","data":{"k":"v"}}}`,
		`{"message":{"condition":"'a' in topics && !('b' in topics)"}}`,
		`{"message":{"token":"` + fcmToken + `","android":{"ttl":"3600s","priority":"high","collapseKey":"k",
			"notification":{"color":"#00ff00","visibility":"PRIVATE","light_settings":{"color":{"red":0.5}},"vibrate_timings":["3.5s"]}}}}`,
		`{"message":{"token":"` + fcmToken + `","apns":{"headers":{"apns-priority":"5"},"payload":{"aps":{"badge":1}}},
			"webpush":{"fcm_options":{"link":"https://example.com"}},"fcmOptions":{"analyticsLabel":"a"}}}`,
	} {
		got := do(t, client(t, m), message(t, m, access, text))
		if got.status != 200 || !name.MatchString(got.body) || got.header.Get("content-type") != "application/json; charset=UTF-8" {
			t.Errorf("%s\ngot %d %s", text, got.status, got.body)
		}
	}
}

func TestValidateOnlyChecksTheTokenAndSendsNothing(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	got := do(t, client(t, m), message(t, m, access, `{"validate_only":true,"message":{"token":"`+fcmToken+`"}}`))
	if got.status != 200 || got.object["name"] != "projects/demo-project/messages/fake_message_id" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	got = do(t, client(t, m), message(t, m, access, `{"validateOnly":true,"message":{"token":"x:dead"}}`))
	if got.status != 404 {
		t.Errorf("dead token: got %d %s", got.status, got.body)
	}
}

// verdict is what a client makes of an error: FcmError's code, else ErrorInfo's reason, else the status; and its field.
func verdict(r reply) (code, field string) {
	fault, _ := r.object["error"].(object)
	code, _ = fault["status"].(string)
	details, _ := fault["details"].([]any)
	for _, d := range details {
		detail := d.(object)
		switch {
		case detail["errorCode"] != nil:
			code = detail["errorCode"].(string)
		case strings.HasSuffix(detail["@type"].(string), "ErrorInfo"):
			code = detail["reason"].(string)
		case detail["fieldViolations"] != nil:
			field, _ = detail["fieldViolations"].([]any)[0].(object)["field"].(string)
		}
	}
	return code, field
}

func TestEveryDocumentedFCMErrorCanBeProvoked(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	for _, c := range []struct {
		body   string
		status int
		code   string
		field  string
	}{
		{to("not-a-token"), 400, "INVALID_ARGUMENT", ""},
		{to("x:bad"), 400, "INVALID_ARGUMENT", ""},
		{to("x:y/../z"), 400, "INVALID_ARGUMENT", ""},
		{to("x:dead"), 404, "UNREGISTERED", ""},
		{to("x:dead-ios"), 404, "UNREGISTERED", ""},
		{to("x:mismatch"), 403, "SENDER_ID_MISMATCH", ""},
		{to("x:thirdparty"), 401, "THIRD_PARTY_AUTH_ERROR", ""},
		{to("x:quota"), 429, "QUOTA_EXCEEDED", ""},
		{to("x:ratelimit"), 429, "RATE_LIMIT_EXCEEDED", ""},
		{to("x:internal"), 500, "INTERNAL", ""},
		{to("x:unavailable"), 503, "UNAVAILABLE", ""},
		{`{"message":{"token":"x:y","data":{"a":"b","n":12}}}`, 400, "INVALID_ARGUMENT", "message.data[1].value"},
		{`{"message":{"token":"x:y","data":{"from":"b"}}}`, 400, "INVALID_ARGUMENT", "message.data[0].key"},
		{`{"message":{"token":"x:y","data":{"gcm.x":"b"}}}`, 400, "INVALID_ARGUMENT", "message.data[0].key"},
		{`{"message":{"token":"x:y","colour":1}}`, 400, "INVALID_ARGUMENT", "message"},
		{`{"message":{"token":"x:y","android":{"notification":{"colour":1}}}}`, 400, "INVALID_ARGUMENT", "message.android.notification"},
		{`{"message":{"token":"x:y","android":{"ttl":"5m"}}}`, 400, "INVALID_ARGUMENT", "message.android.ttl"},
		{`{"message":{"token":"x:y","android":{"ttl":"2419201s"}}}`, 400, "INVALID_ARGUMENT", "message.android.ttl"},
		{`{"message":{"token":"x:y","android":{"priority":"urgent"}}}`, 400, "INVALID_ARGUMENT", "message.android.priority"},
		{`{"message":{"token":"x:y","android":{"notification":{"color":"red"}}}}`, 400, "INVALID_ARGUMENT", "message.android.notification.color"},
		{`{"message":{"token":"x:y","webpush":{"fcm_options":{"link":"http://x"}}}}`, 400, "INVALID_ARGUMENT", "message.webpush.fcm_options.link"},
		{`{"message":{"token":"x:y","topic":"t"}}`, 400, "INVALID_ARGUMENT", "message"},
		{`{"message":{"topic":"a b"}}`, 400, "INVALID_ARGUMENT", "message.topic"},
		{`{"message":{"condition":"'a' in topic"}}`, 400, "INVALID_ARGUMENT", "message.condition"},
		{`{"message":{}}`, 400, "INVALID_ARGUMENT", ""},
		{`{}`, 400, "INVALID_ARGUMENT", ""},
		{`[]`, 400, "INVALID_ARGUMENT", ""},
		{`{"message":`, 400, "INVALID_ARGUMENT", ""},
		{`{"message":{"token":"x:y"}} x`, 400, "INVALID_ARGUMENT", ""},
		{`{"message":{"token":"x:y","data":{"k":"` + strings.Repeat("v", 4096) + `"}}}`, 400, "INVALID_ARGUMENT", ""},
		{`{"message":{"topic":"t","data":{"k":"` + strings.Repeat("v", 2048) + `"}}}`, 400, "INVALID_ARGUMENT", ""},
	} {
		got := do(t, client(t, m), message(t, m, access, c.body))
		code, field := verdict(got)
		if got.status != c.status || code != c.code || field != c.field {
			t.Errorf("%.100s\ngot %d %s at %q, want %d %s at %q", c.body, got.status, code, field, c.status, c.code, c.field)
		}
	}
}

func TestAMessageAtTheSizeLimitIsAcceptedAndOneByteMoreIsTooBig(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	for _, c := range []struct {
		target string
		limit  int
	}{{`"token":"x:y"`, 4096}, {`"topic":"t"`, 2048}} {
		for extra, status := range []int{200, 400} {
			text := `{"message":{` + c.target + `,"data":{"k":"` + strings.Repeat("v", c.limit-1+extra) + `"}}}`
			got := do(t, client(t, m), message(t, m, access, text))
			if got.status != status || status == 400 && !strings.Contains(got.body, "too big") {
				t.Errorf("%s, %d over: got %d %s", c.target, extra, got.status, got.body)
			}
		}
	}
}

func TestOnlyAnUnexpiredTokenWithAMessagingScopeMaySend(t *testing.T) {
	m := mockprovider.Start(t)
	weak := exchange(t, m, grantForm(assertion(t, m, func(_, claims object) {
		claims["scope"] = "https://www.googleapis.com/auth/userinfo.email"
	})))
	strong := accessToken(t, m)
	old := accessToken(t, m)
	send := func(access string) (int, string, string) {
		got := do(t, client(t, m), message(t, m, access, to(fcmToken)))
		code, _ := verdict(got)
		return got.status, code, got.header.Get("www-authenticate")
	}
	if status, _, _ := send(strong); status != 200 {
		t.Errorf("good token: got %d", status)
	}
	if status, code, _ := send(weak.object["access_token"].(string)); status != 403 || code != "ACCESS_TOKEN_SCOPE_INSUFFICIENT" {
		t.Errorf("token without the scope: got %d %s", status, code)
	}
	if status, code, challenge := send("stranger"); status != 401 || code == "THIRD_PARTY_AUTH_ERROR" || challenge == "" {
		t.Errorf("unknown token: got %d %s", status, code)
	}
	m.ExpireAccessTokens()
	if status, code, challenge := send(old); status != 401 || code != "ACCESS_TOKEN_EXPIRED" || !strings.Contains(challenge, "invalid_token") {
		t.Errorf("expired token: got %d %s %s", status, code, challenge)
	}
}

func TestAnotherProjectIsForbiddenAndAnotherPathNotFound(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	for path, want := range map[string]int{
		"/v1/projects/other/messages:send": 403, "/batch": 404, "/v1/projects/demo-project/messages": 404,
	} {
		r := message(t, m, access, to(fcmToken))
		r.URL.Path = path
		got := do(t, client(t, m), r)
		if code, _ := verdict(got); got.status != want || code == "UNREGISTERED" {
			t.Errorf("%s: got %d %s, want %d", path, got.status, code, want)
		}
	}
}

func TestFCMAndOAuthSpeakHTTP1Too(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: m.ClientTLS()}, Timeout: time.Minute}
	t.Cleanup(old.CloseIdleConnections)
	if got := do(t, old, message(t, m, access, to(fcmToken))); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
	entries := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.FCM})
	if len(entries) != 1 || entries[0].Stream != 0 || entries[0].Token != fcmToken || !entries[0].Accepted {
		t.Errorf("ledger has %+v", entries)
	}
}

func TestTheTokenEndpointSpeaksRFC6749(t *testing.T) {
	m := mockprovider.Start(t)
	good := func() url.Values { return grantForm(assertion(t, m, nil)) }
	with := func(change func(header, claims object)) url.Values { return grantForm(assertion(t, m, change)) }
	set := func(name string, value any) func(header, claims object) {
		return func(_, claims object) { claims[name] = value }
	}
	for _, c := range []struct {
		form  url.Values
		code  int
		error string
	}{
		{good(), 200, ""},
		{with(set("aud", "https://oauth2.googleapis.com/token")), 200, ""},
		{with(func(header, _ object) { delete(header, "kid") }), 200, ""},
		{with(set("scope", "https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/userinfo.email")), 200, ""},
		{url.Values{}, 400, "invalid_request"},
		{url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type"},
		{url.Values{"grant_type": good()["grant_type"]}, 400, "invalid_request"},
		{grantForm("x"), 400, "invalid_grant"},
		{grantForm(assertion(t, m, nil) + "AA"), 400, "invalid_grant"},
		{with(set("iss", "stranger@example.com")), 400, "invalid_grant"},
		{with(set("aud", "https://example.com")), 400, "invalid_grant"},
		{with(set("exp", time.Now().Add(2*time.Hour).Unix())), 400, "invalid_grant"},
		{with(set("exp", time.Now().Add(-time.Second).Unix())), 400, "invalid_grant"},
		{with(set("iat", time.Now().Add(10*time.Minute).Unix())), 400, "invalid_grant"},
		{with(set("scope", "")), 400, "invalid_scope"},
		{with(func(header, _ object) { header["kid"] = "other" }), 400, "invalid_grant"},
	} {
		got := exchange(t, m, c.form)
		fault, _ := got.object["error"].(string)
		if got.status != c.code || fault != c.error {
			t.Errorf("%v: got %d %s, want %d %s", c.form, got.status, got.body, c.code, c.error)
		}
		if c.code == 200 && (got.object["expires_in"] != 3599.0 || got.object["token_type"] != "Bearer") {
			t.Errorf("got %s", got.body)
		}
	}
}
