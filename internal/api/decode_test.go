// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sluice-push/sluice/push"
)

// canary stands for data that a response or log must never contain: a device token, a key, a text.
const canary = "c4nary0c4nary0c4nary0c4nary0c4nary0c4nary0"

// refusals are invalid bodies and the expected problems.
var refusals = []struct{ name, body, slug, field, detail string }{
	{"empty body", ``, "invalid-json", "", "one JSON object"},
	{"white space", " \n", "invalid-json", "", "one JSON object"},
	{"not JSON", canary, "invalid-json", "", "byte 0"},
	{"incomplete object", `{"platform":"apns","token":"` + canary, "invalid-json", "", "byte"},
	{"an array", `[` + validBody + `]`, "invalid-field", "", "the notification must be an object"},
	{"a number", `42`, "invalid-field", "", "must be an object"},
	{"null", `null`, "invalid-field", "platform", `"apns", "fcm", "webpush"`},
	{"trailing data", validBody + validBody, "invalid-json", "", "nothing after it"},
	{"invalid UTF-8", `{"platform":"apns","token":"00","title":"` + "\xff" + `"}`, "invalid-json", "title", "UTF-8"},
	{"the first half of a surrogate pair", `{"platform":"apns","token":"00","title":"` + "\\ud83d" + `"}`, "invalid-json", "title", "as a pair; parsing stopped at byte 41"},
	{"the second half of a surrogate pair", `{"platform":"apns","token":"00","data":{"k":"` + canary + "\\ude00" + `"}}`, "invalid-json", "data.k", "as a pair"},
	{"two first halves", `{"platform":"apns","token":"00","title":"` + "\\ud83d\\ud83d" + `"}`, "invalid-json", "title", "as a pair"},
	{"half of a surrogate pair in a name", `{"platform":"apns","token":"00","data":{"` + "\\uD83D" + `":""}}`, "invalid-json", "data", "as a pair"},
	{"half of a surrogate pair in a raw payload", `{"platform":"apns","token":"00","apns":{"payload":{"a":["` + "\\ud83d" + ` b"]}}}`, "invalid-json", "apns.payload.a.0", "as a pair"},
	{"half of a surrogate pair in an enumeration", `{"platform":"` + "\\ud83d" + `"}`, "invalid-json", "platform", "as a pair"},
	{"an unknown escape sequence", `{"platform":"apns","token":"00","title":"\x41"}`, "invalid-json", "title", `\u with 4 hex digits; parsing`},
	{"an incomplete escape sequence", `{"platform":"apns","token":"00","title":"\u12"}`, "invalid-json", "title", `\u with 4 hex digits; parsing`},
	{"a line break in a string", `{"platform":"apns","token":"00","title":"` + "a\nb" + `"}`, "invalid-json", "title", "control characters"},
	{"UTF-16", "{\x00\"\x00p\x00", "invalid-json", "", "UTF-8"},
	{"UTF-16 with a byte order mark", "\xff\xfe{\x00\"\x00p\x00", "invalid-json", "", "UTF-8"},
	{"a second byte order mark", "\ufeff\ufeff" + validBody, "invalid-json", "", "byte 0"},
	{"an incomplete object in a block", `{"platform":"apns","apns":{"payload":{"aps":`, "invalid-json", "apns.payload.aps", "byte 44, the end"},
	{"a comma at the end", `{"platform":"apns","token":"` + canary + `",}`, "invalid-json", "", "one valid JSON object"},
	{"not a number", `{"platform":"apns","token":"00","badge":NaN}`, "invalid-json", "badge", "valid JSON"},
	{"duplicate name", `{"platform":"apns","token":"00","title":"a","title":"` + canary + `"}`, "duplicate-field", "title", "once"},
	{"duplicate name in data", `{"platform":"apns","token":"00","data":{"k":"a","k":"b"}}`, "duplicate-field", "data.k", "once"},
	{"duplicate name in a raw payload", `{"platform":"apns","token":"00","apns":{"payload":{"aps":{},"aps":{}}}}`, "duplicate-field", "apns.payload.aps", "once"},
	{"an unknown field", `{"platform":"apns","token":"00","tittle":"` + canary + `"}`, "unknown-field", "tittle", "title, token, tokens, topic"},
	{"another letter case", `{"Platform":"apns","token":"00"}`, "unknown-field", "Platform", "platform"},
	{"an unknown field in a block", `{"platform":"apns","token":"00","apns":{"header":{}}}`, "unknown-field", "apns.header", "headers, payload"},
	{"a token instead of a name", `{"platform":"apns","` + canary + `":1}`, "unknown-field", "(…)", "known fields"},
	{"no platform", `{"token":"` + canary + `"}`, "invalid-field", "platform", `"apns", "fcm", "webpush"`},
	{"an unknown platform", `{"platform":"` + canary + `","token":"00"}`, "invalid-field", "platform", `must be one of "apns", "fcm", "webpush"`},
	{"platform as a number", `{"platform":5,"token":"00"}`, "invalid-field", "platform", `must be one of "apns", "fcm", "webpush"`},
	{"unknown priority", `{"platform":"apns","token":"00","priority":"` + canary + `"}`, "invalid-field", "priority", `"high", "normal", "low"`},
	{"unknown lane", `{"platform":"apns","token":"00","lane":"fast"}`, "invalid-field", "lane", `"critical", "normal", "bulk"`},
	{"on_unknown of another type", `{"platform":"apns","token":"00","on_unknown":true}`, "invalid-field", "on_unknown", `"if_collapsible"`},
	{"zero attempts", `{"platform":"apns","token":"00","retry":{"attempts":0}}`, "invalid-field", "retry.attempts", "from 1 to 10"},
	{"empty retry", `{"platform":"apns","token":"00","retry":{}}`, "invalid-field", "retry.attempts", "from 1 to 10"},
	{"too many attempts", `{"platform":"apns","token":"00","retry":{"attempts":11}}`, "invalid-field", "retry.attempts", "from 1 to 10"},
	{"attempts as text", `{"platform":"apns","token":"00","retry":{"attempts":"` + canary + `"}}`, "invalid-field", "retry.attempts", "whole number"},
	{"retry as a number", `{"platform":"apns","token":"00","retry":1}`, "invalid-field", "retry", "must be an object"},
	{"retry with an unknown field", `{"platform":"apns","token":"00","retry":{"budget":"100%"}}`, "unknown-field", "retry.budget", "attempts"},
	{"no target", `{"platform":"apns"}`, "invalid-field", "token", "exactly one of token, topic"},
	{"two targets", `{"platform":"fcm","token":"` + canary + `","topic":"t"}`, "invalid-field", "topic", "exactly one of token, topic"},
	{"token as a number", `{"platform":"apns","token":17}`, "invalid-field", "token", "must be a string"},
	{"badge as text", `{"platform":"apns","token":"00","badge":"` + canary + `"}`, "invalid-field", "badge", "whole number"},
	{"fractional badge", `{"platform":"apns","token":"00","badge":1.5}`, "invalid-field", "badge", "whole number"},
	{"badge out of range", `{"platform":"apns","token":"00","badge":1e999}`, "invalid-field", "badge", "whole number"},
	{"data with a number", `{"platform":"apns","token":"00","data":{"k":1}}`, "invalid-field", "data.k", "must be a string"},
	{"data as a list", `{"platform":"apns","token":"00","data":[]}`, "invalid-field", "data", "object whose values are strings"},
	{"ttl as a number", `{"platform":"apns","token":"00","ttl":60}`, "invalid-field", "ttl", `"1h30m"`},
	{"negative ttl", `{"platform":"apns","token":"00","ttl":"-1s"}`, "invalid-field", "ttl", "not negative"},
	{"tags as text", `{"platform":"apns","token":"00","tags":"` + canary + `"}`, "invalid-field", "tags", "must be a list"},
	{"a tag as a number", `{"platform":"apns","token":"00","tags":["a",1]}`, "invalid-field", "tags[1]", "must be a string"},
	{"a tag that is null", `{"platform":"apns","token":"00","tags":["a",null]}`, "invalid-field", "tags[1]", "1 to 64 letters"},
	{"an empty tag", `{"platform":"apns","token":"00","tags":[""]}`, "invalid-field", "tags[0]", "1 to 64 letters"},
	{"a tag with a space", `{"platform":"apns","token":"00","tags":["b","` + canary + ` a"]}`, "invalid-field", "tags[1]", "'.', '_', '-', ':' and '/'"},
	{"a tag with another letter", `{"platform":"apns","token":"00","tags":["é"]}`, "invalid-field", "tags[0]", "(ASCII)"},
	{"a tag that is too long", `{"platform":"apns","token":"00","tags":["` + strings.Repeat("x", 65) + `"]}`, "invalid-field", "tags[0]", "1 to 64"},
	{"a tag that is given twice", `{"platform":"apns","token":"00","tags":["` + canary + `","b","` + canary + `"]}`, "invalid-field", "tags[2]", "different from tags[0]"},
	{"too many tags", `{"platform":"apns","token":"00","tags":["1","2","3","4","5","6","7","8","9"]}`, "invalid-field", "tags", "at most 8"},
	{"invalid time", `{"platform":"apns","token":"00","send_at":"` + canary + `"}`, "invalid-field", "send_at", "RFC 3339"},
	{"a relative time without a unit", `{"platform":"apns","token":"00","send_at":"+10"}`, "invalid-field", "send_at", `such as "+10m"`},
	{"a relative time with two signs", `{"platform":"apns","token":"00","send_at":"++10m"}`, "invalid-field", "send_at", `such as "+10m"`},
	{"a relative time in the past", `{"platform":"apns","token":"00","send_at":"+-10m"}`, "invalid-field", "send_at", `such as "+10m"`},
	{"a relative time without a sign", `{"platform":"apns","token":"00","send_at":"10m"}`, "invalid-field", "send_at", `such as "+10m"`},
	{"a relative time that overflows", `{"platform":"apns","token":"00","send_at":"+9999999h"}`, "invalid-field", "send_at", `such as "+10m"`},
	{"a relative time as a number", `{"platform":"apns","token":"00","send_at":600}`, "invalid-field", "send_at", `such as "+10m"`},
	{"expirationTime as text", `{"platform":"webpush","subscription":{"expirationTime":"` + canary + `"}}`, "invalid-field", "subscription.expirationTime", "must be a number"},
	{"expirationTime out of range", `{"platform":"webpush","subscription":{"expirationTime":1e999}}`, "invalid-field", "subscription.expirationTime", "must be a number"},
	{"keys as text", `{"platform":"webpush","subscription":{"keys":"` + canary + `"}}`, "invalid-field", "subscription.keys", "must be an object"},
	{"web push payload as an object", `{"platform":"webpush","webpush":{"payload":{}}}`, "invalid-field", "webpush.payload", "must be a string"},
	{"headers as a list", `{"platform":"apns","token":"00","apns":{"headers":[]}}`, "invalid-field", "apns.headers", "object whose values are strings"},
	{"boolean as text", `{"platform":"fcm","token":"00","fcm":{"validate_only":"yes"}}`, "invalid-field", "fcm.validate_only", "true or false"},
	{"payload as text", `{"platform":"apns","token":"00","apns":{"payload":"` + canary + `"}}`, "invalid-field", "apns.payload", "must be an object"},
	{"message as a list", `{"platform":"fcm","token":"00","fcm":{"message":[]}}`, "invalid-field", "fcm.message", "must be an object"},
	{"payload nested too deep", `{"platform":"apns","token":"00","apns":{"payload":` + nestedObject(33) + `}}`, "invalid-field", "apns.payload", "at most 32 deep"},
	{"payload nested beyond the limit of the parser", `{"platform":"apns","token":"00","apns":{"payload":` + nestedObject(12_000) + `}}`, "invalid-json", "", "byte"},
	{"unknown environment", `{"platform":"apns","token":"00","apns":{"environment":"` + canary + `"}}`, "invalid-field", "apns.environment", `must be one of "production", "sandbox"`},
	{"subscription as text", `{"platform":"webpush","subscription":"` + canary + `"}`, "invalid-field", "subscription", "must be an object"},
	{"too many data members", `{"platform":"apns","token":"00","data":` + members(257) + `}`, "invalid-field", "data", "at most 256"},
	{"too many headers", `{"platform":"apns","token":"00","apns":{"headers":` + members(257) + `}}`, "invalid-field", "apns.headers", "at most 256"},
	{"a relative send_at", `{"platform":"apns","token":"00","send_at":"+10m"}`, "needs-queue", "send_at", "scheduling"},
	{"send_at in the future", `{"platform":"apns","token":"00","send_at":"2999-01-01T00:00:00Z"}`, "needs-queue", "send_at", "scheduling"},
}

