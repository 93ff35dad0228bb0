// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
)

func TestCommonFieldsPayload(t *testing.T) {
	three, zero := 3, 0
	for _, c := range []struct {
		name string
		n    push.Notification
		want string
	}{
		{"all of them", push.Notification{
			Title: "T", Subtitle: "S", Body: "B", Badge: &three, Sound: "default", Image: "https://example.com/a.png",
			Data: map[string]string{"k": "v", "a": ""},
		}, `{"aps":{"alert":{"title":"T","subtitle":"S","body":"B"},"badge":3,"sound":"default","mutable-content":1},"image":"https://example.com/a.png","a":"","k":"v"}`},
		{"a badge that clears", push.Notification{Badge: &zero}, `{"aps":{"badge":0}}`},
		{"only a sound", push.Notification{Sound: "ping.caf"}, `{"aps":{"sound":"ping.caf"}}`},
		{"only data", push.Notification{Data: map[string]string{"k": "v"}}, `{"aps":{"content-available":1},"k":"v"}`},
		{"data named image", push.Notification{Body: "B", Data: map[string]string{"image": "v"}}, `{"aps":{"alert":{"body":"B"}},"image":"v"}`},
		{"special characters", push.Notification{
			Title: "👩‍👩‍👧 \"quoted\" \\ / </script>", Body: "שלום עולם\u200f مرحبا\n\t\u0000\u2028", Data: map[string]string{"ключ\"": "値"},
		}, `{"aps":{"alert":{"title":"👩‍👩‍👧 \"quoted\" \\ / </script>","body":"שלום עולם` + "\u200f" + ` مرحبا\n\t\u0000` + "\u2028" + `"}},"ключ\"":"値"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.n.ID, c.n.Token = notificationID, deviceToken
			body := translate(t, newKeyProvider(t), &c.n).Body
			equal(t, "payload", string(body), c.want)
			var back struct {
				APS struct {
					Alert struct{ Title, Subtitle, Body string }
				}
			}
			if err := json.Unmarshal(body, &back); err != nil {
				t.Fatal(err)
			}
			equal(t, "read back", [...]string{back.APS.Alert.Title, back.APS.Alert.Subtitle, back.APS.Alert.Body},
				[...]string{c.n.Title, c.n.Subtitle, c.n.Body})
		})
	}
}

func TestRawPayloadIsSentUnchanged(t *testing.T) {
	const payload = ` {"aps" : {"alert":"é"}, "n": 1.50, "big": 12345678901234567890 } `
	equal(t, "payload", string(translate(t, newKeyProvider(t), newNotification(withPayload(payload))).Body), payload)
}

func TestOversizedRawPayloadIsCompacted(t *testing.T) {
	n := newNotification(withPayload(`{"aps":{"alert":"x"}` + strings.Repeat(" ", 5000) + `}`))
	before := string(n.APNs.Payload)
	equal(t, "payload", string(translate(t, newKeyProvider(t), n).Body), `{"aps":{"alert":"x"}}`)
	equal(t, "the sender's payload", string(n.APNs.Payload), before)
}

func TestOversizedRawPayloadIsReencoded(t *testing.T) {
	want := fill(`{"aps":{"alert":{"body":"😀/`, "é", `"}},"n":1.50,"quote":"\"\\"}`, 4096)
	escape := strings.NewReplacer("é", `\u00e9`, "😀", `\ud83d\ude00`, "/", `\/`).Replace
	equal(t, "payload", string(translate(t, newKeyProvider(t), newNotification(withPayload(escape(want)))).Body), want)
	longer := newNotification(withPayload(escape(want[:len(want)-1] + ` , "k":1 }`)))
	equal(t, "longer", mustRefuse(t, newKeyProvider(t), longer).Reason, "PayloadTooLarge")
}

func TestRequestHeaders(t *testing.T) {
	ttl := func(d time.Duration) func(*push.Notification) {
		return func(n *push.Notification) { n.TTL = (*push.Duration)(&d) }
	}
	prio := func(p push.Priority) func(*push.Notification) {
		return func(n *push.Notification) { n.Priority = p }
	}
	key := func(k string) func(*push.Notification) {
		return func(n *push.Notification) { n.CollapseKey = k }
	}
	data := func(n *push.Notification) { n.Title, n.Body, n.Data = "", "", map[string]string{"k": "v"} }
	typed := func(name string, more ...string) func(*push.Notification) {
		return withHeaders(append([]string{"apns-push-type", name}, more...)...)
	}
	activity := withPayload(`{"aps":{"event":"update","timestamp":1,"content-state":{}}}`)

	for _, c := range []struct {
		name   string
		change []func(*push.Notification)
		want   string // push type, topic suffix, priority, expiration, collapse ID
	}{
		{"defaults", nil, "alert|||"},
		{"high", []func(*push.Notification){prio("high")}, "alert||10||"},
		{"normal", []func(*push.Notification){prio("normal")}, "alert||5||"},
		{"low", []func(*push.Notification){prio("low")}, "alert||1||"},
		{"only data", []func(*push.Notification){data}, "background||5||"},
		{"only data, high", []func(*push.Notification){data, prio("high")}, "background||5||"},
		{"an activity", []func(*push.Notification){activity}, "liveactivity|.push-type.liveactivity|||"},
		{"an activity that ends without a state", []func(*push.Notification){withPayload(`{"aps":{"event":"end","timestamp":1}}`)}, "liveactivity|.push-type.liveactivity|||"},
		{"an alert and null members of an activity", []func(*push.Notification){withPayload(`{"aps":{"alert":"x","event":null,"content-state":null}}`)}, "alert||||"},
		{"an activity, low", []func(*push.Notification){activity, prio("low")}, "liveactivity|.push-type.liveactivity|5||"},
		{"now or never", []func(*push.Notification){ttl(0)}, "alert|||0|"},
		{"an hour", []func(*push.Notification){ttl(time.Hour)}, "alert|||1700003600|"},
		{"a millisecond, rounded up", []func(*push.Notification){ttl(time.Millisecond)}, "alert|||1700000001|"},
		{"collapsible", []func(*push.Notification){key("score")}, "alert||||score"},
		{"raw: content-available", []func(*push.Notification){withPayload(`{"aps":{"content-available":1},"k":1}`)}, "background||5||"},
		{"raw: content-available and an alert", []func(*push.Notification){withPayload(`{"aps":{"content-available":1,"alert":"x"}}`)}, "alert||||"},
		{"raw: content-available off", []func(*push.Notification){withPayload(`{"aps":{"content-available":0},"k":1}`)}, "alert||||"},
		{"raw: content-available false", []func(*push.Notification){withPayload(`{"aps":{"content-available":false}}`)}, "alert||||"},
		{"raw: content-available null", []func(*push.Notification){withPayload(`{"aps":{"content-available":null}}`)}, "alert||||"},
		{"raw: content-available true", []func(*push.Notification){withPayload(`{"aps":{"content-available":true}}`)}, "background||5||"},
		{"raw: content-available and null", []func(*push.Notification){withPayload(`{"aps":{"content-available":1,"alert":null,"badge":null,"sound":null}}`)}, "background||5||"},
		{"raw: content-available and empty", []func(*push.Notification){withPayload(`{"aps":{"content-available":1,"alert":"","sound":""}}`)}, "background||5||"},
		{"raw: content-available and an empty object", []func(*push.Notification){withPayload(`{"aps":{"content-available":1,"alert":{ }}}`)}, "background||5||"},
		{"raw: content-available and a badge of 0", []func(*push.Notification){withPayload(`{"aps":{"content-available":1,"badge":0}}`)}, "alert||||"},
		{"raw: background and null", []func(*push.Notification){typed("background"), withPayload(`{"aps":{"content-available":1,"alert":null}}`)}, "background||5||"},
		{"raw: aps null", []func(*push.Notification){withPayload(`{"aps":null,"k":1}`)}, "alert||||"},
		{"raw: no aps", []func(*push.Notification){withPayload(`{"k":1}`)}, "alert||||"},
		{"sender's headers win", []func(*push.Notification){prio("high"), ttl(0), key("a"), withHeaders("apns-priority", "1", "apns-expiration", "7", "apns-collapse-id", "b c")}, "alert||1|7|b c"},
		{"topic of the same app", []func(*push.Notification){withHeaders("apns-topic", topic+".watchkitapp")}, "alert|.watchkitapp|||"},
		{"voip", []func(*push.Notification){typed("voip")}, "voip|.voip|||"},
		{"voip, suffix given", []func(*push.Notification){typed("voip", "apns-topic", topic+".voip")}, "voip|.voip|||"},
		{"topic of voip", []func(*push.Notification){withHeaders("apns-topic", topic+".voip")}, "voip|.voip|||"},
		{"topic of voip, only data", []func(*push.Notification){data, withHeaders("apns-topic", topic+".voip")}, "voip|.voip|||"},
		{"topic of an activity", []func(*push.Notification){withPayload(`{"aps":{"event":"end","timestamp":1}}`), withHeaders("apns-topic", topic+".push-type.liveactivity")}, "liveactivity|.push-type.liveactivity|||"},
		{"topic of a complication of a watch app", []func(*push.Notification){withHeaders("apns-topic", topic+".watchkitapp.complication")}, "complication|.watchkitapp.complication|||"},
		{"names in another case", []func(*push.Notification){withHeaders("Apns-Push-Type", "voip", "APNS-PRIORITY", "5", "Apns-Collapse-Id", "x")}, "voip|.voip|5||x"},
		{"location", []func(*push.Notification){typed("location")}, "location|.location-query|||"},
		{"complication", []func(*push.Notification){typed("complication")}, "complication|.complication|||"},
		{"fileprovider", []func(*push.Notification){typed("fileprovider")}, "fileprovider|.pushkit.fileprovider|||"},
		{"pushtotalk", []func(*push.Notification){typed("pushtotalk")}, "pushtotalk|.voip-ptt|||"},
		{"widgets", []func(*push.Notification){typed("widgets")}, "widgets|.push-type.widgets|||"},
		{"controls", []func(*push.Notification){typed("controls")}, "controls|.push-type.controls|||"},
		{"empty background", []func(*push.Notification){data, func(n *push.Notification) { n.Data = nil }, typed("background")}, "background||5||"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := translate(t, newKeyProvider(t), newNotification(c.change...))
			want := map[string]string{"apns-id": notificationID, "content-type": "application/json"}
			fields := strings.Split(c.want+"||||", "|")
			for i, name := range []string{"apns-push-type", "apns-topic", "apns-priority", "apns-expiration", "apns-collapse-id"} {
				if i == 1 {
					fields[i] = topic + fields[i]
				}
				if fields[i] != "" {
					want[name] = fields[i]
				}
			}
			equal(t, "header", headerMap(t, r), want)
			equal(t, "path", r.Path, "/3/device/"+deviceToken)
			equal(t, "method", r.Method, "POST")
		})
	}
}

func TestConfiguredTopicImpliesPushType(t *testing.T) {
	for _, k := range wantPushTypes {
		if k.suffix == "" {
			continue
		}
		p := newProvider(t, apns.Config{Topic: topic + k.suffix, Signer: newSigner(t)})
		n := newNotification(withPayload(`{"aps":{"event":"end","timestamp":1}}`))
		sent := headerMap(t, translate(t, p, n))
		equal(t, "implied", sent["apns-push-type"]+" "+sent["apns-topic"], k.name+" "+topic+k.suffix)
		for _, other := range wantPushTypes {
			n := newNotification(withPayload(`{"aps":{"event":"end","timestamp":1}}`), withHeaders("apns-push-type", other.name))
			switch {
			case !other.key:
			case other.suffix == "" || other.name == k.name: // the bundle ID of an app can end in .voip
				sent := headerMap(t, translate(t, p, n))
				equal(t, "set", sent["apns-push-type"]+" "+sent["apns-topic"], other.name+" "+topic+k.suffix)
			default:
				equal(t, k.name+" and "+other.name, mustRefuse(t, p, n).Field, "apns.headers.apns-push-type")
			}
		}
	}
	p := newProvider(t, apns.Config{Topic: topic + ".push-type.liveactivity", Signer: newSigner(t)})
	equal(t, "path of a broadcast", translate(t, p, newNotification(withChannel)).Path, "/4/broadcasts/apps/"+topic)
}

func TestImpliedPushTypeNeedsItsCredential(t *testing.T) {
	n := newNotification(withHeaders("apns-topic", topic+".location-query"))
	equal(t, "with a key", headerMap(t, translate(t, newKeyProvider(t), n))["apns-push-type"], "location")
	equal(t, "with a certificate", mustRefuse(t, newCertificateProvider(t), n).Field, "apns.headers.apns-push-type")
}

func TestDeviceTokenIsLowerCase(t *testing.T) {
	n := newNotification(func(n *push.Notification) { n.Token = strings.ToUpper(n.Token) })
	equal(t, "path", translate(t, newKeyProvider(t), n).Path, "/3/device/"+deviceToken)
}

func TestMDMTopicIsCertificateUID(t *testing.T) {
	p := newProvider(t, apns.Config{Topic: "com.apple.mgmt.External.e3b8ceac-1f18-2c8e-8a63-dd17d99435d9"})
	r := translate(t, p, newNotification(withPayload(`{"mdm":"magic"}`), withHeaders("apns-push-type", "mdm")))
	equal(t, "topic", headerMap(t, r)["apns-topic"], "com.apple.mgmt.External.e3b8ceac-1f18-2c8e-8a63-dd17d99435d9")
}

func TestCertificateNeedsNoTopic(t *testing.T) {
	r := translate(t, newProvider(t, apns.Config{}), newNotification())
	_, given := headerMap(t, r)["apns-topic"]
	equal(t, "topic set", given, false)
}

func TestPerNotificationHeadersAreNotIndexed(t *testing.T) {
	d := push.Duration(time.Hour)
	r := translate(t, newKeyProvider(t), newNotification(func(n *push.Notification) { n.TTL, n.CollapseKey = &d, "k" }))
	once := map[string]bool{}
	for _, f := range r.Header {
		once[f.Name] = f.NeverIndexed
	}
	equal(t, "once", once, map[string]bool{
		"apns-id": true, "apns-expiration": true, "apns-collapse-id": true, "apns-topic": false, "apns-push-type": false, "content-type": false,
	})
}

// fieldErrorPattern is the format of a FieldError's text: "field: must be …", without a period.
var fieldErrorPattern = regexp.MustCompile(`^[a-z_.-]+: must be [^\s].*[^.]$`)

// mustRefuse checks that n cannot be translated, and checks the error's format.
func mustRefuse(t *testing.T, p *apns.Provider, n *push.Notification) *push.FieldError {
	t.Helper()
	_, err := p.Translate(n)
	refused, ok := errors.AsType[*push.FieldError](err)
	if !ok {
		t.Fatalf("%v, want a FieldError", err)
	}
	if !fieldErrorPattern.MatchString(refused.Error()) {
		t.Errorf("malformed error text %q", refused)
	}
	for _, secret := range []string{n.Token, n.Title, n.Body} {
		if len(secret) > 5 && strings.Contains(refused.Error(), secret) {
			t.Errorf("%q contains a value of the notification", refused)
		}
	}
	return refused
}

func TestFieldErrors(t *testing.T) {
	minus := -1
	token := func(s string) func(*push.Notification) {
		return func(n *push.Notification) { n.Token = s }
	}
	changes := func(change ...func(*push.Notification)) []func(*push.Notification) { return change }
	for _, c := range []struct {
		name          string
		change        []func(*push.Notification)
		field, reason string
	}{
		{"no target", changes(token("")), "token", "InvalidTarget"},
		{"two targets", changes(func(n *push.Notification) { n.Topic = "news" }), "token", "InvalidTarget"},
		{"a channel", changes(func(n *push.Notification) { n.Target = push.Target{Channel: "dHN0LXNyY2gtY2hubA=="} }), "apns.payload", "InvalidPayload"},
		{"an odd token", changes(token("abc")), "token", "InvalidTarget"},
		{"a long token", changes(token(strings.Repeat("ab", 101))), "token", "InvalidTarget"},
		{"another path", changes(token("../../4/broadcasts/apps/x")), "token", "InvalidTarget"},
		{"an escaped path", changes(token("%2e%2e%2f")), "token", "InvalidTarget"},
		{"a query", changes(token("ab?b")), "token", "InvalidTarget"},
		{"a fragment", changes(token("ab#b")), "token", "InvalidTarget"},
		{"a newline", changes(token("abcd\r\n")), "token", "InvalidTarget"},
		{"NUL", changes(token("ab\x00c")), "token", "InvalidTarget"},
		{"non-ASCII digits", changes(token("٠١٢٣")), "token", "InvalidTarget"},
		{"an empty notification", changes(func(n *push.Notification) { n.Title, n.Body = "", "" }), "body", "PayloadEmpty"},
		{"a negative badge", changes(func(n *push.Notification) { n.Badge = &minus }), "badge", "InvalidField"},
		{"an http image", changes(func(n *push.Notification) { n.Image = "http://example.com/a.png" }), "image", "InvalidField"},
		{"an image without a host", changes(func(n *push.Notification) { n.Image = "https:///a.png" }), "image", "InvalidField"},
		{"data named aps", changes(func(n *push.Notification) { n.Data = map[string]string{"aps": "x"} }), "data.aps", "InvalidField"},
		{"two images", changes(func(n *push.Notification) {
			n.Image, n.Data = "https://example.com/a.png", map[string]string{"image": "x"}
		}), "data.image", "InvalidField"},
		{"a title that is not UTF-8", changes(func(n *push.Notification) { n.Title = "a\xffb" }), "title", "InvalidField"},
		{"a body that is not UTF-8", changes(func(n *push.Notification) { n.Body = "\xc3\x28" }), "body", "InvalidField"},
		{"data that are not UTF-8", changes(func(n *push.Notification) { n.Data = map[string]string{"k": "\xed\xa0\x80"} }), "data", "InvalidField"},
		{"a name that is not UTF-8", changes(func(n *push.Notification) { n.Data = map[string]string{"\xff": "v"} }), "data", "InvalidField"},
		{"a long collapse key", changes(func(n *push.Notification) { n.CollapseKey = strings.Repeat("k", 65) }), "collapse_key", "InvalidField"},
		{"a collapse key with a newline", changes(func(n *push.Notification) { n.CollapseKey = "a\r\nb" }), "collapse_key", "InvalidField"},
		{"a collapse key of 22 letters and 66 bytes", changes(func(n *push.Notification) { n.CollapseKey = strings.Repeat("値", 22) }), "collapse_key", "InvalidField"},
		{"a payload that is not an object", changes(withPayload(`"x"`)), "apns.payload", "InvalidPayload"},
		{"a payload of null", changes(withPayload(`null`)), "apns.payload", "InvalidPayload"},
		{"a truncated payload", changes(withPayload(`{"aps":{"alert":"x"}`)), "apns.payload", "InvalidPayload"},
		{"two payloads", changes(withPayload(`{} {}`)), "apns.payload", "InvalidPayload"},
		{"a duplicate name", changes(withPayload(`{"aps":{"alert":"x","alert":"y"}}`)), "apns.payload", "InvalidPayload"},
		{"a payload that is not UTF-8", changes(withPayload("{\"k\":\"\xff\"}")), "apns.payload", "InvalidPayload"},
		{"an aps that is not an object", changes(withPayload(`{"aps":"x"}`)), "apns.payload", "InvalidPayload"},
		{"a deeply nested payload", changes(withPayload(strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000))), "apns.payload", "InvalidPayload"},
		{"an activity without its state", changes(withHeaders("apns-push-type", "liveactivity")), "apns.payload", "InvalidPayload"},
		{"a header that the gateway sets", changes(withHeaders("authorization", "bearer x")), "apns.headers.authorization", "InvalidHeader"},
		{"another ID", changes(withHeaders("apns-id", notificationID)), "apns.headers.apns-id", "InvalidHeader"},
		{"a pseudo-header", changes(withHeaders(":path", "/")), "apns.headers", "InvalidHeader"},
		{"a header in both cases", changes(withHeaders("apns-priority", "5", "Apns-Priority", "5")), "apns.headers.apns-priority", "InvalidHeader"},
		{"voip with the topic of an activity", changes(withHeaders("apns-push-type", "voip", "apns-topic", topic+".push-type.liveactivity")), "apns.headers.apns-topic", "InvalidHeader"},
		{"an activity with the topic of voip", changes(withHeaders("apns-push-type", "liveactivity", "apns-topic", topic+".voip"), withPayload(`{"aps":{"event":"end","timestamp":1}}`)), "apns.headers.apns-topic", "InvalidHeader"},
		{"an alert with the topic of voip", changes(withHeaders("apns-push-type", "alert", "apns-topic", topic+".voip")), "apns.headers.apns-topic", "InvalidHeader"},
		{"the topic of an activity without a payload", changes(withHeaders("apns-topic", topic+".push-type.liveactivity")), "apns.payload", "InvalidPayload"},
		{"a background with its alert after null", changes(withHeaders("apns-push-type", "background"), withPayload(`{"aps":{"badge":null,"alert":"x"}}`)), "apns.headers.apns-push-type", "InvalidHeader"},
		{"an empty header", changes(withHeaders("apns-topic", "")), "apns.headers.apns-topic", "InvalidHeader"},
		{"an unknown push type", changes(withHeaders("apns-push-type", "Alert")), "apns.headers.apns-push-type", "InvalidHeader"},
		{"mdm with a key", changes(withHeaders("apns-push-type", "mdm")), "apns.headers.apns-push-type", "InvalidHeader"},
		{"a background with an alert", changes(withHeaders("apns-push-type", "background")), "apns.headers.apns-push-type", "InvalidHeader"},
		{"a background with a sound", changes(withHeaders("apns-push-type", "background"), withPayload(`{"aps":{"sound":"x"}}`)), "apns.headers.apns-push-type", "InvalidHeader"},
		{"priority 7", changes(withHeaders("apns-priority", "7")), "apns.headers.apns-priority", "InvalidHeader"},
		{"two priorities", changes(withHeaders("apns-priority", "10 5")), "apns.headers.apns-priority", "InvalidHeader"},
		{"a background with priority 10", changes(withHeaders("apns-push-type", "background", "apns-priority", "10"), withPayload(`{"aps":{}}`)), "apns.headers.apns-priority", "InvalidHeader"},
		{"an activity with priority 1", changes(withHeaders("apns-push-type", "liveactivity", "apns-priority", "1"), withPayload(`{"aps":{}}`)), "apns.headers.apns-priority", "InvalidHeader"},
		{"an expiration in words", changes(withHeaders("apns-expiration", "tomorrow")), "apns.headers.apns-expiration", "InvalidHeader"},
		{"a negative expiration", changes(withHeaders("apns-expiration", "-1")), "apns.headers.apns-expiration", "InvalidHeader"},
		{"an expiration in nanoseconds", changes(withHeaders("apns-expiration", "1700000000000000000")), "apns.headers.apns-expiration", "InvalidHeader"},
		{"a long collapse ID", changes(withHeaders("apns-collapse-id", strings.Repeat("k", 65))), "apns.headers.apns-collapse-id", "InvalidHeader"},
		{"a collapse ID with a newline", changes(withHeaders("apns-collapse-id", "a\nb")), "apns.headers.apns-collapse-id", "InvalidHeader"},
		{"another app's topic", changes(withHeaders("apns-topic", "com.example.other")), "apns.headers.apns-topic", "InvalidHeader"},
		{"a topic with the app's as a prefix", changes(withHeaders("apns-topic", topic+"lication")), "apns.headers.apns-topic", "InvalidHeader"},
		{"a topic that is invalid", changes(withHeaders("apns-topic", topic+".\r\nx: y")), "apns.headers.apns-topic", "InvalidHeader"},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused := mustRefuse(t, newKeyProvider(t), newNotification(c.change...))
			equal(t, "field", refused.Field, c.field)
			equal(t, "reason", refused.Reason, c.reason)
		})
	}
}

func TestLocationRequiresKey(t *testing.T) {
	refused := mustRefuse(t, newCertificateProvider(t), newNotification(withHeaders("apns-push-type", "location")))
	equal(t, "field", refused.Field, "apns.headers.apns-push-type")
}

// maxPayloads are the payload limits by push type.
var maxPayloads = map[string]int{
	"alert": 4096, "background": 4096, "location": 4096, "voip": 5120, "complication": 4096, "fileprovider": 4096,
	"liveactivity": 4096, "pushtotalk": 4096, "widgets": 4096, "controls": 4096,
}

func TestRawPayloadLimit(t *testing.T) {
	for name, limit := range maxPayloads {
		for _, text := range sampleTexts {
			t.Run(name+" "+text, func(t *testing.T) {
				newSized := func(size int) *push.Notification {
					begin := `{"k":"`
					if name == "liveactivity" {
						begin = `{"aps":{"event":"end","timestamp":1},"k":"`
					}
					return newNotification(withHeaders("apns-push-type", name), withPayload(fill(begin, text, `"}`, size)))
				}
				equal(t, "bytes", len(translate(t, newKeyProvider(t), newSized(limit)).Body), limit)
				refused := mustRefuse(t, newKeyProvider(t), newSized(limit+1))
				equal(t, "field", refused.Field, "apns.payload")
				equal(t, "reason", refused.Reason, "PayloadTooLarge")
				equal(t, "contains the sizes", strings.Contains(refused.Allowed, fmt.Sprint(limit)) &&
					strings.Contains(refused.Allowed, fmt.Sprint(limit+1)), true)
			})
		}
	}
}

