// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"encoding/json"
	"testing"
)

// FuzzParseMessage checks that every message that is accepted has a target and is JSON, and that every
// error is a 400 with a JSON body.
func FuzzParseMessage(f *testing.F) {
	for _, seed := range []string{
		`{"message":{"token":"a:b","data":{"k":"v","n":1},"android":{"ttl":"3.5s","priority":"HIGH"}}}`,
		`{"validate_only":true,"message":{"condition":"'a' in topics","notification":{"title":"\ud83d\ude00"}}}`,
		`{"message":{"topic":"t","apns":{"headers":{"a":"b"},"payload":{"aps":{"x":[1,{"y":null}]}}}}}`,
		`{"message":{"token":null,"android":{"notification":{"vibrate_timings":["1s"],"light_settings":{"color":{"red":1e9}}}}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseMessage(body)
		if err != nil {
			if resp := err.response(); resp.Status != 400 || !json.Valid(resp.Body) {
				t.Fatalf("%d %s", resp.Status, resp.Body)
			}
			return
		}
		if m.target == "" || !json.Valid(body) {
			t.Fatalf("accepted %q", body)
		}
	})
}
