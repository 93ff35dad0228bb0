// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider/fcm"
	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

const registrationToken = "dGhpcy1pcy1hLUZJRC0wMQ:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"

// accessTokens has one token of each kind.
type accessTokens struct{}

func (accessTokens) Lookup(token string) (expires time.Time, messaging, ok bool) {
	switch token {
	case "valid":
		return time.Now().Add(time.Hour), true, true
	case "weak":
		return time.Now().Add(time.Hour), false, true
	case "expired":
		return time.Now().Add(-time.Second), true, true
	}
	return time.Time{}, false, false
}

func newMock() *fcm.Service { return fcm.New("demo-project", accessTokens{}) }

// request returns a request with a valid access token.
func request(body string) *h2.Request {
	r := &h2.Request{Method: "POST", Path: "/v1/projects/demo-project/messages:send", Authority: "fcm.googleapis.com", Body: []byte(body)}
	r.Header = append(r.Header, h2.Field("authorization", "Bearer valid"))
	return r
}

// to returns a message to a registration token.
func to(token string) string {
	return `{"message":{"token":"` + token + `","notification":{"title":"Hello","body":"World"}}}`
}

// toInstallation returns a message to a Firebase installation ID.
func toInstallation(id string) string {
	return `{"message":{"fid":"` + id + `","notification":{"title":"Hello"}}}`
}

func get(r h2.Response, name string) string { return (&h2.Request{Header: r.Header}).Get(name) }

// parse returns what a client extracts from an error response: the code of FcmError or else the
// reason of ErrorInfo or else the status, and the field of BadRequest.
func parse(t *testing.T, r h2.Response) (code, field string) {
	t.Helper()
	var body struct {
		Error struct {
			Status  string
			Details []struct {
				Type            string `json:"@type"`
				ErrorCode       string
				Reason          string
				FieldViolations []struct{ Field string }
			}
		}
	}
	if err := json.Unmarshal(r.Body, &body); err != nil {
		t.Errorf("body %s: %v", r.Body, err)
	}
	code = body.Error.Status
	for _, d := range body.Error.Details {
		switch {
		case d.ErrorCode != "":
			code = d.ErrorCode
		case strings.HasSuffix(d.Type, "ErrorInfo"):
			code = d.Reason
		case len(d.FieldViolations) > 0:
			field = d.FieldViolations[0].Field
		}
	}
	if code != r.Reason {
		t.Errorf("a client extracts %q, the ledger gets %q", code, r.Reason)
	}
	return code, field
}

func TestMessageIsAcceptedWithAName(t *testing.T) {
	name := regexp.MustCompile(`^\{\n  "name": "(projects/demo-project/messages/0:[0-9]{16}%[0-9a-f]{16})"\n\}\n$`)
	for _, text := range []string{
		to(registrationToken), to("cE3dZp4rQ0mUx7sYt1kLwA"), toInstallation("cE3dZp4rQ0mUx7sYt1kLwA"),
		`{"message":{"topic":"news","data":{"k":"v","google_place_id":"p","gcmToken":"t","gcm.x":"d"}}}`,
		`{"message":{"topic":"news","android":null,"android_v2":{"collapse_key":"k","data":{"k":"v"},"remoteNotification":{"useAsV1DataMessage":true,
			"notification":{"title":"t","id":7,"light_settings":{"color":{"red":1}}}},"backgroundSync":{}}}}`,
		`{"message":{"condition":"'a' in topics && !('b' in topics)"}}`,
		`{"message":{"token":"` + registrationToken + `","android":{"ttl":"3600s","priority":"high","collapseKey":"k",
			"notification":{"color":"#00ff00","visibility":"PRIVATE","light_settings":{"color":{"red":0.5}},"vibrate_timings":["3.5s"]}}}}`,
		`{"message":{"token":"` + registrationToken + `","apns":{"headers":{"apns-priority":"5"},"payload":{"aps":{"badge":1}}},
			"webpush":{"fcm_options":{"link":"https://example.com"}},"fcmOptions":{"analyticsLabel":"a"}}}`,
	} {
		r := request(text)
		got := newMock().Respond(r)
		if match := name.FindStringSubmatch(string(got.Body)); got.Status != 200 || !got.Accepted || match == nil || match[1] != r.ID {
			t.Errorf("%s\ngot %d %s with ID %q", text, got.Status, got.Body, r.ID)
		}
		if contentType := get(got, "content-type"); contentType != "application/json; charset=UTF-8" {
			t.Errorf("content-type %q", contentType)
		}
	}
}

