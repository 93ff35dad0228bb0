// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
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
