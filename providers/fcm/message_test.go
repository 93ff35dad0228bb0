// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/push"
)

func decodeJSON(t testing.TB, body []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

func TestCommonFieldsMessage(t *testing.T) {
	three, hour, never := 3, push.Duration(time.Hour), push.Duration(0)
	token := func(n push.Notification) push.Notification {
		n.Token = deviceToken
		return n
	}
	for _, c := range []struct {
		name string
		n    push.Notification
		want string // of message
	}{
		{"a token", token(push.Notification{Title: "T", Body: "B"}), `{"token":"` + deviceToken + `","notification":{"title":"T","body":"B"}}`},
		{"a topic", push.Notification{Target: push.Target{Topic: "news"}, Body: "B"}, `{"topic":"news","notification":{"body":"B"}}`},
		{"a condition", push.Notification{Target: push.Target{Condition: "'a' in topics && !('b' in topics)"}, Body: "B"},
			`{"condition":"'a' in topics && !('b' in topics)","notification":{"body":"B"}}`},
		{"an installation", push.Notification{Target: installation, Body: "B"}, `{"fid":"cE3dZp4rQ0mUx7sYt1kLwA","notification":{"body":"B"}}`},
		{"only data", token(push.Notification{Data: map[string]string{"k": "v", "e": ""}}), `{"token":"` + deviceToken + `",
			"data":{"k":"v","e":""},"apns":{"headers":{"apns-push-type":"background","apns-priority":"5"},"payload":{"aps":{"content-available":1}}}}`},
		{"high", token(push.Notification{Body: "B", Priority: "high"}), `{"token":"` + deviceToken + `","notification":{"body":"B"},
			"android":{"priority":"HIGH"},"apns":{"headers":{"apns-priority":"10"}},"webpush":{"headers":{"Urgency":"high"}}}`},
		{"normal", token(push.Notification{Body: "B", Priority: "normal"}), `{"token":"` + deviceToken + `","notification":{"body":"B"},
			"android":{"priority":"NORMAL"},"apns":{"headers":{"apns-priority":"5"}},"webpush":{"headers":{"Urgency":"normal"}}}`},
		{"low", token(push.Notification{Body: "B", Priority: "low"}), `{"token":"` + deviceToken + `","notification":{"body":"B"},
			"android":{"priority":"NORMAL"},"apns":{"headers":{"apns-priority":"1"}},"webpush":{"headers":{"Urgency":"low"}}}`},
		{"high, only data", token(push.Notification{Data: map[string]string{"k": "v"}, Priority: "high"}), `{"token":"` + deviceToken + `","data":{"k":"v"},
			"android":{"priority":"HIGH"},"apns":{"headers":{"apns-push-type":"background","apns-priority":"5"},"payload":{"aps":{"content-available":1}}},
			"webpush":{"headers":{"Urgency":"high"}}}`},
		{"an hour", token(push.Notification{Body: "B", TTL: &hour}), `{"token":"` + deviceToken + `","notification":{"body":"B"},
			"android":{"ttl":"3600s"},"apns":{"headers":{"apns-expiration":"946688400"}},"webpush":{"headers":{"TTL":"3600"}}}`},
		{"now or never", token(push.Notification{Body: "B", TTL: &never}), `{"token":"` + deviceToken + `","notification":{"body":"B"},
			"android":{"ttl":"0s"},"apns":{"headers":{"apns-expiration":"0"}},"webpush":{"headers":{"TTL":"0"}}}`},
		{"collapsible", token(push.Notification{Body: "B", CollapseKey: "score"}), `{"token":"` + deviceToken + `","notification":{"body":"B"},
			"android":{"collapse_key":"score"},"apns":{"headers":{"apns-collapse-id":"score"}}}`},
		{"all visible fields", token(push.Notification{Title: "T", Subtitle: "S", Body: "B", Image: "https://example.com/a.png", Badge: &three, Sound: "ping"}),
			`{"token":"` + deviceToken + `","notification":{"title":"T","body":"B","image":"https://example.com/a.png"},
			"android":{"notification":{"sound":"ping"}},
			"apns":{"payload":{"aps":{"alert":{"title":"T","subtitle":"S","body":"B"},"badge":3,"sound":"ping","mutable-content":1}}}}`},
		{"only a badge", token(push.Notification{Badge: &three}), `{"token":"` + deviceToken + `","apns":{"payload":{"aps":{"badge":3}}}}`},
		{"special characters", token(push.Notification{Title: "👩‍👩‍👧 \"q\" \\", Body: "שלום مرحبا\n\u0000\u2028", Data: map[string]string{"ключ\"": "値"}}),
			`{"token":"` + deviceToken + `","notification":{"title":"👩‍👩‍👧 \"q\" \\","body":"שלום مرحبا\n\u0000\u2028"},"data":{"ключ\"":"値"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the clock starts at 2000-01-01
				c.n.AcceptedAt = time.Now()
				r := translate(t, newProvider(t), &c.n)
				equal(t, "body", decodeJSON(t, r.Body), decodeJSON(t, []byte(`{"message":`+c.want+`}`)))
				equal(t, "again", string(translate(t, newProvider(t), &c.n).Body), string(r.Body))
				equal(t, "path", r.Path, "/v1/projects/demo-project/messages:send")
				equal(t, "method", r.Method, "POST")
			})
		})
	}
}

func TestRemainingTTLIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hour := push.Duration(time.Hour)
		n := newNotification(func(n *push.Notification) { n.TTL = &hour })
		expiration := `"apns-expiration":"946688400"` // one hour after AcceptedAt, independent of the time of sending
		for _, c := range []struct {
			after time.Duration
			want  string
		}{{0, `"ttl":"3600s"`}, {time.Millisecond, `"ttl":"3600s"`}, {10 * time.Minute, `"ttl":"3000s"`}, {2 * time.Hour, `"ttl":"0s"`}} {
			time.Sleep(time.Until(n.AcceptedAt.Add(c.after)))
			body := string(translate(t, newProvider(t), n).Body)
			equal(t, c.want, strings.Contains(body, c.want) && strings.Contains(body, expiration), true)
		}
	})
}

func TestRawMessageIsMergedOverCommonOne(t *testing.T) {
	hour := push.Duration(time.Hour)
	for _, c := range []struct {
		name, raw, want string
	}{
		{"nothing", `{}`, `{"token":"T","notification":{"title":"Hello","body":"World"},"data":{"k":"v"},
			"android":{"ttl":"3600s","collapse_key":"c"},"apns":{"headers":{"apns-expiration":"946688400","apns-collapse-id":"c"}},"webpush":{"headers":{"TTL":"3600"}}}`},
		{"objects are merged", `{"notification":{"title":"Raw"},"data":{"n":"1"},"android":{"ttl":"1.5s","direct_boot_ok":true,"notification":{"tag":"t"}},
			"apns":{"headers":{"apns-collapse-id":"z"},"payload":{"aps":{"alert":"x"}}},"webpush":{"headers":{"TTL":"9","Topic":"t"},"fcm_options":{"link":"https://example.com"}},"fcm_options":{"analytics_label":"a"}}`,
			`{"token":"T","notification":{"title":"Raw","body":"World"},"data":{"k":"v","n":"1"},
			"android":{"ttl":"1.5s","collapse_key":"c","direct_boot_ok":true,"notification":{"tag":"t"}},
			"apns":{"headers":{"apns-expiration":"946688400","apns-collapse-id":"z"},"payload":{"aps":{"alert":"x"}}},
			"webpush":{"headers":{"TTL":"9","Topic":"t"},"fcm_options":{"link":"https://example.com"}},"fcm_options":{"analytics_label":"a"}}`},
		{"other values are replaced", `{"notification":null,"android":null,"apns":{"payload":{"x":[1.50]}}}`,
			`{"token":"T","notification":null,"data":{"k":"v"},"android":null,"apns":{"headers":{"apns-push-type":"background","apns-priority":"5",
			"apns-expiration":"946688400","apns-collapse-id":"c"},"payload":{"aps":{"content-available":1},"x":[1.50]}},"webpush":{"headers":{"TTL":"3600"}}}`},
		{"camel case", `{"android":{"collapseKey":"raw"},"data":{"collapseKey":"x","collapse_key":"y"}}`,
			`{"token":"T","notification":{"title":"Hello","body":"World"},"data":{"k":"v","collapseKey":"x","collapse_key":"y"},
			"android":{"ttl":"3600s","collapse_key":"raw"},"apns":{"headers":{"apns-expiration":"946688400","apns-collapse-id":"c"}},"webpush":{"headers":{"TTL":"3600"}}}`},
		{"the same target", `{"token":"T","notification":null,"android":null,"apns":null,"webpush":null}`,
			`{"token":"T","notification":null,"data":{"k":"v"},"android":null,"apns":null,"webpush":null}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replacer := strings.NewReplacer(`"T"`, `"`+deviceToken+`"`)
				n := newNotification(withMessage(replacer.Replace(c.raw)), func(n *push.Notification) {
					n.Data, n.TTL, n.CollapseKey = map[string]string{"k": "v"}, &hour, "c"
				})
				n.FCM.ValidateOnly = true
				body := translate(t, newProvider(t), n).Body
				equal(t, "body", decodeJSON(t, body), decodeJSON(t, []byte(`{"validate_only":true,"message":`+replacer.Replace(c.want)+`}`)))
			})
		})
	}
}