// nestedObject returns an object that is nested depth levels deep.
func nestedObject(depth int) string {
	return strings.Repeat(`{"a":`, depth-1) + "{}" + strings.Repeat("}", depth-1)
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":"v"`, i)
	}
	return "{" + b.String()[1:] + "}"
}

func TestInvalidNotificationNamesField(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			ts := newTestAPI(t)
			w := ts.request("POST", singlePath, c.body)
			status := 400
			if c.slug == "needs-queue" {
				status = 501
			}
			p := ts.wantProblem(w, status, c.slug)
			if c.field != "" && p.Field != c.field || !strings.Contains(p.Detail, c.detail) {
				t.Errorf("field %q, detail %q", p.Field, p.Detail)
			}
			if strings.Contains(w.Body.String(), canary) {
				t.Errorf("the response repeats the request: %s", w.Body)
			}
			if ts.count() != 0 {
				t.Error("something was sent")
			}
		})
	}
}

func TestInvalidItemsAreRefusedAndOthersSent(t *testing.T) {
	var body strings.Builder
	invalid := 0
	for _, c := range refusals {
		if strings.TrimSpace(c.body) != "" && !strings.Contains(c.body, "\n") {
			body.WriteString(c.body + "\n" + validBody + "\n")
			invalid++
		}
	}
	ts := newTestAPI(t)
	w := ts.request("POST", batchPath, body.String(), ndjson)
	if strings.Contains(w.Body.String(), canary) {
		t.Error("the response repeats the request")
	}
	got := receipts(t, w.Body)
	if w.Code != 200 || len(got) != 2*invalid || ts.count() != invalid {
		t.Fatalf("%d: %d receipts, %d sent", w.Code, len(got), ts.count())
	}
	for index, r := range got {
		if index%2 == 1 && r.Status != "accepted" {
			t.Errorf("%d: %+v", index, r)
		}
		if index%2 == 0 && (r.Status != "refused" || r.Reason == "" || r.Detail == "" || len(r.Attempts) != 0) {
			t.Errorf("%d: %+v", index, r)
		}
	}
}

