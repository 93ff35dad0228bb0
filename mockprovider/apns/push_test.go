// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider/apns"
	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
	"github.com/sluice-push/sluice/mockprovider/script"
)

func TestPushIsAcceptedWithItsID(t *testing.T) {
	m := newMock(t, 0)
	r := m.push(t)
	got := send(t, m.Conn(nil), r)
	if got.Status != 200 || len(got.Body) != 0 || got.get("apns-id") != id || r.ID != id || r.Token != deviceToken {
		t.Fatalf("got %+v with ID %q and token %q", got, r.ID, r.Token)
	}
	if got.get("apns-unique-id") != "" {
		t.Error("apns-unique-id in production")
	}
}

func TestTokenInUpperCaseIsTheSameDevice(t *testing.T) {
	m := newMock(t, 0)
	for token, status := range map[string]int{deviceToken: 200, "dead0000" + deviceToken[8:]: 410} {
		r := m.push(t, path("/3/device/"+strings.ToUpper(token)))
		if got := send(t, m.Conn(nil), r); got.Status != status || r.Token != token {
			t.Errorf("got %d for token %s, want %d for %s", got.Status, r.Token, status, token)
		}
	}
}

func TestSandboxAddsAUniqueID(t *testing.T) {
	m := newMock(t, 0)
	got := send(t, m.Conn(nil), m.push(t, host("api.sandbox.push.apple.com"), remove("apns-id")))
	generated := got.get("apns-id")
	if len(generated) != 36 || generated != strings.ToUpper(generated) || got.get("apns-unique-id") == "" {
		t.Fatalf("got %v", got.Header)
	}
}