func TestRawMessageNeedsNoCommonFields(t *testing.T) {
	n := &push.Notification{Target: device, FCM: &push.FCMBlock{Message: []byte(`{"notification":{"body":"x"}}`)}}
	equal(t, "body", string(translate(t, newProvider(t), n).Body), `{"message":{"token":"`+deviceToken+`","notification":{"body":"x"}}}`)
	n.FCM.Message = []byte(`{"data":{"k":"v"}}`)
	raw := translate(t, newProvider(t), n).Body
	n.FCM, n.Data = nil, map[string]string{"k": "v"}
	equal(t, "the same as with common fields", decodeJSON(t, raw), decodeJSON(t, translate(t, newProvider(t), n).Body))
}

// TestDerivedFieldsFollowMergedMessage checks the fields that depend on the rest of the message, for
// every side that the rest can come from.
func TestDerivedFieldsFollowMergedMessage(t *testing.T) {
	zero := 0
	data := func(n *push.Notification) { n.Title, n.Body, n.Data = "", "", map[string]string{"k": "v"} }
	const background = `{"apns-push-type":"background","apns-priority":"5"}`
	for _, c := range []struct {
		name, raw string
		change    func(*push.Notification)
		want      map[string]string // by path; "" if absent
	}{
		{"data and a raw notification", `{"notification":{"title":"T"}}`, func(n *push.Notification) { data(n); n.Priority = "high"; n.Sound = "ping" },
			map[string]string{"apns.headers": `{"apns-priority":"10"}`, "apns.payload.aps.content-available": "", "android.notification.sound": `"ping"`}},
		{"data and an empty raw notification", `{"notification":{"title":"","body":null}}`, data,
			map[string]string{"apns.headers": background, "apns.payload.aps": `{"content-available":1}`}},
		{"data and a raw alert", `{"apns":{"payload":{"aps":{"alert":"x"}}}}`, data, map[string]string{"apns.headers": "", "apns.payload.aps": `{"alert":"x"}`}},
		{"data and a raw badge", `{"apns":{"payload":{"aps":{"badge":0}}}}`, data, map[string]string{"apns.headers": "", "apns.payload.aps": `{"badge":0}`}},
		{"data and a raw alert of null", `{"apns":{"payload":{"aps":{"alert":null}}}}`, data, map[string]string{"apns.headers": background}},
		{"raw data and a common priority", `{"data":{"k":"v"}}`, func(n *push.Notification) { n.Title, n.Body, n.Priority = "", "", "high" },
			map[string]string{"apns.headers": background, "android.priority": `"HIGH"`}},
		{"raw data and a common badge", `{"data":{"k":"v"}}`, func(n *push.Notification) { n.Title, n.Body, n.Badge = "", "", &zero },
			map[string]string{"apns.headers": "", "apns.payload.aps": `{"badge":0}`}},
		{"texts that the raw message removes", `{"notification":null}`, func(n *push.Notification) { n.Data, n.Sound = map[string]string{"k": "v"}, "" },
			map[string]string{"apns.headers": background}},
		{"raw content-available", `{"apns":{"payload":{"aps":{"content-available":1}}}}`, func(n *push.Notification) { n.Title, n.Body, n.Priority = "", "", "high" },
			map[string]string{"apns.headers": background}},
		{"raw content-available of 0", `{"apns":{"payload":{"aps":{"content-available":0}}}}`, data,
			map[string]string{"apns.headers": "", "apns.payload.aps": `{"content-available":0}`}},
		{"a raw push type", `{"apns":{"headers":{"APNS-Push-Type":"voip"}}}`, func(n *push.Notification) { data(n); n.Priority = "high" },
			map[string]string{"apns.headers": `{"apns-push-type":"voip","apns-priority":"10"}`, "apns.payload": ""}},
		{"a raw background push type", `{"apns":{"headers":{"apns-push-type":"background"}}}`, func(n *push.Notification) { data(n); n.Priority = "high" },
			map[string]string{"apns.headers": background, "apns.payload.aps": `{"content-available":1}`}},
		{"a raw priority that background does not allow", `{"apns":{"headers":{"apns-priority":"10"}}}`, data,
			map[string]string{"apns.headers": `{"apns-priority":"10"}`, "apns.payload.aps": `{"content-available":1}`}},
		{"a raw Live Activity", `{"apns":{"liveActivityToken":"ab","payload":{"aps":{"event":"update","content-state":{}}}}}`,
			func(n *push.Notification) { data(n); n.Priority = "low" },
			map[string]string{"apns.headers": `{"apns-priority":"5"}`, "apns.payload.aps.content-available": ""}},
		{"a subtitle and raw texts", `{"notification":{"title":"Raw","body":null}}`, func(n *push.Notification) { n.Subtitle = "S" },
			map[string]string{"apns.payload.aps.alert": `{"title":"Raw","subtitle":"S"}`}},
		{"a raw image", `{"notification":{"image":"https://example.com/i"}}`, func(*push.Notification) {},
			map[string]string{"apns.payload.aps": `{"mutable-content":1}`}},
		{"a raw image for Apple", `{"apns":{"fcmOptions":{"image":"https://example.com/i"}}}`, func(*push.Notification) {},
			map[string]string{"apns.payload.aps": `{"mutable-content":1}`}},
		{"an image that the raw message removes", `{"notification":{"image":null}}`, func(n *push.Notification) { n.Image = "https://example.com/i" },
			map[string]string{"apns": ""}},
		{"a sound and a raw notification for Android", `{"android":{"notification":{"title_loc_key":"k"}}}`, func(n *push.Notification) { data(n); n.Sound = "ping" },
			map[string]string{"android.notification": `{"title_loc_key":"k","sound":"ping"}`}},
		{"a sound and texts that the raw message removes", `{"notification":null}`, func(n *push.Notification) { n.Sound = "ping" },
			map[string]string{"android": ""}},
		{"a subtitle is not shown on Android", `{}`, func(n *push.Notification) { data(n); n.Subtitle, n.Sound = "S", "ping" },
			map[string]string{"android": "", "apns.payload.aps": `{"alert":{"subtitle":"S"},"sound":"ping"}`}},
		{"android_v2", `{"androidV2":{"remoteNotification":{"notification":{"id":7}}}}`, func(n *push.Notification) { n.Priority, n.CollapseKey, n.Sound = "high", "c", "ping" },
			map[string]string{"android": "", "androidV2": "", "android_v2": `{"collapse_key":"c","remote_notification":{"notification":{"id":7,"sound":"ping"}}}`}},
		{"android_v2 with its own key", `{"android_v2":{"collapseKey":"d","background_sync":{}}}`, func(n *push.Notification) { n.CollapseKey, n.Sound = "c", "ping" },
			map[string]string{"android": "", "android_v2": `{"collapse_key":"d","background_sync":{}}`}},
		{"android_v2 of null", `{"android_v2":null}`, func(n *push.Notification) { n.CollapseKey = "c" }, map[string]string{"android": `{"collapse_key":"c"}`}},
		{"header names in another letter case", `{"apns":{"headers":{"APNS-COLLAPSE-ID":"d"}},"webpush":{"headers":{"urgency":"low","Ttl":"9","Topic":"t"}}}`,
			func(n *push.Notification) { n.CollapseKey, n.Priority, n.TTL = "c", "high", new(push.Duration) },
			map[string]string{"apns.headers": `{"apns-priority":"10","apns-expiration":"0","apns-collapse-id":"d"}`, "webpush.headers": `{"TTL":"9","Urgency":"low","Topic":"t"}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNotification(withMessage(c.raw), c.change)
			body := translate(t, newProvider(t), n).Body
			equal(t, "warnings", len(n.Warnings), 0)
			for path, want := range c.want {
				got, found := decodeJSON(t, body).(map[string]any)["message"], true
				for name := range strings.SplitSeq(path, ".") {
					if members, ok := got.(map[string]any); ok {
						got, found = members[name], members[name] != nil
					} else {
						found = false
					}
				}
				if want == "" {
					equal(t, path+" exists", found, false)
					continue
				}
				equal(t, path, got, decodeJSON(t, []byte(want)))
			}
		})
	}
}

// fieldErrorPattern is the format of a FieldError's text: "field: must be …", without a period.
var fieldErrorPattern = regexp.MustCompile(`^[a-zA-Z0-9_.-]+: must be [^\s].*[^.]$`)

// mustRefuse checks that n cannot be translated, and checks the error's format.
func mustRefuse(t *testing.T, p *fcm.Provider, n *push.Notification) *push.FieldError {
	t.Helper()
	_, err := p.Translate(n)
	refused, ok := errors.AsType[*push.FieldError](err)
	if !ok {
		t.Fatalf("%v, want a FieldError", err)
	}
	if !fieldErrorPattern.MatchString(refused.Error()) {
		t.Errorf("malformed error text %q", refused)
	}
	for _, secret := range []string{n.Key(), n.Title, n.Body} {
		if len(secret) > 5 && strings.Contains(refused.Error(), secret) {
			t.Errorf("%q contains a value of the notification", refused)
		}
	}
	return refused
}

func TestFieldErrors(t *testing.T) {
	minus, long, longest := -1, push.Duration(2419201*time.Second), push.Duration(2419200*time.Second)
	changes := func(change ...func(*push.Notification)) []func(*push.Notification) { return change }
	token := func(s string) []func(*push.Notification) { return changes(withTarget(push.Target{Token: s})) }
	topic := func(s string) []func(*push.Notification) { return changes(withTarget(push.Target{Topic: s})) }
	data := func(name string) []func(*push.Notification) {
		return changes(func(n *push.Notification) { n.Data = map[string]string{name: "v"} })
	}
	translate(t, newProvider(t), newNotification(func(n *push.Notification) { n.TTL = &longest })) // four weeks are allowed

	for _, c := range []struct {
		name          string
		change        []func(*push.Notification)
		field, reason string
	}{
		{"no target", token(""), "token", "InvalidTarget"},
		{"two targets", changes(withTarget(push.Target{Token: "a", Topic: "b"})), "token", "InvalidTarget"},
		{"a channel", changes(withTarget(push.Target{Channel: "x"})), "token", "InvalidTarget"},
		{"a subscription", changes(withTarget(push.Target{Subscription: &push.Subscription{}})), "token", "InvalidTarget"},
		{"a long token", token(strings.Repeat("a", 4097)), "token", "InvalidTarget"},
		{"another path", token("../../v1"), "token", "InvalidTarget"},
		{"an escaped path", token("%2e%2e%2f"), "token", "InvalidTarget"},
		{"a newline", token("abcd\r\n"), "token", "InvalidTarget"},
		{"NUL", token("ab\x00c"), "token", "InvalidTarget"},
		{"non-ASCII letters", token("токен"), "token", "InvalidTarget"},
		{"a topic with its prefix", topic("/topics/news"), "topic", "InvalidTarget"},
		{"a topic with a space", topic("my news"), "topic", "InvalidTarget"},
		{"a long topic", topic(strings.Repeat("t", 901)), "topic", "InvalidTarget"},
		{"an empty condition", changes(withTarget(push.Target{Condition: " "})), "condition", "InvalidTarget"},
		{"an installation with a colon", changes(withTarget(push.Target{Installation: deviceToken})), "installation", "InvalidTarget"},
		{"an empty notification", changes(func(n *push.Notification) { n.Title, n.Body = "", "" }), "body", "PayloadEmpty"},
		{"a negative badge", changes(func(n *push.Notification) { n.Badge = &minus }), "badge", "InvalidField"},
		{"an http image", changes(func(n *push.Notification) { n.Image = "http://example.com/a.png" }), "image", "InvalidField"},
		{"more than four weeks", changes(func(n *push.Notification) { n.TTL = &long }), "ttl", "InvalidField"},
		{"a long collapse key", changes(func(n *push.Notification) { n.CollapseKey = strings.Repeat("k", 65) }), "collapse_key", "InvalidField"},
		{"a collapse key with a newline", changes(func(n *push.Notification) { n.CollapseKey = "a\nb" }), "collapse_key", "InvalidField"},
		{"a title that is not UTF-8", changes(func(n *push.Notification) { n.Title = "a\xffb" }), "title", "InvalidField"},
		{"a sound that is not UTF-8", changes(func(n *push.Notification) { n.Sound = "a\xffb" }), "sound", "InvalidField"},
		{"data that are not UTF-8", changes(func(n *push.Notification) { n.Data = map[string]string{"k": "\xff"} }), "data", "InvalidField"},
		{"data named from", data("from"), "data", "InvalidField"},
		{"data named message_type", data("message_type"), "data", "InvalidField"},
		{"data with a google prefix", data("google.c.a"), "data", "InvalidField"},
		{"data with a gcm prefix", data("gcm.notification.title"), "data", "InvalidField"},
		{"a message that is not an object", changes(withMessage(`[]`)), "fcm.message", "InvalidPayload"},
		{"a message of null", changes(withMessage(`null`)), "fcm.message", "InvalidPayload"},
		{"a truncated message", changes(withMessage(`{"data":{}`)), "fcm.message", "InvalidPayload"},
		{"two messages", changes(withMessage(`{} {}`)), "fcm.message", "InvalidPayload"},
		{"a duplicate name", changes(withMessage(`{"data":{},"data":{}}`)), "fcm.message", "InvalidPayload"},
		{"a message that is not UTF-8", changes(withMessage("{\"x\":\"\xff\"}")), "fcm.message", "InvalidPayload"},
		{"a deeply nested message", changes(withMessage(strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000))), "fcm.message", "InvalidPayload"},
		{"another token", changes(withMessage(`{"token":"another"}`)), "fcm.message.token", "InvalidTarget"},
		{"an additional topic", changes(withMessage(`{"topic":"news"}`)), "fcm.message.topic", "InvalidTarget"},
		{"an additional null topic", changes(withMessage(`{"topic":null}`)), "fcm.message.topic", "InvalidTarget"},
		{"a number in data", changes(withMessage(`{"data":{"n":12}}`)), "fcm.message.data", "InvalidPayload"},
		{"null in data", changes(withMessage(`{"data":{"n":null}}`)), "fcm.message.data", "InvalidPayload"},
		{"data as a list", changes(withMessage(`{"data":["x"]}`)), "fcm.message.data", "InvalidPayload"},
		{"a number in Android's data", changes(withMessage(`{"android":{"data":{"n":12}}}`)), "fcm.message.android.data", "InvalidPayload"},
		{"a header in two spellings", changes(withMessage(`{"webpush":{"headers":{"Urgency":"low","urgency":"high"}}}`)), "fcm.message.webpush.headers.urgency", "InvalidPayload"},
		{"two kinds of Android settings", changes(withMessage(`{"android":{"ttl":"1s"},"android_v2":{"ttl":"1s"}}`)), "fcm.message.android_v2", "InvalidPayload"},
		{"a reserved name in android_v2 data", changes(withMessage(`{"android_v2":{"data":{"google.x":"x"}}}`)), "fcm.message.android_v2.data", "InvalidPayload"},
		{"a reserved name in web push data", changes(withMessage(`{"webpush":{"data":{"from":"x"}}}`)), "fcm.message.webpush.data", "InvalidPayload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused := mustRefuse(t, newProvider(t), newNotification(c.change...))
			equal(t, "field", refused.Field, c.field)
			equal(t, "reason", refused.Reason, c.reason)
		})
	}
}

func TestConditionSyntax(t *testing.T) {
	five := strings.Repeat("'a' in topics || ", 4) + "'b' in topics"
	for condition, good := range map[string]bool{
		"'a' in topics":                                     true,
		"  'a'  in  topics  ":                               true,
		"'a'in topics&&'b'in topics":                        true,
		"'a' in topics && ('b' in topics || 'c' in topics)": true,
		"!('a' in topics)":                                  true,
		"!!'a' in topics":                                   true,
		"((('a-b_c.~%1' in topics)))":                       true,
		five:                                                true,
		five + " || 'c' in topics":                          false,
		"":                                                  false,
		"a in topics":                                       false,
		"'a' in topic":                                      false,
		"'a' in topicsx":                                    false,
		"'a' in topics &&":                                  false,
		"&& 'a' in topics":                                  false,
		"'a' in topics & 'b' in topics":                     false,
		"'a' in topics 'b' in topics":                       false,
		"('a' in topics":                                    false,
		"'a' in topics)":                                    false,
		"'a b' in topics":                                   false,
		"'' in topics":                                      false,
		"'a in topics":                                      false,
		"\"a\" in topics":                                   false,
		strings.Repeat("(", 5000):                           false,
		strings.Repeat("!", 4000):                           false,
		"'a' in topics\x00":                                 false,
	} {
		_, err := newProvider(t).Translate(newNotification(withTarget(push.Target{Condition: condition})))
		equal(t, fmt.Sprintf("%.60q", condition), condition != "" && err == nil, good)
	}
}

// sampleTexts are characters of one to four bytes, of several runes, right to left, and longer in
// JSON than on the device.
var sampleTexts = []string{"a", "é", "値", "🚀", "👩‍👩‍👧", "ש", "م", "\"", "\n"}

func TestPayloadLimit(t *testing.T) {
	for _, c := range []struct {
		target push.Target
		limit  int
	}{{device, 4096}, {installation, 4096}, {newsTopic, 2048}, {push.Target{Condition: "'a' in topics"}, 2048}} {
		for _, text := range sampleTexts {
			t.Run(fmt.Sprintf("%d %q", c.limit, text), func(t *testing.T) {
				rest := c.limit - len("Hello") - len("key") - len("value") - len("https://a.b")
				body := strings.Repeat(text, rest/len(text)) + strings.Repeat("x", rest%len(text))
				newSized := func(body string) *push.Notification {
					return newNotification(withTarget(c.target), func(n *push.Notification) {
						n.Body, n.Image, n.Data = body, "https://a.b", map[string]string{"key": "value"}
					})
				}
				translate(t, newProvider(t), newSized(body))
				refused := mustRefuse(t, newProvider(t), newSized(body+"x"))
				equal(t, "field", refused.Field, "body")
				equal(t, "reason", refused.Reason, "PayloadTooLarge")
				equal(t, "contains the size", strings.Contains(refused.Allowed, fmt.Sprint(c.limit+1)), true)

				over := newNotification(withTarget(c.target), func(n *push.Notification) { n.Title, n.Body = "", "" })
				quoted, _ := json.Marshal(body)
				withMessage(`{"notification":{"title":"Hello","body":` + string(quoted) + `,"image":"https://a.b"},"data":{"key":"value"}}`)(over)
				translate(t, newProvider(t), over)
				withMessage(`{"notification":{"title":"Hello!","body":` + string(quoted) + `,"image":"https://a.b"},"data":{"key":"value"}}`)(over)
				refused = mustRefuse(t, newProvider(t), over)
				equal(t, "field", refused.Field, "fcm.message")
				equal(t, "reason", refused.Reason, "PayloadTooLarge")
			})
		}
	}
}

func TestMergedMessageLimit(t *testing.T) {
	half := strings.Repeat("x", 2046)
	n := newNotification(withMessage(`{"data":{"b":"`+half+`"}}`), func(n *push.Notification) {
		n.Title, n.Body, n.Data = "", "", map[string]string{"a": half}
	})
	translate(t, newProvider(t), n)
	n.Data["c"] = "xx"
	equal(t, "field", mustRefuse(t, newProvider(t), n).Field, "fcm.message")
}

func TestTooLargeNamesLargestField(t *testing.T) {
	big := strings.Repeat("x", 5000)
	for field, change := range map[string]func(*push.Notification){
		"title": func(n *push.Notification) { n.Title = big },
		"data":  func(n *push.Notification) { n.Data = map[string]string{"k": big} },
		"image": func(n *push.Notification) { n.Image = "https://example.com/" + big },
	} {
		equal(t, "field", mustRefuse(t, newProvider(t), newNotification(change)).Field, field)
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add(deviceToken, "", "", "Hello", "Wörld 👋", "k", "v", `{"android":{"collapseKey":"x"}}`, "score", uint8(1), int64(time.Hour))
	f.Add("", "news", "", "\xff", "", "from", "", `{"data":{"a":1}}`, "", uint8(3), int64(0))
	f.Add("", "", "'a' in topics && !('b' in topics)", "", "", "", "", `{"notification":{"body":"x"}}`, "a\nb", uint8(0), int64(-1))
	p := newProvider(f)
	f.Fuzz(func(t *testing.T, token, topic, condition, title, body, key, value, message, collapse string, priority uint8, ttl int64) {
		n := &push.Notification{
			AcceptedAt: time.Now(), Target: push.Target{Token: token, Topic: topic, Condition: condition}, Title: title, Body: body,
			CollapseKey: collapse, Priority: []push.Priority{"", "high", "normal", "low"}[priority%4],
		}
		if message != "" {
			withMessage(message)(n)
		}
		if ttl >= 0 && ttl < int64(1000*time.Hour) {
			n.TTL = (*push.Duration)(&ttl)
		}
		if key != "" {
			n.Data = map[string]string{key: value}
		}
		r, err := p.Translate(n)
		if err != nil {
			if refused, ok := errors.AsType[*push.FieldError](err); !ok || refused.Reason == "" || refused.Allowed == "" {
				t.Errorf("%v", err)
			}
			return
		}
		var back struct {
			Message map[string]json.RawMessage `json:"message"`
		}
		if err := json.Unmarshal(r.Body, &back); err != nil {
			t.Fatalf("%v in %q", err, r.Body)
		}
		targets := 0
		for _, name := range []string{"token", "topic", "condition", "fid"} {
			if to, ok := back.Message[name]; ok {
				targets++
				var target string
				if json.Unmarshal(to, &target) != nil || target != n.Key() {
					t.Errorf("the target is %s", to)
				}
			}
		}
		if targets != 1 {
			t.Errorf("%d targets, want 1", targets)
		}
	})
}

func TestRetargetedRequestEqualsTranslatedOne(t *testing.T) {
	ttl := push.Duration(time.Hour)
	target := func(name, value string) push.Target {
		switch name {
		case "token":
			return push.Target{Token: value}
		case "installation":
			return push.Target{Installation: value}
		default:
			return push.Target{Topic: value}
		}
	}
	for name, change := range map[string]func(*push.Notification){
		"common":        func(n *push.Notification) { n.TTL, n.CollapseKey, n.Priority = &ttl, "score", push.PriorityHigh },
		"data":          func(n *push.Notification) { n.Title, n.Data = "", map[string]string{"k": "v"} },
		"message":       withMessage(`{"android":{"collapseKey":"x"}}`),
		"validate only": func(n *push.Notification) { n.FCM = &push.FCMBlock{ValidateOnly: true} },
		"longest topic": func(n *push.Notification) { n.Body = strings.Repeat("x", 3000) },
	} {
		for _, from := range []string{"token", "installation"} {
			for to, value := range map[string]string{"token": "é\"\\ token", "installation": "a b", "topic": "news", "": ""} {
				synctest.Test(t, func(t *testing.T) {
					p := newProvider(t)
					like, n := newNotification(change), newNotification(change)
					like.Target, n.Target, n.ID = target(from, "fidfidfidfidfidfidfid1"), target(to, value), "other"
					request, err := p.Translate(like)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					want, wantErr := p.Translate(n)
					got, err := p.Retarget(request, like, n)
					if fmt.Sprint(got, err) != fmt.Sprint(want, wantErr) {
						t.Errorf("%s from %s to %s: got %v %v, want %v %v", name, from, to, got, err, want, wantErr)
					}
				})
			}
		}
	}
}