func TestFindReadsTheTarget(t *testing.T) {
	for text, want := range map[string]h2.Request{
		to("a:b"):                      {Token: "a:b"},
		`{"message":{"topic":"news"}}`: {Token: "news", Multicast: true},
		`{"message":{"condition":"'a' in topics"}}`:                  {Token: "'a' in topics", Multicast: true},
		`{"message":{"token":"a:b","android":{"collapse_key":"k"}}}`: {Token: "a:b", Collapsible: true},
		`{"message":{"token":"a:b","android":{"collapseKey":"k"}}}`:  {Token: "a:b", Collapsible: true},
		`{"message":{"fid":"ab","androidV2":{"collapseKey":"k"}}}`:   {Token: "ab", Collapsible: true},
		`not JSON`: {},
	} {
		r := request(text)
		if newMock().Find(r); r.Token != want.Token || r.Multicast != want.Multicast || r.Collapsible != want.Collapsible {
			t.Errorf("%s: got %q %v %v", text, r.Token, r.Multicast, r.Collapsible)
		}
	}
}

func TestValidateOnlyChecksTheToken(t *testing.T) {
	got := newMock().Respond(request(`{"validate_only":true,"message":{"token":"` + registrationToken + `"}}`))
	if got.Status != 200 || !strings.Contains(string(got.Body), `"projects/demo-project/messages/fake_message_id"`) {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	if got := newMock().Respond(request(`{"validateOnly":true,"message":{"token":"x:dead"}}`)); got.Status != 404 {
		t.Errorf("unregistered token: got %d %s", got.Status, got.Body)
	}
}

func TestEveryDocumentedErrorOccurs(t *testing.T) {
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
		{toInstallation("dead"), 404, "UNREGISTERED", ""},
		{toInstallation("deadYrQpK7sR1mUx7sYt1k"), 404, "UNREGISTERED", ""},
		{toInstallation("badYrQpK7sR1mUx7sYt1kL"), 400, "INVALID_ARGUMENT", ""},
		{toInstallation("x:y"), 400, "INVALID_ARGUMENT", ""},
		{to("deadYrQpK7sR1mUx7sYt1k"), 404, "UNREGISTERED", ""},
		{to("badYrQpK7sR1mUx7sYt1kL"), 400, "INVALID_ARGUMENT", ""},
		{to("dead"), 400, "INVALID_ARGUMENT", ""},
		{`{"message":{"token":"x:y","data":{"a":"b","n":12}}}`, 400, "INVALID_ARGUMENT", "message.data[1].value"},
		{`{"message":{"token":"x:y","data":{"from":"b"}}}`, 400, "INVALID_ARGUMENT", "message.data[0].key"},
		{`{"message":{"token":"x:y","data":{"gcm.notification.x":"b"}}}`, 400, "INVALID_ARGUMENT", "message.data[0].key"},
		{`{"message":{"token":"x:y","data":{"google.x":"b"}}}`, 400, "INVALID_ARGUMENT", "message.data[0].key"},
		{`{"message":{"token":"x:y","android":{"ttl":"1s"},"androidV2":{"ttl":"1s"}}}`, 400, "INVALID_ARGUMENT", "message.android_v2"},
		{`{"message":{"token":"x:y","android_v2":{"priority":"HIGH"}}}`, 400, "INVALID_ARGUMENT", "message.android_v2"},
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
		got := newMock().Respond(request(c.body))
		code, field := parse(t, got)
		if got.Status != c.status || code != c.code || field != c.field || got.Accepted {
			t.Errorf("%.100s\ngot %d %s at %q, want %d %s at %q", c.body, got.Status, code, field, c.status, c.code, c.field)
		}
	}
}

func TestMessageIsAcceptedUpToItsSizeLimit(t *testing.T) {
	for _, c := range []struct {
		target string
		limit  int
	}{{`"token":"x:y"`, 4096}, {`"topic":"t"`, 2048}} {
		for extra, status := range []int{200, 400} {
			data := `"data":{"k":"` + strings.Repeat("v", c.limit-1+extra) + `"}`
			payload := `"apns":{"payload":{"aps":{"alert":"` + strings.Repeat("v", c.limit-len(`{"aps":{"alert":""}}`)+extra) + `"}}}`
			escaped := strings.NewReplacer(`{`, "{\n ", `vv`, `\u0076v`).Replace(payload)
			for _, content := range []string{data, payload, escaped} {
				got := newMock().Respond(request(`{"message":{` + c.target + `,` + content + `}}`))
				if got.Status != status || status == 400 && !strings.Contains(string(got.Body), "too big") {
					t.Errorf("%s, %.20s, %d bytes too long: got %d %s", c.target, content, extra, got.Status, got.Body)
				}
			}
		}
	}
	half := strings.Repeat("v", 2100)
	if got := newMock().Respond(request(`{"message":{"token":"x:y","data":{"k":"` + half + `"},"apns":{"payload":{"k":"` + half + `"}}}}`)); got.Status != 200 {
		t.Errorf("data and a payload that are together too long: got %d %s", got.Status, got.Body)
	}
	cut := request(to(registrationToken))
	cut.TooLong = true
	if got := newMock().Respond(cut); got.Status != 400 || !strings.Contains(string(got.Body), "too big") {
		t.Errorf("a body that was cut: got %d %s", got.Status, got.Body)
	}
}

