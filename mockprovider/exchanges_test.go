// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// recorded is one exchange of testdata/provider-exchanges.json.
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

// scripts provoke what a service would only do with a device, a quota or trouble behind it.
var scripts = map[string]mockprovider.Fault{
	"apns-410-unregistered":        {Status: 410, Timestamp: 1454948015990},
	"fcm-404-unregistered":         {Status: 404},
	"fcm-429-device-or-topic":      {Status: 429, RetryAfter: time.Minute},
	"fcm-401-access-token-expired": {Status: 401},
	"fcm-503-retry-after":          {Status: 503, RetryAfter: 15 * time.Second},
	"webpush-410":                  {Status: 410},
	"webpush-429":                  {Status: 429, RetryAfter: 30 * time.Second},
}

func TestEveryRecordedExchangeIsReplayed(t *testing.T) {
	for _, x := range exchanges(t) {
		t.Run(x.ID, func(t *testing.T) {
			cfg := mockprovider.Config{}
			if f, ok := scripts[x.ID]; ok {
				cfg.Script.Faults = []mockprovider.Fault{f}
				cfg.Script.Faults[0].Service = x.Provider
			}
			replay(t, mockprovider.Start(t, cfg), x)
		})
	}
}

// recordedChannel stands in the recordings for a channel that exists.
const recordedChannel = "dHN0LXNyY2gtY2hubA=="

// replay sends the request by frames and compares the answer.
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
		channel = strings.NewReplacer(recordedChannel, created(t, m, storing))
	}
	if x.ID == "apns-channel-create" {
		addr = m.APNsManageAddr()
	}
	var fields []string
	for _, f := range append(pseudo(x), x.Request.Headers...) {
		fields = append(fields, f[0], channel.Replace(fill.Replace(f[1])))
	}
	l := connect(t, m, addr, "h2")
	l.preface()
	id := l.send(fields, false)
	l.must(l.frames.WriteData(id, true, content(t, x, fill)))
	compare(t, x, l.answer())
}

// pseudo are the pseudo-header fields, spelled out or from the URL.
func pseudo(x recorded) [][2]string {
	if x.Request.Pseudo != nil {
		return x.Request.Pseudo
	}
	at, _ := url.Parse(x.Request.URL)
	return [][2]string{{":method", x.Request.Method}, {":scheme", "https"}, {":authority", at.Host}, {":path", at.Path}}
}

func content(t *testing.T, x recorded, fill *strings.Replacer) []byte {
	t.Helper()
	switch {
	case x.Request.Rule != "":
		return []byte(sized(4097))
	case x.Request.Base64 != "":
		raw, err := base64.RawURLEncoding.DecodeString(x.Request.Base64)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	return []byte(fill.Replace(string(x.Request.Body)))
}

// placeholders fills the ${NAMES} of the recording.
func placeholders(t *testing.T, m *mockprovider.Mock) *strings.Replacer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	vapid := signES256(t, key, object{"typ": "JWT", "alg": "ES256"}, object{
		"aud": "https://push.example.net", "exp": time.Now().Add(12 * time.Hour).Unix(), "sub": "mailto:ops@example.com",
	})
	return strings.NewReplacer(
		"${APNS_JWT_IAT_61_MIN_OLD}", providerToken(t, m.Credentials()[0], 61*time.Minute),
		"${APNS_JWT}", providerToken(t, m.Credentials()[0], 0),
		"${ACCESS_TOKEN}", accessToken(t, m), "${EXPIRED_ACCESS_TOKEN}", "expired", "${FCM_TOKEN}", fcmToken,
		"${VAPID_JWT}", vapid, "${VAPID_PUBLIC_KEY_B64URL}", base64.RawURLEncoding.EncodeToString(point))
}

func compare(t *testing.T, x recorded, got result) {
	t.Helper()
	status := x.Response.Status
	if x.Response.Pseudo != nil {
		status, _ = strconv.Atoi(x.Response.Pseudo[0][1])
	}
	if got.status != status {
		t.Fatalf("got %d %s, want %d", got.status, got.body, status)
	}
	for _, f := range x.Response.Headers {
		value, ok := got.fields[f[0]]
		if !ok || f[0] != "location" && f[0] != "apns-channel-id" && !strings.Contains(f[1], "${") && value != f[1] {
			t.Errorf("%s: got %q, want %q", f[0], value, f[1])
		}
	}
	var want, have any
	_ = json.Unmarshal(x.Response.Body, &want)
	_ = json.Unmarshal([]byte(got.body), &have)
	if !alike(want, have) && x.ID != "webpush-410" { // its wording is the service's own
		t.Errorf("got %s, want %s", got.body, x.Response.Body)
	}
	for i, frame := range x.Response.Frames {
		if frame = strings.TrimSuffix(frame, " - exactly one"); len(got.frames) != len(x.Response.Frames) || got.frames[i] != frame {
			t.Errorf("frames %v, want %v", got.frames, x.Response.Frames)
		}
	}
	if pretty := strings.Contains(got.body, "\n  "); pretty != (x.Provider == "fcm") {
		t.Errorf("body %q: only FCM's is pretty", got.body)
	}
}

// alike compares JSON, where a ${NAME} stands for anything, and a message's own ID may differ.
func alike(want, have any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok || len(have) != len(want) {
			return false
		}
		for name := range want {
			if !alike(want[name], have[name]) {
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
			if !alike(want[i], have[i]) {
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
	got := exchange(t, m, grantForm(assertion(t, m, nil)))
	if got.status != 200 || got.header.Get("content-type") != "application/json; charset=UTF-8" || len(got.object) != 3 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}
