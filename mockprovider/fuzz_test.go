// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"testing"
)

// FuzzReadMessage finds no body that breaks FCM's door: a message that is taken has a target, and is JSON.
func FuzzReadMessage(f *testing.F) {
	for _, seed := range []string{
		`{"message":{"token":"a:b","data":{"k":"v","n":1},"android":{"ttl":"3.5s","priority":"HIGH"}}}`,
		`{"validate_only":true,"message":{"condition":"'a' in topics","notification":{"title":"\ud83d\ude00"}}}`,
		`{"message":{"topic":"t","apns":{"headers":{"a":"b"},"payload":{"aps":{"x":[1,{"y":null}]}}}}}`,
		`{"message":{"token":null,"android":{"notification":{"vibrate_timings":["1s"],"light_settings":{"color":{"red":1e9}}}}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, fault := readMessage(body)
		if fault != nil {
			if a := fault.answer(); a.status != 400 || !json.Valid(a.body) {
				t.Fatalf("%d %s", a.status, a.body)
			}
			return
		}
		if m.target == "" || !json.Valid(body) {
			t.Fatalf("took %q", body)
		}
	})
}

// FuzzParseJWT finds no token that breaks the reader, and none that is signed by nobody.
func FuzzParseJWT(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiIsImtpZCI6IkEifQ.eyJpc3MiOiJCIiwiaWF0IjoxfQ.AAAA")
	c, err := Credential{}.withDefaults(0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := parseJWT(text); err == nil && token.signedES256(c.public) {
			t.Fatalf("took %q", text)
		}
	})
}

// vector is the example of RFC 8291 5.
func vector(tb testing.TB) (device *ecdh.PrivateKey, auth, body []byte) {
	tb.Helper()
	raw := func(text string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	device, err := ecdh.P256().NewPrivateKey(raw("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		tb.Fatal(err)
	}
	return device, raw("BTBZMqHH6r4Tts7J_aSIgg"), raw("DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A" +
		"_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
}

func TestTheExampleOfRFC8291IsDecrypted(t *testing.T) {
	device, auth, body := vector(t)
	read, err := readSealed(body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := read.open(device, auth)
	if err != nil || string(text) != "When I grow up, I want to be a watermelon" {
		t.Errorf("got %q, %v", text, err)
	}
	for i := range body {
		damaged := bytes.Clone(body)
		damaged[i] ^= 1
		if read, err := readSealed(damaged); err == nil && (i < 16 || i > 19) { // the record size may be another
			if _, err := read.open(device, auth); err == nil {
				t.Errorf("a change of byte %d went unnoticed", i)
			}
		}
	}
}

func TestARecordEndsInItsDelimiter(t *testing.T) {
	for padded, want := range map[string]string{"a\x02": "a", "a\x02\x00\x00": "a", "\x02": "", "a\x00\x02\x02": "a\x00\x02"} {
		if got, err := unpad([]byte(padded)); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v", padded, got, err)
		}
	}
	for _, padded := range []string{"", "a", "a\x01", "\x00\x00", "a\x02\x00b"} {
		if got, err := unpad([]byte(padded)); err == nil {
			t.Errorf("%q: got %q", padded, got)
		}
	}
}

// FuzzOpenSealed finds no body that breaks the decryption, and none but the RFC's that opens with its keys.
func FuzzOpenSealed(f *testing.F) {
	device, auth, good := vector(f)
	f.Add(good)
	f.Add(good[:minSealed])
	f.Add(append(bytes.Clone(good), 0))
	f.Fuzz(func(t *testing.T, body []byte) {
		read, err := readSealed(body)
		if err != nil {
			return
		}
		text, err := read.open(device, auth)
		if err == nil && string(text) != "When I grow up, I want to be a watermelon" {
			t.Fatalf("%x opened as %q", body, text)
		}
	})
}
