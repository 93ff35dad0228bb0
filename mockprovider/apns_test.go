// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

func TestAGoodPushIsAcceptedAndItsIDEchoed(t *testing.T) {
	m := mockprovider.Start(t)
	got := do(t, client(t, m), push(t, m, nil))
	if got.status != 200 || got.body != "" || got.header.Get("apns-id") != goodID {
		t.Fatalf("got %d %q with apns-id %q", got.status, got.body, got.header.Get("apns-id"))
	}
	if got.header.Get("apns-unique-id") != "" {
		t.Error("apns-unique-id outside the sandbox")
	}
}

func TestTheSandboxMakesIDsInUpperCaseAndAddsAUniqueOne(t *testing.T) {
	m := mockprovider.Start(t)
	got := do(t, client(t, m), push(t, m, func(r *http.Request) {
		r.Host = "api.sandbox.push.apple.com"
		r.Header.Del("apns-id")
	}))
	id := got.header.Get("apns-id")
	if len(id) != 36 || id != strings.ToUpper(id) || got.header.Get("apns-unique-id") == "" {
		t.Fatalf("got %v", got.header)
	}
}

// body replaces a request's body.
func body(r *http.Request, text string) {
	r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
}

func TestEveryDocumentedAPNsErrorCanBeProvoked(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Credentials: []mockprovider.Credential{
		{Topics: []string{"com.example.app"}}, {}, {TeamID: "MOCKTEAM01", KeyID: "OTHERKEY01"},
	}})
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	path := func(p string) func(*http.Request) { return func(r *http.Request) { r.URL.Path = p } }
	for _, c := range []struct {
		reason string
		status int
		change func(*http.Request)
	}{
		{"BadCollapseId", 400, set("apns-collapse-id", strings.Repeat("x", 65))},
		{"BadExpirationDate", 400, set("apns-expiration", "soon")},
		{"BadExpirationDate", 400, set("apns-expiration", "-1")},
		{"BadMessageId", 400, set("apns-id", "1234")},
		{"BadPriority", 400, set("apns-priority", "7")},
		{"BadPriority", 400, set("apns-push-type", "background")},
		{"DuplicateHeaders", 400, func(r *http.Request) { r.Header.Add("apns-topic", "com.example.app") }},
		{"InvalidPushType", 400, set("apns-push-type", "loud")},
		{"InvalidPushType", 400, set("apns-push-type", "")},
		{"PayloadEmpty", 400, func(r *http.Request) { body(r, "") }},
		{"PayloadEmpty", 400, func(r *http.Request) { body(r, "[1]") }},
		{"MissingDeviceToken", 400, path("/3/device/")},
		{"BadDeviceToken", 400, path("/3/device/xyz")},
		{"BadDeviceToken", 400, path("/3/device/abc")},
		{"BadDeviceToken", 400, path("/3/device/" + strings.Repeat("ab", 101))},
		{"BadDeviceToken", 400, path("/3/device/bad00000" + goodToken[8:])},
		{"BadDeviceToken", 400, path("/3/device/deadbeef")},
		{"DeviceTokenNotForTopic", 400, path("/3/device/bad00001" + goodToken[8:])},
		{"BadTopic", 400, set("apns-topic", "com.example.app!")},
		{"BadTopic", 400, set("apns-topic", "com.example.app.voip")},
		{"BadTopic", 400, set("apns-push-type", "voip")},
		{"MissingTopic", 400, func(r *http.Request) { r.Header.Del("apns-topic") }},
		{"TopicDisallowed", 400, set("apns-topic", "com.example.other")},
		{"ExpiredProviderToken", 403, set("authorization", "bearer "+providerToken(t, m.Credentials()[0], 61*time.Minute))},
		{"InvalidProviderToken", 403, set("authorization", "bearer "+providerToken(t, m.Credentials()[0], -time.Hour))},
		{"InvalidProviderToken", 403, set("authorization", "bearer a.b.c")},
		{"InvalidProviderToken", 403, set("authorization", "basic x")},
		{"InvalidProviderToken", 403, func(r *http.Request) {
			r.Header.Set("authorization", r.Header.Get("authorization")[:150]+"AAAA")
		}},
		{"MissingProviderToken", 403, func(r *http.Request) { r.Header.Del("authorization") }},
		{"BadPath", 404, path("/3/devices/" + goodToken)},
		{"BadPath", 404, path("/3/device/" + goodToken + "/x")},
		{"MethodNotAllowed", 405, func(r *http.Request) { r.Method = "PUT" }},
		{"Unregistered", 410, path("/3/device/dead0000" + goodToken[8:])},
		{"Unregistered", 410, path("/3/device/DEADDEAD" + goodToken[8:])},
		{"ExpiredToken", 410, path("/3/device/dead0001" + goodToken[8:])},
		{"PayloadTooLarge", 413, func(r *http.Request) { body(r, sized(4097)) }},
		{"PayloadTooLarge", 413, func(r *http.Request) { body(r, sized(60000)) }},
		{"TooManyRequests", 429, path("/3/device/fa110429" + goodToken[8:])},
		{"InternalServerError", 500, path("/3/device/fa110500" + goodToken[8:])},
		{"ServiceUnavailable", 503, path("/3/device/fa110503" + goodToken[8:])},
	} {
		t.Run(c.reason, func(t *testing.T) {
			got := do(t, client(t, m), push(t, m, c.change))
			if got.status != c.status || got.object["reason"] != c.reason {
				t.Fatalf("got %d %s, want %d %s", got.status, got.body, c.status, c.reason)
			}
			since, dated := got.object["timestamp"].(float64)
			if dated != (c.status == 410) || dated && (since < 1e12 || since != float64(int64(since))) {
				t.Errorf("timestamp %v: want integer milliseconds with 410 only", got.object["timestamp"])
			}
			if got.header.Get("content-type") != "application/json" || len(got.header.Get("apns-id")) != 36 {
				t.Errorf("header %v", got.header)
			}
		})
	}
}