func TestBodySizeLimit(t *testing.T) {
	ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.Body = 100 })
	body := `{"platform":"apns","token":"00","title":"` + strings.Repeat("x", 100) + `"}`
	if p := ts.wantProblem(ts.request("POST", singlePath, body), 413, "body-too-large"); p.Detail != "must have at most 100 bytes" {
		t.Error(p.Detail)
	}
	w := ts.requestWith(t.Context(), "POST", singlePath, io.MultiReader(strings.NewReader(body)))
	if ts.wantProblem(w, 413, "body-too-large"); ts.count() != 0 {
		t.Error("it was sent")
	}
}

func TestUnsupportedContentTypes(t *testing.T) {
	var zipped bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	if _, err := gz.Write([]byte(validBody)); err != nil || gz.Close() != nil {
		t.Fatal(err)
	}
	ts := newTestAPI(t)
	for _, path := range []string{singlePath, batchPath} {
		p := ts.wantProblem(ts.request("POST", path, zipped.String(), "Content-Encoding: gzip"), 415, "unsupported-body")
		if p.Field != "Content-Encoding" {
			t.Errorf("%+v", p)
		}
		for _, media := range []string{"application/x-www-form-urlencoded", "text/plain", "application/json; charset=latin1", ";"} {
			ts.wantProblem(ts.request("POST", path, validBody, "Content-Type: "+media), 415, "unsupported-body")
		}
	}
	ts.wantProblem(ts.request("POST", singlePath, validBody, ndjson), 415, "unsupported-body")
	if ts.count() != 0 {
		t.Error("something was sent")
	}
	for _, media := range []string{"application/json; charset=UTF-8", "Application/JSON", ""} {
		if w := ts.request("POST", singlePath, validBody, "Content-Type: "+media); w.Code != 200 {
			t.Errorf("%q: %s", media, w.Body)
		}
	}
}