func TestEveryDocumentedPushErrorOccurs(t *testing.T) {
	m := newMock(t, 0, apns.Credential{}, apns.Credential{}, apns.Credential{TeamID: "MOCKTEAM01", KeyID: "OTHERKEY01"})
	age := func(age time.Duration) change { return set("authorization", authorization(t, m.credentials[0], age)) }
	for _, c := range []struct {
		reason string
		status int
		change change
	}{
		{"BadCollapseId", 400, set("apns-collapse-id", strings.Repeat("x", 65))},
		{"BadExpirationDate", 400, set("apns-expiration", "soon")},
		{"BadExpirationDate", 400, set("apns-expiration", "-1")},
		{"BadMessageId", 400, set("apns-id", "1234")},
		{"BadPriority", 400, set("apns-priority", "7")},
		{"BadPriority", 400, set("apns-push-type", "background")},
		{"DuplicateHeaders", 400, func(r *h2.Request) { r.Header = append(r.Header, h2.Field("apns-topic", "com.example.app")) }},
		{"InvalidPushType", 400, set("apns-push-type", "loud")},
		{"InvalidPushType", 400, set("apns-push-type", "")},
		{"PayloadEmpty", 400, body("")},
		{"PayloadEmpty", 400, body("[1]")},
		{"MissingDeviceToken", 400, path("/3/device/")},
		{"BadDeviceToken", 400, path("/3/device/xyz")},
		{"BadDeviceToken", 400, path("/3/device/abc")},
		{"BadDeviceToken", 400, path("/3/device/" + strings.Repeat("ab", 101))},
		{"BadDeviceToken", 400, path("/3/device/bad00000" + deviceToken[8:])},
		{"BadDeviceToken", 400, path("/3/device/deadbeef")},
		{"BadDeviceToken", 400, path("/3/device/" + strings.Repeat("0", 64))},
		{"TopicDisallowed", 400, func(r *h2.Request) {
			path("/3/device/" + strings.Repeat("0", 64))(r)
			set("apns-topic", "com.example.other")(r)
		}},
		{"DeviceTokenNotForTopic", 400, path("/3/device/bad00001" + deviceToken[8:])},
		{"BadTopic", 400, set("apns-topic", "com.example.app!")},
		{"BadTopic", 400, set("apns-topic", "com.example.app.voip")},
		{"BadTopic", 400, set("apns-push-type", "voip")},
		{"MissingTopic", 400, remove("apns-topic")},
		{"TopicDisallowed", 400, set("apns-topic", "com.example.other")},
		{"ExpiredProviderToken", 403, age(61 * time.Minute)},
		{"InvalidProviderToken", 403, age(-time.Hour)},
		{"InvalidProviderToken", 403, set("authorization", "bearer a.b.c")},
		{"InvalidProviderToken", 403, set("authorization", "basic x")},
		{"InvalidProviderToken", 403, func(r *h2.Request) { set("authorization", r.Get("authorization")[:150]+"AAAA")(r) }},
		{"MissingProviderToken", 403, remove("authorization")},
		{"BadPath", 404, path("/3/devices/" + deviceToken)},
		{"BadPath", 404, path("/3/device/" + deviceToken + "/x")},
		{"MethodNotAllowed", 405, method("PUT")},
		{"Unregistered", 410, path("/3/device/dead0000" + deviceToken[8:])},
		{"Unregistered", 410, path("/3/device/DEADDEAD" + deviceToken[8:])},
		{"ExpiredToken", 410, path("/3/device/dead0001" + deviceToken[8:])},
		{"PayloadTooLarge", 413, body(jsonOfSize(4097))},
		{"PayloadTooLarge", 413, body(jsonOfSize(60000))},
		{"PayloadTooLarge", 413, func(r *h2.Request) { r.TooLong = true }},
		{"TooManyRequests", 429, path("/3/device/fa110429" + deviceToken[8:])},
		{"InternalServerError", 500, path("/3/device/fa110500" + deviceToken[8:])},
		{"ServiceUnavailable", 503, path("/3/device/fa110503" + deviceToken[8:])},
	} {
		t.Run(c.reason, func(t *testing.T) {
			got := send(t, m.Conn(nil), m.push(t, c.change))
			if got.Status != c.status || got.Reason != c.reason {
				t.Fatalf("got %d %s, want %d %s", got.Status, got.Body, c.status, c.reason)
			}
			timestamp, ok := got.object["timestamp"].(float64)
			if ok != (c.status == 410) || ok && (timestamp < 1e12 || timestamp != float64(int64(timestamp))) {
				t.Errorf("timestamp %v: want integer milliseconds, only with 410", got.object["timestamp"])
			}
			if got.get("content-type") != "application/json" || len(got.get("apns-id")) != 36 {
				t.Errorf("header %v", got.Header)
			}
		})
	}
}

func TestEveryPushTypeIsAcceptedUpToItsPayloadLimit(t *testing.T) {
	m := newMock(t, 0)
	c := m.Conn(nil)
	for pushType, suffix := range map[string]string{
		"alert": "", "background": "", "location": ".location-query", "voip": ".voip", "complication": ".complication",
		"fileprovider": ".pushkit.fileprovider", "liveactivity": ".push-type.liveactivity", "pushtotalk": ".voip-ptt",
		"widgets": ".push-type.widgets", "controls": ".push-type.controls", "mdm": "",
	} {
		limit := 4096
		if pushType == "voip" {
			limit = 5120
		}
		for size, status := range map[int]int{limit: 200, limit + 1: 413} {
			got := send(t, c, m.push(t, set("apns-push-type", pushType), set("apns-topic", "com.example.app"+suffix),
				set("apns-priority", "5"), body(jsonOfSize(size))))
			if got.Status != status {
				t.Errorf("%s with %d bytes: got %d %s, want %d", pushType, size, got.Status, got.Body, status)
			}
		}
	}
}