// sized is a JSON object of n bytes.
func sized(n int) string { return `{"a":"` + strings.Repeat("x", n-8) + `"}` }

func TestEveryPushTypeWithItsSuffixIsAcceptedAtItsPayloadLimit(t *testing.T) {
	m := mockprovider.Start(t)
	c := client(t, m)
	for kind, topic := range map[string]string{
		"alert": "", "background": "", "location": ".location-query", "voip": ".voip", "complication": ".complication",
		"fileprovider": ".pushkit.fileprovider", "liveactivity": ".push-type.liveactivity", "pushtotalk": ".voip-ptt",
		"widgets": ".push-type.widgets", "controls": ".push-type.controls", "mdm": "",
	} {
		limit := 4096
		if kind == "voip" {
			limit = 5120
		}
		for size, status := range map[int]int{limit: 200, limit + 1: 413} {
			got := do(t, c, push(t, m, func(r *http.Request) {
				r.Header.Set("apns-push-type", kind)
				r.Header.Set("apns-topic", "com.example.app"+topic)
				r.Header.Set("apns-priority", "5")
				body(r, sized(size))
			}))
			if got.status != status {
				t.Errorf("%s with %d bytes: got %d %s, want %d", kind, size, got.status, got.body, status)
			}
		}
	}
}

func TestAConnectionBelongsToOneKeyOfOneTeam(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{
		Streams: mockprovider.Streams{Start: 1000}, // with one stream net/http may take a second connection
		Credentials: []mockprovider.Credential{
			{}, {TeamID: "MOCKTEAM01", KeyID: "OTHERKEY01"}, {TeamID: "OTHERTEAM1"},
		},
	})
	c := client(t, m)
	if got := do(t, c, push(t, m, nil)); got.status != 200 {
		t.Fatalf("first push: %d %s", got.status, got.body)
	}
	for i, reason := range map[int]string{1: "UnrelatedKeyIdInToken", 2: "InvalidProviderToken"} {
		got := do(t, c, push(t, m, func(r *http.Request) {
			r.Header.Set("authorization", "bearer "+providerToken(t, m.Credentials()[i], 0))
		}))
		if got.status != 403 || got.object["reason"] != reason {
			t.Errorf("key %d: got %d %s, want %s", i, got.status, got.body, reason)
		}
	}
}

func TestProviderTokensThatChangeTooOftenAreRefused(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{TokenUpdateEvery: 20 * time.Minute})
	c := client(t, m)
	first := push(t, m, nil)
	kept := first.Header.Get("authorization")
	for i, want := range []struct {
		status int
		token  string
	}{{200, kept}, {429, "bearer " + providerToken(t, m.Credentials()[0], time.Minute)}, {200, kept}} {
		got := do(t, c, push(t, m, func(r *http.Request) { r.Header.Set("authorization", want.token) }))
		if got.status != want.status {
			t.Errorf("push %d: got %d %s, want %d", i, got.status, got.body, want.status)
		}
	}
}

func TestAClientCertificateStandsForItsTopic(t *testing.T) {
	m := mockprovider.Start(t)
	c := client(t, m, m.ClientCertificate())
	for topic, status := range map[string]int{"com.example.app": 200, "": 200, "com.example.other": 400} {
		got := do(t, c, push(t, m, func(r *http.Request) {
			r.Header.Set("authorization", "bearer nonsense") // is ignored
			r.Header.Set("apns-topic", topic)
			if topic == "" {
				r.Header.Del("apns-topic")
			}
		}))
		if got.status != status {
			t.Errorf("topic %q: got %d %s, want %d", topic, got.status, got.body, status)
		}
	}
}

// pushy, the Java library, signs its tokens in ASN.1 instead of RFC 7518's way, and works with Apple.
func TestAProviderTokenMayBeSignedInASN1(t *testing.T) {
	m := mockprovider.Start(t)
	c := m.Credentials()[0]
	signed := part(object{"alg": "ES256", "kid": c.KeyID}) + "." + part(object{"iss": c.TeamID, "iat": time.Now().Unix()})
	digest := sha256.Sum256([]byte(signed))
	signature, err := ecdsa.SignASN1(rand.Reader, privateKey[*ecdsa.PrivateKey](t, c.KeyPEM), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{signed: 200, strings.Replace(signed, ".", ".e30", 1): 403} {
		got := do(t, client(t, m), push(t, m, header("authorization", "bearer "+text+"."+base64.RawURLEncoding.EncodeToString(signature))))
		if got.status != want {
			t.Errorf("got %d %s, want %d", got.status, got.body, want)
		}
	}
}
