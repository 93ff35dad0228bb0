// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

// fastForms are notifications that the fast decoder must decode, as the strict decoder does.
var fastForms = []string{
	typical,
	validBody,
	" { \"platform\" : \"fcm\" ,\n\t\"topic\" : \"news\" , \"data\" : { } }\r\n",
	`{"platform":"apns","token":"00","title":"","subtitle":"s","image":"https://e.example/i","sound":"default","badge":0,"data":{"":""}}`,
	`{"platform":"apns","token":"00","badge":999999999,"ttl":"1h30m","priority":"high","lane":"bulk","on_unknown":"never"}`,
	`{"platform":"apns","token":"00","title":"déjà vu","body":"a\n\"b\" \ud83d\ude00 \u00e9 \\","data":{"\u006b":"v","é":"\/"}}`,
	`{"platform":"fcm","condition":"'a' in topics"}`,
	`{"platform":"fcm","topic":"t","tags":["campaign:spring/2027", "a"]}`,
	`{"platform":"fcm","topic":"t","tags" : [ ] }`,
	`{"platform":"fcm","installation":"fid"}`,
	`{"platform":"apns","channel":"Y2g="}`,
	`{"platform":"apns","token":"00","apns":{"headers":{"apns-topic":"x","a":null},"payload":{"aps":{"alert":"]}\"\\"}},"environment":"sandbox"}}`,
	`{"platform":"fcm","token":"00","fcm":{"message":{"android":{"priority":"HIGH","n":[1e3,{}]}},"validate_only":true}}`,
	`{"platform":"webpush","subscription":{"endpoint":"https://e.example","expirationTime":null,"keys":{"p256dh":"p","auth":"a"},"new":{}},"webpush":{"payload":"{"}}`,
	`{"token":"no platform"}`,
	`{"platform":"apns","token":"two","topic":"targets"}`,
	`{}`,
}

// strictForms are valid notifications that only the strict decoder decodes.
var strictForms = []string{
	`{"platform":"apns","token":"00","badge":-1}`,
	`{"platform":"apns","token":"00","badge":1000000000}`,
	`{"platform":"apns","token":"00","title":null}`,
	`{"platform":"apns","token":"00","data":null}`,
	`{"platform":"apns","token":"00","tags":null}`,
	`{"platform":"apns","token":"00","data":{"k":null}}`,
	`{"platform":"apns","token":"00","apns":null}`,
	`{"platform":"apns","token":"00","strict":true}`,
	`{"platform":"apns","token":"00","retry":{"attempts":1}}`,
	`{"platform":"apns","token":"00","send_at":"2020-01-01T00:00:00Z"}`,
}

// decodersAgree fails the test if the fast decoder decodes text in another way than the strict
// decoder. It reports whether the fast decoder decodes it.
func decodersAgree(t rapid.TB, text string) bool {
	t.Helper()
	if fast := api.FastDecode([]byte(text), nil); fast != nil {
		want, problem := api.StrictDecode([]byte(text))
		if diff := cmp.Diff(want, fast); diff != "" || problem != api.Check(fast) {
			t.Fatalf("%q\nstrict problem %q, fast problem %q\n%s", text, problem, api.Check(fast), diff)
		}
	}
	var key string
	fast := api.FastDecode([]byte(text), &key)
	if fast == nil {
		return false
	}
	want, wantKey, problem := api.StrictDecodeItem([]byte(text))
	if strings.HasPrefix(problem, "idempotency_key") {
		return true // the strict decoder reports it before it looks at the rest
	}
	if diff := cmp.Diff(want, fast); diff != "" || key != wantKey || problem != api.Check(fast) {
		t.Fatalf("%q\nkeys %q, %q; strict problem %q, fast problem %q\n%s", text, wantKey, key, problem, api.Check(fast), diff)
	}
	return true
}

func TestFastDecoderReadsCommonForms(t *testing.T) {
	for _, text := range fastForms {
		if !decodersAgree(t, text) {
			t.Errorf("not decoded: %s", text)
		}
	}
	for _, text := range strictForms {
		if _, problem := api.StrictDecode([]byte(text)); problem != "" || decodersAgree(t, text) {
			t.Errorf("%s: %s", text, problem)
		}
	}
	item := strings.Replace(validBody, "{", `{"idempotency_key":"k",`, 1)
	if !decodersAgree(t, item) || api.FastDecode([]byte(item), nil) != nil {
		t.Error("idempotency_key must be allowed in a batch only")
	}
}

// TestFastDecoderLeavesErrorsToTheStrictDecoder covers errors that the decoders find. check finds the
// others.
func TestFastDecoderLeavesErrorsToTheStrictDecoder(t *testing.T) {
	for _, c := range refusals {
		if fast := api.FastDecode([]byte(c.body), new(string)); fast != nil && api.Check(fast) == "" {
			t.Errorf("%s: decoded", c.name)
		}
		decodersAgree(t, c.body)
	}
}

// fragments are inserted into notifications. Most of them make a notification invalid.
var fragments = []string{
	"", `"`, `\`, `\"`, `\u00e9`, `\ud83d`, `\ude00`, "{", "}", "[", "]", ",", ":", " ", "\n", "\x00", "\x1f", "\x7f", "é", "\xff", "\xc3", "\ufeff",
	"0", "00", "-1", "1.5", "1e2", "9999999999", "null", "true", `""`, "{}", "[]", `"a":"b",`, `"a":{"b":"}"},`, `,"title":"x"`, `,"data":{"k":"v","k":"w"}`,
	`,"tags":["a","b"]`, `,"tags":["a" "b"]`, `,"tags":["a",]`, `,"tags":[,"a"]`, `,"badge":7`, `,"ttl":"1s"`, `,"ttl":"-1s"`, `,"lane":"critical"`, `,"Title":"x"`, `,"\u0074itle":"y"`, `,"apns":{"payload":{"a":1,"a":2}}`, `,"idempotency_key":"k"`,
	`,"subscription":{}`, `,"fcm":{"message":{}}`, `,"apns":{"payload":` + strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33) + "}",
}

func TestDecodersAgree(t *testing.T) {
	all := append(append([]string{}, fastForms...), strictForms...)
	for _, c := range refusals {
		all = append(all, c.body)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom(all).Draw(t, "text")
		for range rapid.IntRange(1, 3).Draw(t, "edits") {
			from := rapid.IntRange(0, len(text)).Draw(t, "from")
			to := min(len(text), from+rapid.SampledFrom([]int{0, 0, 1, 2, 5}).Draw(t, "deleted"))
			text = text[:from] + rapid.SampledFrom(fragments).Draw(t, "inserted") + text[to:]
		}
		decodersAgree(t, text)
	})
}

func FuzzDecodersAgree(f *testing.F) {
	for _, texts := range [][]string{fastForms, strictForms} {
		for _, text := range texts {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) { decodersAgree(t, text) })
}

func BenchmarkDecode(b *testing.B) {
	for name, decode := range map[string]func([]byte) *push.Notification{
		"fast":   func(text []byte) *push.Notification { return api.FastDecode(text, nil) },
		"strict": func(text []byte) *push.Notification { n, _ := api.StrictDecode(text); return n },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			text := []byte(typical)
			for b.Loop() {
				if decode(text) == nil {
					b.Fatal("not decoded")
				}
			}
		})
	}
}