func TestCertificateIsCheckedForTopicAndEnvironment(t *testing.T) {
	m := newMock(t, 0)
	extension := func(last int, value []byte) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, last}, Value: value}
	}
	topics, err := asn1.Marshal([]asn1.RawValue{
		{Tag: asn1.TagUTF8String, Bytes: []byte("com.example.app")}, {Tag: asn1.TagSequence, IsCompound: true, Bytes: []byte("\x0c\x03app")},
		{Tag: asn1.TagUTF8String, Bytes: []byte("com.example.app.voip")}, {Tag: asn1.TagSequence, IsCompound: true, Bytes: []byte("\x0c\x04voip")},
	})
	if err != nil {
		t.Fatal(err)
	}
	sandbox := host("api.sandbox.push.apple.com")
	for _, c := range []struct {
		extensions []pkix.Extension
		change     change
		reason     string
	}{
		{[]pkix.Extension{extension(6, topics)}, set("apns-topic", "com.example.app"), ""},
		{[]pkix.Extension{extension(6, topics)}, set("apns-topic", "com.example.other"), "TopicDisallowed"},
		{[]pkix.Extension{extension(6, topics)}, remove("apns-topic"), "MissingTopic"},
		{[]pkix.Extension{extension(2, asn1.NullBytes), extension(6, topics)}, set("apns-topic", "com.example.app"), ""},
		{[]pkix.Extension{extension(2, asn1.NullBytes)}, sandbox, "BadCertificateEnvironment"},
		{[]pkix.Extension{extension(1, asn1.NullBytes)}, set("apns-topic", "com.example.app"), "BadCertificateEnvironment"},
		{[]pkix.Extension{extension(1, asn1.NullBytes), extension(2, asn1.NullBytes), extension(6, topics)}, sandbox, ""},
	} {
		got := send(t, m.Conn(&x509.Certificate{Extensions: c.extensions}), m.push(t, remove("authorization"), c.change))
		if got.Reason != c.reason {
			t.Errorf("%v: got %d %q, want %q", c.extensions, got.Status, got.Reason, c.reason)
		}
	}
}

func TestConnectionIsBoundToOneKey(t *testing.T) {
	m := newMock(t, 0, apns.Credential{}, apns.Credential{TeamID: "MOCKTEAM01", KeyID: "OTHERKEY01"}, apns.Credential{TeamID: "OTHERTEAM1"})
	c := m.Conn(nil)
	if got := send(t, c, m.push(t)); got.Status != 200 {
		t.Fatalf("first push: got %d %s", got.Status, got.Body)
	}
	for i, reason := range map[int]string{1: "UnrelatedKeyIdInToken", 2: "InvalidProviderToken"} {
		got := send(t, c, m.push(t, set("authorization", authorization(t, m.credentials[i], 0))))
		if got.Status != 403 || got.Reason != reason {
			t.Errorf("key %d: got %d %s, want %s", i, got.Status, got.Body, reason)
		}
	}
}

func TestFrequentTokenUpdatesAreRejected(t *testing.T) {
	m := newMock(t, 20*time.Minute)
	c := m.Conn(nil)
	first := authorization(t, m.credentials[0], 0)
	for i, want := range []struct {
		status        int
		authorization string
	}{{200, first}, {429, authorization(t, m.credentials[0], time.Minute)}, {200, first}} {
		got := send(t, c, m.push(t, set("authorization", want.authorization)))
		if got.Status != want.status {
			t.Errorf("push %d: got %d %s, want %d", i, got.Status, got.Body, want.status)
		}
	}
}

func TestClientCertificateAllowsItsTopic(t *testing.T) {
	m := newMock(t, 0)
	c := m.Conn(certificate(t))
	ignored := set("authorization", "bearer nonsense")
	for topic, change := range map[string]change{
		"com.example.app": set("apns-topic", "com.example.app"), "none": remove("apns-topic"), "com.example.other": set("apns-topic", "com.example.other"),
	} {
		status := 200
		if topic == "com.example.other" {
			status = 400
		}
		if got := send(t, c, m.push(t, ignored, change)); got.Status != status {
			t.Errorf("topic %s: got %d %s, want %d", topic, got.Status, got.Body, status)
		}
	}
}