// sampleTexts are characters of one to four bytes, of several runes, and right to left.
var sampleTexts = []string{"a", "é", "値", "🚀", "👩‍👩‍👧", "ש", "م"}

// fill returns begin, text repeated as often as it fits, and end, in exactly size bytes.
func fill(begin, text, end string, size int) string {
	space := size - len(begin) - len(end)
	return begin + strings.Repeat(text, space/len(text)) + strings.Repeat("x", space%len(text)) + end
}

func TestCommonPayloadLimit(t *testing.T) {
	for _, kind := range []string{"alert", "voip"} {
		for _, text := range append(sampleTexts, `"`, "\n", "\x01") {
			t.Run(fmt.Sprintf("%s %q", kind, text), func(t *testing.T) {
				p := newKeyProvider(t)
				newSized := func(body string) *push.Notification {
					return newNotification(withHeaders("apns-push-type", kind), func(n *push.Notification) { n.Body = body })
				}
				one := len(translate(t, p, newSized("x")).Body)
				each := len(translate(t, p, newSized("x"+text)).Body) - one
				space := maxPayloads[kind] - one
				body := "x" + strings.Repeat(text, space/each) + strings.Repeat("x", space%each)
				equal(t, "bytes", len(translate(t, p, newSized(body)).Body), maxPayloads[kind])
				refused := mustRefuse(t, p, newSized(body+"x"))
				equal(t, "field", refused.Field, "body")
				equal(t, "reason", refused.Reason, "PayloadTooLarge")
			})
		}
	}
}