func TestFeaturesThatNeedTheQueueAre501WithoutIt(t *testing.T) {
	ts := newTestAPI(t)
	for _, prefer := range []string{"respond-async", "Respond-Async; wait=10", "handling=lenient, respond-async"} {
		ts.wantProblem(ts.request("POST", singlePath, validBody, "Prefer: "+prefer), 501, "needs-queue")
		ts.wantProblem(ts.request("POST", batchPath, validBody, "Prefer: "+prefer), 501, "needs-queue")
	}
	ts.wantProblem(ts.request("DELETE", singlePath+"/x", ""), 501, "needs-queue")
	ts.wantProblem(ts.request("GET", singlePath+"/x", "", "Authorization: Bearer "+readKey), 501, "needs-queue")
	ts.wantProblem(ts.request("GET", "/v1/apps/shop/events", "", "Authorization: Bearer "+readKey), 501, "needs-queue")
	if ts.count() != 0 {
		t.Error("something was sent")
	}
}

func TestPastSendAtIsSentImmediately(t *testing.T) {
	ts := newTestAPI(t)
	if w := ts.request("POST", singlePath, `{"platform":"apns","token":"00","send_at":"2020-01-01T00:00:00Z"}`); w.Code != 200 || ts.count() != 1 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

// TestEveryFieldHasARule gives each field a value of every other JSON type. The problem must name the
// field, and its rule must not ask for the type that was given.
func TestEveryFieldHasARule(t *testing.T) {
	ruleOf := map[string]string{`"x"`: "a string", `{}`: "an object", `[]`: "a list", `true`: "true or false", `1.5`: "a number"}
	var walk func(prefix, suffix, path string, of reflect.Type)
	walk = func(prefix, suffix, path string, of reflect.Type) {
		for _, f := range reflect.VisibleFields(of) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			fieldType := f.Type
			if fieldType.Kind() == reflect.Pointer {
				fieldType = fieldType.Elem()
			}
			if _, enum := reflect.New(fieldType).Interface().(encoding.TextUnmarshaler); !enum && fieldType.Kind() == reflect.Struct {
				walk(prefix+`"`+name+`":{`, "}"+suffix, path+name+".", fieldType)
			}
			for value, rule := range ruleOf {
				w := newTestAPI(t).request("POST", singlePath, "{"+prefix+`"`+name+`":`+value+suffix+"}")
				var p document
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
					t.Fatal(err)
				}
				if p.Field == path+name && strings.HasSuffix(p.Detail, "must be "+rule) {
					t.Errorf("%s%s = %s: %s", path, name, value, p.Detail)
				}
			}
		}
	}
	walk("", "", "", reflect.TypeFor[push.Notification]())
}