// pushy, a Java library, makes ASN.1 signatures, which RFC 7518 does not allow and APNs accepts.
func TestASN1SignatureIsAccepted(t *testing.T) {
	m := newMock(t, 0)
	credential := m.credentials[0]
	key := jwttest.PrivateKey[*ecdsa.PrivateKey](t, credential.KeyPEM)
	token := func(key *ecdsa.PrivateKey) string {
		return jwttest.Sign(t, jwttest.Claims{"alg": "ES256", "kid": credential.KeyID},
			jwttest.Claims{"iss": credential.TeamID, "iat": time.Now().Unix()},
			func(digest []byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, key, digest) })
	}
	other, err := ecdsa.GenerateKey(key.Curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{token(key): 200, token(other): 403} {
		if got := send(t, m.Conn(nil), m.push(t, set("authorization", "bearer "+text))); got.Status != want {
			t.Errorf("got %d %s, want %d", got.Status, got.Body, want)
		}
	}
}

func TestKeyOfOneEnvironmentIsRejectedInTheOther(t *testing.T) {
	m := newMock(t, 0, apns.Credential{Environment: apns.Sandbox})
	if got := send(t, m.Conn(nil), m.push(t)); got.Status != 403 || got.Reason != "BadEnvironmentKeyInToken" {
		t.Errorf("production: got %d %s", got.Status, got.Body)
	}
	if got := send(t, m.Conn(nil), m.push(t, host("api.sandbox.push.apple.com"))); got.Status != 200 {
		t.Errorf("sandbox: got %d %s", got.Status, got.Body)
	}
}

func TestTokenOfOneEnvironmentIsBadInTheOther(t *testing.T) {
	m := newMock(t, 0)
	for token, want := range map[string][2]int{"5a2db0c0" + deviceToken[8:]: {400, 200}, "5a2db0c1" + deviceToken[8:]: {200, 400}, deviceToken: {200, 200}} {
		for i, name := range []string{"api.push.apple.com", "api.sandbox.push.apple.com"} {
			got := send(t, m.Conn(nil), m.push(t, host(name), path("/3/device/"+token)))
			if got.Status != want[i] || want[i] == 400 && got.Reason != "BadDeviceToken" {
				t.Errorf("%s at %s: got %d %s", token[:8], name, got.Status, got.Body)
			}
		}
	}
}

func TestPushFaultHasAnyReason(t *testing.T) {
	m := newMock(t, 0)
	c := m.Conn(nil)
	for _, f := range []struct {
		fault script.Fault
		body  string
	}{
		{script.Fault{Status: 503, Reason: "Shutdown", RetryAfter: 3 * time.Second}, `{"reason":"Shutdown"}`},
		{script.Fault{Status: 429}, `{"reason":"TooManyRequests"}`},
		{script.Fault{Status: 418, Reason: "NeverHeardOf"}, `{"reason":"NeverHeardOf"}`},
		{script.Fault{Status: 410, Timestamp: 1454948015990}, `{"reason":"Unregistered","timestamp":1454948015990}`},
		{script.Fault{Status: 502}, ""},
		{script.Fault{Status: 200}, ""},
	} {
		r := m.push(t)
		got := parse(t, c.RespondFault(r, &f.fault))
		if got.Status != f.fault.Status || string(got.Body) != f.body || got.get("apns-id") != id || r.ID != id {
			t.Errorf("%+v: got %d %s", f.fault, got.Status, got.Body)
		}
		if retryAfter := got.get("retry-after"); (retryAfter == "3") != (f.fault.RetryAfter > 0) {
			t.Errorf("%+v: retry-after %q", f.fault, retryAfter)
		}
	}
}

func TestIncompleteCredentialsAreRejected(t *testing.T) {
	for want, c := range map[string]apns.Credential{
		"credentials[1]: environment":       {Environment: "test"},
		"credentials[1]: key: no PEM":       {KeyPEM: []byte("x")},
		"credentials[1]: key: not a P-256 ": {KeyPEM: []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")},
	} {
		if _, err := apns.CompleteCredentials([]apns.Credential{{}, c}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