func TestTooLargeNamesLargestField(t *testing.T) {
	big := strings.Repeat("x", 5000)
	for field, change := range map[string]func(*push.Notification){
		"title": func(n *push.Notification) { n.Title = big },
		"data":  func(n *push.Notification) { n.Data = map[string]string{"k": big} },
		"sound": func(n *push.Notification) { n.Sound = big },
		"image": func(n *push.Notification) { n.Image = "https://example.com/" + big },
	} {
		equal(t, "field", mustRefuse(t, newKeyProvider(t), newNotification(change)).Field, field)
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add(deviceToken, "Hello", "Wörld 👋", "k", "v", "", "", "", "score", uint8(1), int64(time.Hour))
	f.Add("../../x", "\xff", "", "aps", "", "apns-push-type", "background", `{"aps":{}}`, "", uint8(3), int64(0))
	f.Add("ABCD", "", "", "", "", "apns-topic", topic+".x", `{"aps":{"event":1,"content-state":2}}`, "a\nb", uint8(0), int64(-1))
	path := regexp.MustCompile(`^/3/device/[0-9a-fA-F]{2,200}$`)
	p := newKeyProvider(f)
	f.Fuzz(func(t *testing.T, token, title, body, key, value, header, set, payload, collapse string, priority uint8, ttl int64) {
		n := &push.Notification{
			ID: notificationID, AcceptedAt: time.Unix(1_700_000_000, 0), Target: push.Target{Token: token}, Title: title, Body: body, CollapseKey: collapse,
			Priority: []push.Priority{"", "high", "normal", "low"}[priority%4], APNs: &push.APNsBlock{Payload: []byte(payload)},
		}
		if ttl >= 0 && ttl < int64(1000*time.Hour) {
			n.TTL = (*push.Duration)(&ttl)
		}
		if key != "" {
			n.Data = map[string]string{key: value}
		}
		if header != "" {
			n.APNs.Headers = map[string]string{header: set}
		}
		r, err := p.Translate(n)
		if err != nil {
			if refused, ok := errors.AsType[*push.FieldError](err); !ok || refused.Reason == "" || refused.Allowed == "" {
				t.Errorf("%v", err)
			}
			return
		}
		if !path.MatchString(r.Path) || !json.Valid(r.Body) || r.Body[len(r.Body)-1] == 0 || len(r.Body) > 5120 {
			t.Errorf("%s %q", r.Path, r.Body)
		}
		for name, value := range headerMap(t, r) {
			if value == "" || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Errorf("%s: %q", name, value)
			}
		}
	})
}

