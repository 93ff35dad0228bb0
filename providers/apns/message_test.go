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
		{"a sound alone", push.Notification{Sound: "ping.caf"}, `{"aps":{"sound":"ping.caf"}}`},
		{"data alone", push.Notification{Data: map[string]string{"k": "v"}}, `{"aps":{"content-available":1},"k":"v"}`},
		{"data called image", push.Notification{Body: "B", Data: map[string]string{"image": "v"}}, `{"aps":{"alert":{"body":"B"}},"image":"v"}`},
		{"every kind of text", push.Notification{
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
	equal(t, "the sender's own", string(n.APNs.Payload), before)
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
		{"nothing said", nil, "alert|||"},
		{"high", []func(*push.Notification){prio("high")}, "alert||10||"},
		{"normal", []func(*push.Notification){prio("normal")}, "alert||5||"},
		{"low", []func(*push.Notification){prio("low")}, "alert||1||"},
		{"data alone", []func(*push.Notification){data}, "background||5||"},
		{"data alone, high", []func(*push.Notification){data, prio("high")}, "background||5||"},
		{"an activity", []func(*push.Notification){activity}, "liveactivity|.push-type.liveactivity|||"},
		{"an activity, low", []func(*push.Notification){activity, prio("low")}, "liveactivity|.push-type.liveactivity|5||"},
		{"now or never", []func(*push.Notification){ttl(0)}, "alert|||0|"},
		{"an hour", []func(*push.Notification){ttl(time.Hour)}, "alert|||1700003600|"},
		{"a moment, rounded up", []func(*push.Notification){ttl(time.Millisecond)}, "alert|||1700000001|"},
		{"collapsible", []func(*push.Notification){key("score")}, "alert||||score"},
		{"raw: content-available", []func(*push.Notification){withPayload(`{"aps":{"content-available":1},"k":1}`)}, "background||5||"},
		{"raw: that and an alert", []func(*push.Notification){withPayload(`{"aps":{"content-available":1,"alert":"x"}}`)}, "alert||||"},
		{"raw: no aps", []func(*push.Notification){withPayload(`{"k":1}`)}, "alert||||"},
		{"own headers win", []func(*push.Notification){prio("high"), ttl(0), key("a"), withHeaders("apns-priority", "1", "apns-expiration", "7", "apns-collapse-id", "b c")}, "alert||1|7|b c"},
		{"own topic of the same app", []func(*push.Notification){withHeaders("apns-topic", topic+".watchkitapp")}, "alert|.watchkitapp|||"},
		{"voip", []func(*push.Notification){typed("voip")}, "voip|.voip|||"},
		{"voip, suffix given", []func(*push.Notification){typed("voip", "apns-topic", topic+".voip")}, "voip|.voip|||"},
		{"location", []func(*push.Notification){typed("location")}, "location|.location-query|||"},
		{"complication", []func(*push.Notification){typed("complication")}, "complication|.complication|||"},
		{"fileprovider", []func(*push.Notification){typed("fileprovider")}, "fileprovider|.pushkit.fileprovider|||"},
		{"pushtotalk", []func(*push.Notification){typed("pushtotalk")}, "pushtotalk|.voip-ptt|||"},
		{"widgets", []func(*push.Notification){typed("widgets")}, "widgets|.push-type.widgets|||"},
		{"controls", []func(*push.Notification){typed("controls")}, "controls|.push-type.controls|||"},
		{"background and empty", []func(*push.Notification){data, func(n *push.Notification) { n.Data = nil }, typed("background")}, "background||5||"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := translate(t, newKeyProvider(t), newNotification(c.change...))
			want := map[string]string{"apns-id": notificationID, "content-type": "application/json"}
			said := strings.Split(c.want+"||||", "|")
			for i, name := range []string{"apns-push-type", "apns-topic", "apns-priority", "apns-expiration", "apns-collapse-id"} {
				if i == 1 {
					said[i] = topic + said[i]
				}
				if said[i] != "" {
					want[name] = said[i]
				}
			}
			equal(t, "header", headerMap(t, r), want)
			equal(t, "path", r.Path, "/3/device/"+deviceToken)
			equal(t, "method", r.Method, "POST")
		})
	}
}