func TestByteOrderMarkIsIgnored(t *testing.T) {
	const bom = "\ufeff"
	ts := newTestAPI(t)
	if w := ts.request("POST", singlePath, bom+validBody); w.Code != 200 || ts.count() != 1 {
		t.Errorf("single: %d %s", w.Code, w.Body)
	}
	for media, body := range map[string]string{
		"application/json":     bom + "[" + validBody + "," + validBody + "]",
		"application/x-ndjson": bom + validBody + "\n" + validBody,
	} {
		for name, in := range map[string]io.Reader{"at once": strings.NewReader(body), "byte by byte": iotest.OneByteReader(strings.NewReader(body))} {
			ts := newTestAPI(t)
			w := ts.requestWith(t.Context(), "POST", batchPath, in, "Content-Type: "+media)
			if got := receipts(t, w.Body); w.Code != 200 || len(got) != 2 || ts.count() != 2 {
				t.Errorf("%s %s: %d %+v", media, name, w.Code, got)
			}
		}
	}
	ts.wantProblem(ts.request("POST", batchPath, bom), 400, "invalid-json")
	if got := receipts(t, ts.request("POST", batchPath, bom, ndjson).Body); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if w := ts.request("POST", batchPath, bom+"[]"); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestLargestItemIsAcceptedAtTheStartOfAnArray(t *testing.T) {
	for _, start := range []string{"[", "\ufeff[", " [ "} {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.Item = len(validBody) })
		body := iotest.OneByteReader(strings.NewReader(start + validBody + "," + validBody + "]"))
		got := receipts(t, ts.requestWith(t.Context(), "POST", batchPath, body).Body)
		if len(got) != 2 || got[0].Status != "accepted" || got[1].Status != "accepted" {
			t.Errorf("%q: %+v", start, got)
		}
	}
}

func TestNullBlocksAreAbsent(t *testing.T) {
	ts := newTestAPI(t)
	w := ts.request("POST", singlePath, `{"platform":"apns","token":"00","topic":null,"apns":{"payload":null},"fcm":null,"ttl":null,"badge":null}`)
	if w.Code != 200 || ts.sent[0].APNs.Payload != nil || ts.sent[0].TTL != nil || ts.sent[0].Badge != nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

func TestNullFieldsAreAbsent(t *testing.T) {
	ts := newTestAPI(t)
	body := `{"platform":"apns","token":"00","idempotency_key":null`
	for _, f := range reflect.VisibleFields(reflect.TypeFor[push.Notification]()) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" && name != "platform" && name != "token" {
			body += fmt.Sprintf(",%q:null", name)
		}
	}
	if got := receipts(t, ts.request("POST", batchPath, "["+body+"}]").Body); len(got) != 1 || got[0].Status != "accepted" {
		t.Fatalf("%+v", got)
	}
	for _, block := range []string{`"apns":{"headers":null,"payload":null,"environment":null}`, `"fcm":{"message":null,"validate_only":null}`,
		`"webpush":{"headers":null,"payload":null}`, `"retry":{"attempts":1}`} {
		if w := ts.request("POST", singlePath, `{"platform":"apns","token":"00",`+block+`}`); w.Code != 200 {
			t.Errorf("%s: %d %s", block, w.Code, w.Body)
		}
	}
}