func TestRetargetedRequestEqualsTranslatedOne(t *testing.T) {
	const other = "ABCDEF0123456789"
	ttl := push.Duration(time.Hour)
	p := newKeyProvider(t)
	for name, change := range map[string]func(*push.Notification){
		"common":  func(n *push.Notification) { n.TTL, n.CollapseKey, n.Priority = &ttl, "score", push.PriorityHigh },
		"payload": func(n *push.Notification) { n.APNs = &push.APNsBlock{Payload: []byte(`{"aps":{"alert":"x"}}`)} },
		"headers": func(n *push.Notification) {
			n.APNs = &push.APNsBlock{Headers: map[string]string{"apns-push-type": "voip", "Apns-New": "x"}}
		},
		"same token": func(n *push.Notification) { n.Token = other },
	} {
		for _, token := range []string{other, deviceToken, "", "xyz", "../../x"} {
			like := newNotification(change)
			request, err := p.Translate(like)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n := newNotification(change)
			n.ID, n.Token = "7d444840-9dc0-11d1-b245-5ffdce74fad2", token
			want, wantErr := p.Translate(n)
			got, err := p.Retarget(request, like, n)
			equal(t, name, fmt.Sprint(got, err), fmt.Sprint(want, wantErr))
			if got != nil {
				equal(t, name+": spare capacity is not shared", &got.Header[0] != &request.Header[0], true)
			}
		}
	}
}