func TestMDMTopicIsCertificateUID(t *testing.T) {
	p := newProvider(t, apns.Config{Topic: "com.apple.mgmt.External.e3b8ceac-1f18-2c8e-8a63-dd17d99435d9"})
	r := translate(t, p, newNotification(withPayload(`{"mdm":"magic"}`), withHeaders("apns-push-type", "mdm")))
	equal(t, "topic", headerMap(t, r)["apns-topic"], "com.apple.mgmt.External.e3b8ceac-1f18-2c8e-8a63-dd17d99435d9")
}

func TestCertificateNeedsNoTopic(t *testing.T) {
	r := translate(t, newProvider(t, apns.Config{}), newNotification())
	_, given := headerMap(t, r)["apns-topic"]
	equal(t, "topic given", given, false)
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

// fieldErrorPattern is how a FieldError must read: so that "field: must be …" is a
// sentence.
var fieldErrorPattern = regexp.MustCompile(`^[a-z_.-]+: must be [^\s].*[^.]$`)

// mustRefuse translates what must not be translated, and checks what is the same
// for every misfit.
func mustRefuse(t *testing.T, p *apns.Provider, n *push.Notification) *push.FieldError {
	t.Helper()
	_, err := p.Translate(n)
	refused, ok := errors.AsType[*push.FieldError](err)
	if !ok {
		t.Fatalf("%v, want a FieldError", err)
	}
	if !fieldErrorPattern.MatchString(refused.Error()) {
		t.Errorf("it reads %q", refused)
	}
	for _, secret := range []string{n.Token, n.Title, n.Body} {
		if len(secret) > 5 && strings.Contains(refused.Error(), secret) {
			t.Errorf("%q tells what the notification holds", refused)
		}
	}
	return refused
}

func TestFieldErrors(t *testing.T) {
	minus := -1
	token := func(s string) func(*push.Notification) {
		return func(n *push.Notification) { n.Token = s }
	}
	is := func(change ...func(*push.Notification)) []func(*push.Notification) { return change }
	for _, c := range []struct {
		name          string
		change        []func(*push.Notification)
		field, reason string
	}{
		{"no target", is(token("")), "token", "InvalidTarget"},
		{"two targets", is(func(n *push.Notification) { n.Topic = "news" }), "token", "InvalidTarget"},
		{"a channel", is(func(n *push.Notification) { n.Target = push.Target{Channel: "dHN0LXNyY2gtY2hubA=="} }), "apns.payload", "InvalidPayload"},
		{"an odd token", is(token("abc")), "token", "InvalidTarget"},
		{"a long token", is(token(strings.Repeat("ab", 101))), "token", "InvalidTarget"},
		{"another path", is(token("../../4/broadcasts/apps/x")), "token", "InvalidTarget"},
		{"an escaped path", is(token("%2e%2e%2f")), "token", "InvalidTarget"},
		{"a query", is(token("ab?b")), "token", "InvalidTarget"},
		{"a fragment", is(token("ab#b")), "token", "InvalidTarget"},
		{"a line end", is(token("abcd\r\n")), "token", "InvalidTarget"},
		{"NUL", is(token("ab\x00c")), "token", "InvalidTarget"},
		{"other digits", is(token("٠١٢٣")), "token", "InvalidTarget"},
		{"nothing at all", is(func(n *push.Notification) { n.Title, n.Body = "", "" }), "body", "PayloadEmpty"},
		{"a negative badge", is(func(n *push.Notification) { n.Badge = &minus }), "badge", "InvalidField"},
		{"an image in clear", is(func(n *push.Notification) { n.Image = "http://example.com/a.png" }), "image", "InvalidField"},
		{"an image nowhere", is(func(n *push.Notification) { n.Image = "https:///a.png" }), "image", "InvalidField"},
		{"data called aps", is(func(n *push.Notification) { n.Data = map[string]string{"aps": "x"} }), "data.aps", "InvalidField"},
		{"two images", is(func(n *push.Notification) {
			n.Image, n.Data = "https://example.com/a.png", map[string]string{"image": "x"}
		}), "data.image", "InvalidField"},
		{"a title that is no text", is(func(n *push.Notification) { n.Title = "a\xffb" }), "title", "InvalidField"},
		{"a body that is no text", is(func(n *push.Notification) { n.Body = "\xc3\x28" }), "body", "InvalidField"},
		{"data that are no text", is(func(n *push.Notification) { n.Data = map[string]string{"k": "\xed\xa0\x80"} }), "data", "InvalidField"},
		{"a name that is no text", is(func(n *push.Notification) { n.Data = map[string]string{"\xff": "v"} }), "data", "InvalidField"},
		{"a long collapse key", is(func(n *push.Notification) { n.CollapseKey = strings.Repeat("k", 65) }), "collapse_key", "InvalidField"},
		{"a collapse key with a line end", is(func(n *push.Notification) { n.CollapseKey = "a\r\nb" }), "collapse_key", "InvalidField"},
		{"a collapse key of 22 letters and 66 bytes", is(func(n *push.Notification) { n.CollapseKey = strings.Repeat("値", 22) }), "collapse_key", "InvalidField"},
		{"a payload that is no object", is(withPayload(`"x"`)), "apns.payload", "InvalidPayload"},
		{"a payload of null", is(withPayload(`null`)), "apns.payload", "InvalidPayload"},
		{"a payload cut short", is(withPayload(`{"aps":{"alert":"x"}`)), "apns.payload", "InvalidPayload"},
		{"a payload and more", is(withPayload(`{} {}`)), "apns.payload", "InvalidPayload"},
		{"a payload that repeats a name", is(withPayload(`{"aps":{"alert":"x","alert":"y"}}`)), "apns.payload", "InvalidPayload"},
		{"a payload that is no text", is(withPayload("{\"k\":\"\xff\"}")), "apns.payload", "InvalidPayload"},
		{"an aps that is no object", is(withPayload(`{"aps":"x"}`)), "apns.payload", "InvalidPayload"},
		{"a deep payload", is(withPayload(strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000))), "apns.payload", "InvalidPayload"},
		{"an activity without its state", is(withHeaders("apns-push-type", "liveactivity")), "apns.payload", "InvalidPayload"},
		{"a header of the gateway's", is(withHeaders("authorization", "bearer x")), "apns.headers.authorization", "InvalidHeader"},
		{"another ID", is(withHeaders("apns-id", notificationID)), "apns.headers.apns-id", "InvalidHeader"},
		{"a pseudo-header", is(withHeaders(":path", "/")), "apns.headers", "InvalidHeader"},
		{"capitals", is(withHeaders("Apns-Priority", "5")), "apns.headers", "InvalidHeader"},
		{"an empty header", is(withHeaders("apns-topic", "")), "apns.headers.apns-topic", "InvalidHeader"},
		{"an unknown push type", is(withHeaders("apns-push-type", "Alert")), "apns.headers.apns-push-type", "InvalidHeader"},
		{"mdm with a key", is(withHeaders("apns-push-type", "mdm")), "apns.headers.apns-push-type", "InvalidHeader"},
		{"a background that is seen", is(withHeaders("apns-push-type", "background")), "apns.headers.apns-push-type", "InvalidHeader"},
		{"a background that is heard", is(withHeaders("apns-push-type", "background"), withPayload(`{"aps":{"sound":"x"}}`)), "apns.headers.apns-push-type", "InvalidHeader"},
		{"priority 7", is(withHeaders("apns-priority", "7")), "apns.headers.apns-priority", "InvalidHeader"},
		{"two priorities", is(withHeaders("apns-priority", "10 5")), "apns.headers.apns-priority", "InvalidHeader"},
		{"an urgent background", is(withHeaders("apns-push-type", "background", "apns-priority", "10"), withPayload(`{"aps":{}}`)), "apns.headers.apns-priority", "InvalidHeader"},
		{"a lazy activity", is(withHeaders("apns-push-type", "liveactivity", "apns-priority", "1"), withPayload(`{"aps":{}}`)), "apns.headers.apns-priority", "InvalidHeader"},
		{"an expiration in words", is(withHeaders("apns-expiration", "tomorrow")), "apns.headers.apns-expiration", "InvalidHeader"},
		{"a negative expiration", is(withHeaders("apns-expiration", "-1")), "apns.headers.apns-expiration", "InvalidHeader"},
		{"an expiration in nanoseconds", is(withHeaders("apns-expiration", "1700000000000000000")), "apns.headers.apns-expiration", "InvalidHeader"},
		{"a long collapse ID", is(withHeaders("apns-collapse-id", strings.Repeat("k", 65))), "apns.headers.apns-collapse-id", "InvalidHeader"},
		{"a collapse ID with a line end", is(withHeaders("apns-collapse-id", "a\nb")), "apns.headers.apns-collapse-id", "InvalidHeader"},
		{"another app's topic", is(withHeaders("apns-topic", "com.example.other")), "apns.headers.apns-topic", "InvalidHeader"},
		{"a topic that begins alike", is(withHeaders("apns-topic", topic+"lication")), "apns.headers.apns-topic", "InvalidHeader"},
		{"a topic that is none", is(withHeaders("apns-topic", topic+".\r\nx: y")), "apns.headers.apns-topic", "InvalidHeader"},
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

// maxPayloads are the largest payloads by push type.
var maxPayloads = map[string]int{
	"alert": 4096, "background": 4096, "location": 4096, "voip": 5120, "complication": 4096, "fileprovider": 4096,
	"liveactivity": 4096, "pushtotalk": 4096, "widgets": 4096, "controls": 4096,
}

func TestRawPayloadLimit(t *testing.T) {
	for name, limit := range maxPayloads {
		for _, text := range sampleTexts {
			t.Run(name+" "+text, func(t *testing.T) {
				of := func(size int) *push.Notification {
					begin := `{"k":"`
					if name == "liveactivity" {
						begin = `{"aps":{"event":"end","timestamp":1},"k":"`
					}
					return newNotification(withHeaders("apns-push-type", name), withPayload(fill(begin, text, `"}`, size)))
				}
				equal(t, "bytes", len(translate(t, newKeyProvider(t), of(limit)).Body), limit)
				refused := mustRefuse(t, newKeyProvider(t), of(limit+1))
				equal(t, "field", refused.Field, "apns.payload")
				equal(t, "reason", refused.Reason, "PayloadTooLarge")
				equal(t, "says how much", strings.Contains(refused.Allowed, fmt.Sprint(limit)) &&
					strings.Contains(refused.Allowed, fmt.Sprint(limit+1)), true)
			})
		}
	}
}

// sampleTexts are of one, two, three and four bytes a letter, of several runes a
// letter, and right to left.
var sampleTexts = []string{"a", "é", "値", "🚀", "👩‍👩‍👧", "ש", "م"}

// fill returns begin, as much of text as fits, and end, in exactly so many
// bytes.
func fill(begin, text, end string, size int) string {
	room := size - len(begin) - len(end)
	return begin + strings.Repeat(text, room/len(text)) + strings.Repeat("x", room%len(text)) + end
}

func TestCommonPayloadLimit(t *testing.T) {
	for _, kind := range []string{"alert", "voip"} {
		for _, text := range append(sampleTexts, `"`, "\n", "\x01") {
			t.Run(fmt.Sprintf("%s %q", kind, text), func(t *testing.T) {
				p := newKeyProvider(t)
				of := func(body string) *push.Notification {
					return newNotification(withHeaders("apns-push-type", kind), func(n *push.Notification) { n.Body = body })
				}
				one := len(translate(t, p, of("x")).Body)
				each := len(translate(t, p, of("x"+text)).Body) - one
				room := maxPayloads[kind] - one
				body := "x" + strings.Repeat(text, room/each) + strings.Repeat("x", room%each)
				equal(t, "bytes", len(translate(t, p, of(body)).Body), maxPayloads[kind])
				refused := mustRefuse(t, p, of(body+"x"))
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

func FuzzWhatIsTranslatedIsWhatAppleTakes(f *testing.F) {
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
