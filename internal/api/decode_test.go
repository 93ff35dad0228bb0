// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

// canary stands for what must never come back: a device token, a key, somebody's text.
const canary = "c4nary0c4nary0c4nary0c4nary0c4nary0c4nary0"

// refusals are bodies that are not sent, and what their senders learn.
var refusals = []struct{ name, body, slug, field, says string }{
	{"an empty body", ``, "invalid-json", "", "one JSON object"},
	{"white space", " \n", "invalid-json", "", "one JSON object"},
	{"no JSON", canary, "invalid-json", "", "byte 0"},
	{"half an object", `{"platform":"apns","token":"` + canary, "invalid-json", "", "byte"},
	{"an array", `[` + validBody + `]`, "invalid-field", "", "the notification must be an object"},
	{"a number", `42`, "invalid-field", "", "must be an object"},
	{"null", `null`, "invalid-field", "platform", `"apns", "fcm", "webpush"`},
	{"something behind it", validBody + validBody, "invalid-json", "", "nothing after it"},
	{"invalid UTF-8", `{"platform":"apns","token":"00","title":"` + "\xff" + `"}`, "invalid-json", "title", "UTF-8"},
	{"a lone surrogate", `{"platform":"apns","token":"00","title":"\ud800"}`, "invalid-json", "title", "byte"},
	{"a name given twice", `{"platform":"apns","token":"00","title":"a","title":"` + canary + `"}`, "duplicate-field", "title", "once"},
	{"a name given twice in data", `{"platform":"apns","token":"00","data":{"k":"a","k":"b"}}`, "duplicate-field", "data.k", "once"},
	{"a name given twice in a raw payload", `{"platform":"apns","token":"00","apns":{"payload":{"aps":{},"aps":{}}}}`, "duplicate-field", "apns.payload.aps", "once"},
	{"an unknown field", `{"platform":"apns","token":"00","tittle":"` + canary + `"}`, "unknown-field", "tittle", "title, token, topic"},
	{"other letter case", `{"Platform":"apns","token":"00"}`, "unknown-field", "Platform", "platform"},
	{"an unknown field in a block", `{"platform":"apns","token":"00","apns":{"header":{}}}`, "unknown-field", "apns.header", "headers, payload"},
	{"a token where a name belongs", `{"platform":"apns","` + canary + `":1}`, "unknown-field", "(…)", "known here"},
	{"no platform", `{"token":"` + canary + `"}`, "invalid-field", "platform", `"apns", "fcm", "webpush"`},
	{"an unknown platform", `{"platform":"` + canary + `","token":"00"}`, "invalid-field", "platform", `must be one of "apns", "fcm", "webpush"`},
	{"a platform that is a number", `{"platform":5,"token":"00"}`, "invalid-field", "platform", `must be one of "apns", "fcm", "webpush"`},
	{"a priority that is not one", `{"platform":"apns","token":"00","priority":"` + canary + `"}`, "invalid-field", "priority", `"high", "normal", "low"`},
	{"a lane that is not one", `{"platform":"apns","token":"00","lane":"fast"}`, "invalid-field", "lane", `"critical", "normal", "bulk"`},
	{"an on_unknown that is not one", `{"platform":"apns","token":"00","on_unknown":true}`, "invalid-field", "on_unknown", `"if_collapsible"`},
	{"no attempt at all", `{"platform":"apns","token":"00","retry":{"attempts":0}}`, "invalid-field", "retry.attempts", "from 1 to 10"},
	{"a retry that says nothing", `{"platform":"apns","token":"00","retry":{}}`, "invalid-field", "retry.attempts", "from 1 to 10"},
	{"more attempts than anybody gets", `{"platform":"apns","token":"00","retry":{"attempts":11}}`, "invalid-field", "retry.attempts", "from 1 to 10"},
	{"attempts in words", `{"platform":"apns","token":"00","retry":{"attempts":"` + canary + `"}}`, "invalid-field", "retry.attempts", "whole number"},
	{"a retry that is a number", `{"platform":"apns","token":"00","retry":1}`, "invalid-field", "retry", "must be an object"},
	{"another policy of its own", `{"platform":"apns","token":"00","retry":{"budget":"100%"}}`, "unknown-field", "retry.budget", "attempts"},
	{"no target", `{"platform":"apns"}`, "invalid-field", "token", "exactly one of token, topic"},
	{"two targets", `{"platform":"fcm","token":"` + canary + `","topic":"t"}`, "invalid-field", "topic", "exactly one of token, topic"},
	{"a token that is a number", `{"platform":"apns","token":17}`, "invalid-field", "token", "must be a string"},
	{"a badge that is text", `{"platform":"apns","token":"00","badge":"` + canary + `"}`, "invalid-field", "badge", "whole number"},
	{"a badge with a fraction", `{"platform":"apns","token":"00","badge":1.5}`, "invalid-field", "badge", "whole number"},
	{"a badge beyond all numbers", `{"platform":"apns","token":"00","badge":1e999}`, "invalid-field", "badge", "whole number"},
	{"data that is not all text", `{"platform":"apns","token":"00","data":{"k":1}}`, "invalid-field", "data.k", "must be a string"},
	{"data that is a list", `{"platform":"apns","token":"00","data":[]}`, "invalid-field", "data", "object whose values are strings"},
	{"a ttl that is a number", `{"platform":"apns","token":"00","ttl":60}`, "invalid-field", "ttl", `"1h30m"`},
	{"a ttl that is negative", `{"platform":"apns","token":"00","ttl":"-1s"}`, "invalid-field", "ttl", "not negative"},
	{"a time that is not one", `{"platform":"apns","token":"00","send_at":"` + canary + `"}`, "invalid-field", "send_at", "RFC 3339"},
	{"a switch that is text", `{"platform":"fcm","token":"00","fcm":{"validate_only":"yes"}}`, "invalid-field", "fcm.validate_only", "true or false"},
	{"a payload that is text", `{"platform":"apns","token":"00","apns":{"payload":"` + canary + `"}}`, "invalid-field", "apns.payload", "must be an object"},
	{"a message that is a list", `{"platform":"fcm","token":"00","fcm":{"message":[]}}`, "invalid-field", "fcm.message", "must be an object"},
	{"a payload nested deep", `{"platform":"apns","token":"00","apns":{"payload":` + nestedObject(33) + `}}`, "invalid-field", "apns.payload", "at most 32 deep"},
	{"a payload nested past all sense", `{"platform":"apns","token":"00","apns":{"payload":` + nestedObject(12_000) + `}}`, "invalid-json", "", "byte"},
	{"an environment that is not one", `{"platform":"apns","token":"00","apns":{"environment":"` + canary + `"}}`, "invalid-field", "apns.environment", `must be one of "production", "sandbox"`},
	{"a subscription that is text", `{"platform":"webpush","subscription":"` + canary + `"}`, "invalid-field", "subscription", "must be an object"},
	{"too many data", `{"platform":"apns","token":"00","data":` + members(257) + `}`, "invalid-field", "data", "at most 256"},
	{"too many headers", `{"platform":"apns","token":"00","apns":{"headers":` + members(257) + `}}`, "invalid-field", "apns.headers", "at most 256"},
	{"a time to come", `{"platform":"apns","token":"00","send_at":"2999-01-01T00:00:00Z"}`, "needs-queue", "send_at", "scheduling"},
}