func TestAccessTokenMustBeValid(t *testing.T) {
	for authorization, want := range map[string]struct {
		status          int
		code, challenge string
	}{
		"Bearer valid":   {200, "", ""},
		"Bearer weak":    {403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT", ""},
		"Bearer unknown": {401, "ACCESS_TOKEN_TYPE_UNSUPPORTED", "invalid_token"},
		"Bearer expired": {401, "ACCESS_TOKEN_EXPIRED", "invalid_token"},
		"Basic valid":    {401, "CREDENTIALS_MISSING", "realm"},
	} {
		r := request(to(registrationToken))
		r.Header[0].Value = authorization
		got := newMock().Respond(r)
		challenge := get(got, "www-authenticate")
		if got.Status != want.status || got.Reason != want.code || !strings.Contains(challenge, want.challenge) || (challenge == "") != (want.challenge == "") {
			t.Errorf("%s: got %d %s %q", authorization, got.Status, got.Reason, challenge)
		}
	}
}

func TestOtherProjectIsForbiddenAndOtherPathNotFound(t *testing.T) {
	for path, want := range map[string]int{
		"/v1/projects/other/messages:send": 403, "/batch": 404, "/v1/projects/demo-project/messages": 404,
	} {
		r := request(to(registrationToken))
		r.Path = path
		got := newMock().Respond(r)
		if code, _ := parse(t, got); got.Status != want || code == "UNREGISTERED" {
			t.Errorf("%s: got %d %s, want %d", path, got.Status, code, want)
		}
	}
}

func TestFaultHasTheErrorOfItsReasonStatusOrQuota(t *testing.T) {
	quota := func(scope string) script.Fault { return script.Fault{Status: 429, Quota: &script.Quota{Scope: scope}} }
	for _, c := range []struct {
		fault script.Fault
		code  string
	}{
		{script.Fault{Status: 404}, "UNREGISTERED"}, {script.Fault{Status: 401}, "ACCESS_TOKEN_EXPIRED"},
		{script.Fault{Status: 403, Reason: "SERVICE_DISABLED"}, "SERVICE_DISABLED"},
		{script.Fault{Status: 403, Reason: "IAM_PERMISSION_DENIED"}, "IAM_PERMISSION_DENIED"},
		{script.Fault{Status: 429, RetryAfter: time.Minute}, "QUOTA_EXCEEDED"}, {script.Fault{Status: 429, Reason: "RATE_LIMIT_EXCEEDED"}, "RATE_LIMIT_EXCEEDED"},
		{script.Fault{Status: 500, Reason: "UNAVAILABLE"}, "UNAVAILABLE"}, {script.Fault{Status: 418, Reason: "TEAPOT"}, "TEAPOT"},
		{script.Fault{Status: 418}, "UNKNOWN"},
		{quota("project"), "RATE_LIMIT_EXCEEDED"}, {quota("device"), "QUOTA_EXCEEDED"}, {quota("topic"), "QUOTA_EXCEEDED"}, {quota("collapse"), "QUOTA_EXCEEDED"},
	} {
		got := newMock().RespondFault(request(to(registrationToken)), &c.fault)
		if code, _ := parse(t, got); got.Status != c.fault.Status || code != c.code {
			t.Errorf("%+v: got %d %s", c.fault, got.Status, got.Body)
		}
		if (get(got, "retry-after") == "60") != (c.fault.RetryAfter > 0) {
			t.Errorf("%+v: got %v", c.fault, got.Header)
		}
	}
	if got := newMock().RespondFault(request(to(registrationToken)), &script.Fault{Status: 200}); got.Status != 200 || !got.Accepted {
		t.Errorf("status 200: got %+v", got)
	}
}
