// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/mockprovider/h2/h2test"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
	"github.com/sluice-push/sluice/mockprovider/webpush/webpushtest"
)

// recorded is an exchange in testdata/provider-exchanges.json.
type recorded struct {
	ID, Provider string
	Request      struct {
		Pseudo, Headers [][2]string
		Method, URL     string
		Body            json.RawMessage `json:"body_json"`
		Base64          string          `json:"body_base64url"`
		Rule            string          `json:"body_rule"`
	}
	Response struct {
		Status          int
		Pseudo, Headers [][2]string
		Body            json.RawMessage `json:"body_json"`
		Frames          []string
	}
}

func exchanges(t *testing.T) []recorded {
	t.Helper()
	text, err := os.ReadFile("testdata/provider-exchanges.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Exchanges []recorded }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Exchanges
}

// recordedFaults holds the faults for exchanges that depend on a device, a quota or an outage.
var recordedFaults = map[string]mockprovider.Fault{
	"apns-410-unregistered":        {Status: 410, Timestamp: 1454948015990},
	"fcm-404-unregistered":         {Status: 404},
	"fcm-429-device-or-topic":      {Status: 429, RetryAfter: time.Minute},
	"fcm-401-access-token-expired": {Status: 401},
	"fcm-503-retry-after":          {Status: 503, RetryAfter: 15 * time.Second},
	"webpush-410":                  {Status: 410},
	"webpush-429":                  {Status: 429, RetryAfter: 30 * time.Second},
}

func TestRecordedExchangesAreReproduced(t *testing.T) {
	for _, x := range exchanges(t) {
		t.Run(x.ID, func(t *testing.T) {
			cfg := mockprovider.Config{}
			if f, ok := recordedFaults[x.ID]; ok {
				cfg.Script.Faults = []mockprovider.Fault{f}
				cfg.Script.Faults[0].Service = x.Provider
			}
			replay(t, mockprovider.Start(t, cfg), x)
		})
	}
}

// recordedChannel is the ID of an existing channel in the recordings.
const recordedChannel = "dHN0LXNyY2gtY2hubA=="

// replay sends the request in single frames and compares the response.
func replay(t *testing.T, m *mockprovider.Mock, x recorded) {
	t.Helper()
	addr := m.APNsAddrs()[0]
	switch x.Provider {
	case "fcm":
		addr = m.FCMAddrs()[0]
	case "fcm_oauth":
		replayToken(t, m)
		return
	case "webpush":
		addr = addrOf(t, m.WebPushURL())
	}
	fill := placeholders(t, m)
	channel := strings.NewReplacer()
	if x.Provider == "apns_broadcast" {
		channel = strings.NewReplacer(recordedChannel, createChannel(t, m))
	}
	if x.ID == "apns-channel-create" {
		addr = m.APNsManageAddr()
	}
	var fields []string
	for _, f := range append(pseudo(x), x.Request.Headers...) {
		fields = append(fields, f[0], channel.Replace(fill.Replace(f[1])))
	}
	c := dial(t, m, addr, "h2")
	c.Preface()
	c.Request(content(t, x, fill), fields...)
	compare(t, x, c.Response())
}

// pseudo returns the pseudo-header fields, which the recording has as such or as a URL.
func pseudo(x recorded) [][2]string {
	if x.Request.Pseudo != nil {
		return x.Request.Pseudo
	}
	u, _ := url.Parse(x.Request.URL)
	return [][2]string{{":method", x.Request.Method}, {":scheme", "https"}, {":authority", u.Host}, {":path", u.Path}}
}

// content returns the body of the request.
func content(t *testing.T, x recorded, fill *strings.Replacer) string {
	t.Helper()
	switch {
	case x.Request.Rule != "":
		return `{"a":"` + strings.Repeat("x", 4097-8) + `"}`
	case x.Request.Base64 != "":
		return string(webpushtest.Decode(t, x.Request.Base64))
	}
	return fill.Replace(string(x.Request.Body))
}

// placeholders replaces the ${NAMES} of the recording.
func placeholders(t *testing.T, m *mockprovider.Mock) *strings.Replacer {
	t.Helper()
	key, public := webpushtest.VAPIDKey(t)
	vapid := jwttest.ES256(t, key, object{"typ": "JWT", "alg": "ES256"}, object{
		"aud": "https://push.example.net", "exp": time.Now().Add(12 * time.Hour).Unix(), "sub": "mailto:ops@example.com",
	})
	return strings.NewReplacer(
		"${APNS_JWT_IAT_61_MIN_OLD}", providerToken(t, m.Credentials()[0], 61*time.Minute),
		"${APNS_JWT}", providerToken(t, m.Credentials()[0], 0),
		"${ACCESS_TOKEN}", accessToken(t, m), "${EXPIRED_ACCESS_TOKEN}", "expired", "${FCM_TOKEN}", registrationToken,
		"${VAPID_JWT}", vapid, "${VAPID_PUBLIC_KEY_B64URL}", public)
}

// compare compares a response with the recorded one.
func compare(t *testing.T, x recorded, got h2test.Response) {
	t.Helper()
	status := x.Response.Status
	if x.Response.Pseudo != nil {
		status, _ = strconv.Atoi(x.Response.Pseudo[0][1])
	}
	if got.Status != status {
		t.Fatalf("got %d %s, want %d", got.Status, got.Body, status)
	}
	for _, f := range x.Response.Headers {
		value, ok := got.Fields[f[0]]
		if !ok || f[0] != "location" && f[0] != "apns-channel-id" && !strings.Contains(f[1], "${") && value != f[1] {
			t.Errorf("%s: got %q, want %q", f[0], value, f[1])
		}
	}
	var want, have any
	_ = json.Unmarshal(x.Response.Body, &want)
	_ = json.Unmarshal([]byte(got.Body), &have)
	if !equalJSON(want, have) && x.ID != "webpush-410" { // the text differs between services
		t.Errorf("got %s, want %s", got.Body, x.Response.Body)
	}
	for i, frame := range x.Response.Frames {
		if frame = strings.TrimSuffix(frame, " - exactly one"); len(got.Frames) != len(x.Response.Frames) || got.Frames[i] != frame {
			t.Errorf("frames %v, want %v", got.Frames, x.Response.Frames)
		}
	}
	if indented := strings.Contains(got.Body, "\n  "); indented != (x.Provider == "fcm") {
		t.Errorf("body %q: only FCM indents its bodies", got.Body)
	}
}

// equalJSON compares JSON values. A ${NAME} matches anything, and the IDs of messages may differ.
func equalJSON(want, have any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok || len(have) != len(want) {
			return false
		}
		for name := range want {
			if !equalJSON(want[name], have[name]) {
				return false
			}
		}
		return true
	case []any:
		have, ok := have.([]any)
		if !ok || len(have) != len(want) {
			return false
		}
		for i := range want {
			if !equalJSON(want[i], have[i]) {
				return false
			}
		}
		return true
	case string:
		const id = "/messages/0:"
		text, _ := have.(string)
		return strings.HasPrefix(want, "${") || want == text || strings.Contains(want, id) && strings.Contains(text, id)
	}
	return fmt.Sprint(want) == fmt.Sprint(have)
}

func replayToken(t *testing.T, m *mockprovider.Mock) {
	t.Helper()
	got := exchange(t, m, assertion(t, m, nil))
	if got.status != 200 || got.header.Get("content-type") != "application/json; charset=UTF-8" || len(got.object) != 3 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}