// nestedObject is an object in which objects are depth deep.
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
			d := newTestAPI(t)
			w := d.request("POST", singlePath, c.body)
			status := 400
			if c.slug == "needs-queue" {
				status = 501
			}
			p := d.wantProblem(w, status, c.slug)
			if c.field != "" && p.Field != c.field || !strings.Contains(p.Detail, c.says) {
				t.Errorf("field %q, detail %q", p.Field, p.Detail)
			}
			if strings.Contains(w.Body.String(), canary) {
				t.Errorf("it repeats what was sent: %s", w.Body)
			}
			if d.count() != 0 {
				t.Error("something was sent")
			}
		})
	}
}

func TestInvalidItemsAreRefusedAndOthersSent(t *testing.T) {
	var body strings.Builder
	bad := 0
	for _, c := range refusals {
		if strings.TrimSpace(c.body) != "" && !strings.Contains(c.body, "\n") {
			body.WriteString(c.body + "\n" + validBody + "\n")
			bad++
		}
	}
	d := newTestAPI(t)
	w := d.request("POST", batch, body.String(), ndjson)
	if strings.Contains(w.Body.String(), canary) {
		t.Error("it repeats what was sent")
	}
	got := receipts(t, w.Body)
	if w.Code != 200 || len(got) != 2*bad || d.count() != bad {
		t.Fatalf("%d: %d receipts, %d sent", w.Code, len(got), d.count())
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
	d := newTestAPI(t, func(cfg *api.Config) { cfg.Limits.Body = 100 })
	large := `{"platform":"apns","token":"00","title":"` + strings.Repeat("x", 100) + `"}`
	if p := d.wantProblem(d.request("POST", singlePath, large), 413, "body-too-large"); p.Detail != "must have at most 100 bytes" {
		t.Error(p.Detail)
	}
	w := d.requestWith(t.Context(), "POST", singlePath, io.MultiReader(strings.NewReader(large)))
	if d.wantProblem(w, 413, "body-too-large"); d.count() != 0 {
		t.Error("it was sent")
	}
}

func TestUnsupportedContentTypes(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(validBody)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	d := newTestAPI(t)
	for _, path := range []string{singlePath, batch} {
		p := d.wantProblem(d.request("POST", path, zipped.String(), "Content-Encoding: gzip"), 415, "unsupported-body")
		if p.Field != "Content-Encoding" {
			t.Errorf("%+v", p)
		}
		for _, media := range []string{"application/x-www-form-urlencoded", "text/plain", "application/json; charset=latin1", ";"} {
			d.wantProblem(d.request("POST", path, validBody, "Content-Type: "+media), 415, "unsupported-body")
		}
	}
	d.wantProblem(d.request("POST", singlePath, validBody, ndjson), 415, "unsupported-body")
	if d.count() != 0 {
		t.Error("something was sent")
	}
	for _, media := range []string{"application/json; charset=UTF-8", "Application/JSON", ""} {
		if w := d.request("POST", singlePath, validBody, "Content-Type: "+media); w.Code != 200 {
			t.Errorf("%q: %s", media, w.Body)
		}
	}
}

func TestFeaturesThatNeedTheQueueAre501WithoutIt(t *testing.T) {
	d := newTestAPI(t)
	for _, prefer := range []string{"respond-async", "Respond-Async; wait=10", "handling=lenient, respond-async"} {
		d.wantProblem(d.request("POST", singlePath, validBody, "Prefer: "+prefer), 501, "needs-queue")
		d.wantProblem(d.request("POST", batch, validBody, "Prefer: "+prefer), 501, "needs-queue")
	}
	d.wantProblem(d.request("DELETE", singlePath+"/x", ""), 501, "needs-queue")
	d.wantProblem(d.request("GET", singlePath+"/x", "", "Authorization: Bearer "+readKey), 501, "needs-queue")
	d.wantProblem(d.request("GET", "/v1/apps/shop/events", "", "Authorization: Bearer "+readKey), 501, "needs-queue")
	if d.count() != 0 {
		t.Error("something was sent")
	}
}

func TestPastSendAtIsSentImmediately(t *testing.T) {
	d := newTestAPI(t)
	if w := d.request("POST", singlePath, `{"platform":"apns","token":"00","send_at":"2020-01-01T00:00:00Z"}`); w.Code != 200 || d.count() != 1 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

func TestNullBlocksAreAbsent(t *testing.T) {
	d := newTestAPI(t)
	w := d.request("POST", singlePath, `{"platform":"apns","token":"00","topic":null,"apns":{"payload":null},"fcm":null,"ttl":null,"badge":null}`)
	if w.Code != 200 || d.sent[0].APNs.Payload != nil || d.sent[0].TTL != nil || d.sent[0].Badge != nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

func TestAllFieldsAreDecoded(t *testing.T) {
	d := newTestAPI(t)
	d.request("POST", singlePath, `{"platform":"apns","token":"00","title":"t","subtitle":"s","body":"b \u00e9 \ud83d\ude00","image":"https://e.example/i",
		"badge":0,"sound":"default","data":{"k":"v"},"priority":"high","lane":"bulk","collapse_key":"c","ttl":"1h30m","on_unknown":"never","retry":{"attempts":1},
		"apns":{"headers":{"apns-topic":"x"},"payload":{"aps":{"alert":"]}\"\\"}}}}`)
	if d.count() != 1 {
		t.Fatal("not sent")
	}
	n := d.sent[0]
	if n.Body != "b é 😀" || *n.Badge != 0 || n.Data["k"] != "v" || n.Priority != push.PriorityHigh || n.Lane != push.LaneBulk ||
		time.Duration(*n.TTL) != 90*time.Minute || n.OnUnknown != push.RepeatNever || n.Retry.Attempts != 1 || n.APNs.Headers["apns-topic"] != "x" ||
		string(n.APNs.Payload) != `{"aps":{"alert":"]}\"\\"}}` {
		t.Fatalf("%+v", n)
	}
}