func TestNullEntriesAreAbsent(t *testing.T) {
	ts := newTestAPI(t)
	const entries = `{"a":"1","b":null,"c":""}`
	for path, body := range map[string]string{
		"single": `{"platform":"apns","token":"00","data":%[1]s,"apns":{"headers":%[1]s},"webpush":{"headers":%[1]s}}`,
		"batch":  `[{"platform":"apns","token":"00","data":%[1]s,"apns":{"headers":%[1]s},"webpush":{"headers":%[1]s}}]`,
	} {
		url := map[string]string{"single": singlePath, "batch": batchPath}[path]
		if w := ts.request("POST", url, fmt.Sprintf(body, entries)); w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		n := ts.sent[len(ts.sent)-1]
		want := map[string]string{"a": "1", "c": ""}
		if !maps.Equal(n.Data, want) || !maps.Equal(n.APNs.Headers, want) || !maps.Equal(n.WebPush.Headers, want) {
			t.Errorf("%s: %v, %v, %v", path, n.Data, n.APNs.Headers, n.WebPush.Headers)
		}
	}
	if w := ts.request("POST", singlePath, `{"platform":"apns","token":"00","data":{"id":1}}`); w.Code != 400 || !strings.Contains(w.Body.String(), `"field":"data.id"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestUnknownMembersOfASubscriptionAreIgnored(t *testing.T) {
	ts := newTestAPI(t)
	const subscription = `{"endpoint":"https://push.example.com/x","expirationTime":null,"keys":{"p256dh":"p","auth":"a","new":"b"},"options":{"userVisibleOnly":true},"contentEncoding":"aes128gcm"}`
	w := ts.request("POST", singlePath, `{"platform":"webpush","subscription":`+subscription+`,"title":"x"}`)
	if w.Code != 200 || ts.count() != 1 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if s := ts.sent[0].Subscription; s.Endpoint != "https://push.example.com/x" || s.Keys.P256dh != "p" || s.Keys.Auth != "a" {
		t.Errorf("%+v", s)
	}
	for body, problem := range map[string]string{
		`{"platform":"webpush","subscription":` + subscription + `,"titel":"x"}`:           "unknown-field",
		`{"platform":"webpush","subscription":{"endpoint":1,"new":1},"title":"x"}`:         "invalid-field",
		`{"platform":"webpush","subscription":{"keys":{"auth":{}},"new":1},"title":"x"}`:   "invalid-field",
		`{"platform":"webpush","subscription":{"new":1,"keys":{"auth":"a","auth":"b"}}}`:   "duplicate-field",
		`{"platform":"webpush","subscription":["https://push.example.com/x"],"title":"x"}`: "invalid-field",
		`{"platform":"webpush","subscription":"https://push.example.com/x","title":"x"}`:   "invalid-field",
	} {
		ts.wantProblem(ts.request("POST", singlePath, body), 400, problem)
	}
}

func TestAllFieldsAreDecoded(t *testing.T) {
	ts := newTestAPI(t)
	ts.request("POST", singlePath, `{"platform":"apns","token":"00","title":"t","subtitle":"s","body":"b \u00e9 \ud83d\ude00","image":"https://e.example/i",
		"badge":0,"sound":"default","data":{"k":"v"},"priority":"high","lane":"bulk","collapse_key":"c","ttl":"1h30m","on_unknown":"never","retry":{"attempts":1},
		"apns":{"headers":{"apns-topic":"x"},"payload":{"aps":{"alert":"]}\"\\"}}}}`)
	if ts.count() != 1 {
		t.Fatal("not sent")
	}
	n := ts.sent[0]
	if n.Body != "b é 😀" || *n.Badge != 0 || n.Data["k"] != "v" || n.Priority != push.PriorityHigh || n.Lane != push.LaneBulk ||
		time.Duration(*n.TTL) != 90*time.Minute || n.OnUnknown != push.RepeatNever || n.Retry.Attempts != 1 || n.APNs.Headers["apns-topic"] != "x" ||
		string(n.APNs.Payload) != `{"aps":{"alert":"]}\"\\"}}` {
		t.Fatalf("%+v", n)
	}
}
