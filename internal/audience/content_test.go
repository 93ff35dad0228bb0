// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// compile compiles a definition whose JSON form is text.
func compile(t testing.TB, text string) *audience.Content {
	t.Helper()
	c, err := audience.Compile(definition(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func definition(t testing.TB, text string) *audience.Definition {
	t.Helper()
	d := new(audience.Definition)
	if err := unmarshal([]byte(text), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// render renders the first variant for a recipient.
func render(t testing.TB, c *audience.Content, r *audience.Recipient) *push.Notification {
	t.Helper()
	n := new(push.Notification)
	if err := c.Render(r, 0, n); err != nil {
		t.Fatal(err)
	}
	return n
}

func variables(pairs ...string) (v []audience.Variable) {
	for pair := range slices.Chunk(pairs, 2) {
		v = append(v, audience.Variable{Name: pair[0], Value: pair[1]})
	}
	return v
}

func TestVariablesAreSubstitutedEverywhere(t *testing.T) {
	c := compile(t, `{"message":{
		"title":"Hi {{ name }}","subtitle":"{{x|}}","body":"{{a}}{{b|, }}{{a}} {{|{{}}","image":"https://e.test/{{a}}.png","sound":"{{s|default}}",
		"collapse_key":"c-{{a}}","data":{"k":"{{name}}","fixed":"1"},
		"apns":{"headers":{"apns-thread":"{{a}}"},"payload":{"aps":{"alert":{"title-loc-args":["{{name}}","\u007b{name|\"}}"]}},"{{name}}":true}},
		"fcm":{"message":{"android":{"notification":{"tag":"{{a}}"}},"n":1.50}},
		"webpush":{"headers":{"Topic":"{{a}}"},"payload":"{\"t\":\"{{name}}\"}"}}}`)
	quote := `"quoted" \ ` + "\n\u2028<"
	r := audience.Recipient{Platform: push.APNs, Target: push.Target{Token: "00"}, Variables: variables("name", quote, "a", "A")}
	n := render(t, c, &r)
	got := []string{n.Title, n.Subtitle, n.Body, n.Image, n.Sound, n.CollapseKey, n.Data["k"], n.Data["fixed"], n.APNs.Headers["apns-thread"]}
	want := []string{"Hi " + quote, "", "A, A {{", "https://e.test/A.png", "default", "c-A", quote, "1", "A"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var payload struct {
		APS struct {
			Alert struct {
				Args []string `json:"title-loc-args"`
			} `json:"alert"`
		} `json:"aps"`
		Name bool `json:"{{name}}"`
	}
	if err := json.Unmarshal(n.APNs.Payload, &payload); err != nil {
		t.Fatal(err)
	}
	if args := payload.APS.Alert.Args; !payload.Name || !slices.Equal(args, []string{quote, quote}) {
		t.Errorf("the payload is %s", n.APNs.Payload)
	}
	if n.Lane != push.LaneBulk || n.Token != "00" || n.FCM != nil || n.WebPush != nil {
		t.Errorf("got %+v", n)
	}

	r.Platform = push.FCM
	if n = render(t, c, &r); string(n.FCM.Message) != `{"android":{"notification":{"tag":"A"}},"n":1.50}` {
		t.Errorf("the message is %s", n.FCM.Message)
	}
	r.Platform = push.WebPush
	var object map[string]string
	if n = render(t, c, &r); json.Unmarshal([]byte(n.WebPush.Payload), &object) != nil || object["t"] != quote || n.WebPush.Headers["Topic"] != "A" {
		t.Errorf("the payload is %s", n.WebPush.Payload)
	}
}

func TestRenderDoesNotChangeWhatNotificationsShare(t *testing.T) {
	c := compile(t, `{"message":{"data":{"k":"{{a|1}}"},"apns":{"headers":{"h":"{{a|1}}"},"payload":{"a":"{{a|1}}"}}}}`)
	first := render(t, c, &audience.Recipient{Platform: push.APNs})
	second := render(t, c, &audience.Recipient{Platform: push.APNs, Variables: variables("a", "2")})
	for _, test := range []struct {
		n    *push.Notification
		want string
	}{{first, "1"}, {second, "2"}} {
		if test.n.Data["k"] != test.want || test.n.APNs.Headers["h"] != test.want || string(test.n.APNs.Payload) != `{"a":"`+test.want+`"}` {
			t.Errorf("got %v %v %s", test.n.Data, test.n.APNs.Headers, test.n.APNs.Payload)
		}
	}
}

func TestEscapedBracesOfPayloadAreVariables(t *testing.T) {
	c := compile(t, `{"message":{"apns":{"payload":{"a":"\u007b\u007bname}}"}}}}`)
	if n := render(t, c, &audience.Recipient{Platform: push.APNs, Variables: variables("name", "x")}); string(n.APNs.Payload) != `{"a":"x"}` {
		t.Errorf("the payload is %s", n.APNs.Payload)
	}
}

func TestMissingVariableIsAnError(t *testing.T) {
	c := compile(t, `{"message":{"title":"{{first}}","body":"{{last|x}} {{last}}"}}`)
	for _, v := range [][]audience.Variable{variables("first", "a"), variables("first", "a", "last", "")} {
		err := c.Render(&audience.Recipient{Platform: push.FCM, Variables: v}, 0, new(push.Notification))
		want := &strictjson.Error{Reason: audience.MissingVariable, Field: "variables.last", Detail: "must be set: body uses it without a default"}
		if got, ok := errors.AsType[*strictjson.Error](err); !ok || *got != *want {
			t.Errorf("got %v", err)
		}
	}
	if got := c.Variables(); !slices.Equal(got, []string{"first", "last"}) {
		t.Errorf("variables %v", got)
	}
}

func TestMoreSpecificFieldsWin(t *testing.T) {
	c := compile(t, `{"language":"en","message":{
		"title":"en","body":"body","ttl":"1h","data":{"a":"1","b":"2"},
		"platforms":{"fcm":{"title":"en fcm","data":{"b":null,"c":"3"},"languages":{"de":{"title":"de fcm"}}},"apns":{"badge":1}},
		"languages":{"de":{"title":"de"},"pt-BR":{"title":"pt"},"zh-Hant":{"title":"zh"}}}}`)
	for _, test := range []struct {
		platform push.Platform
		language string
		want     string
	}{
		{push.APNs, "", "en"}, {push.APNs, "de", "de"}, {push.APNs, "de-AT", "de"}, {push.APNs, "de_CH", "de"}, {push.APNs, "fr", "en"},
		{push.APNs, "pt", "pt"}, {push.APNs, "pt-PT", "pt"}, {push.APNs, "zh-TW", "zh"}, {push.APNs, "en-GB", "en"}, {push.APNs, "xx-YY", "en"},
		{push.FCM, "", "en fcm"}, {push.FCM, "de", "de fcm"}, {push.FCM, "pt", "pt"},
	} {
		for range 2 { // the second time from the cache
			if n := render(t, c, &audience.Recipient{Platform: test.platform, Language: test.language}); n.Title != test.want || n.Body != "body" {
				t.Errorf("%s in %q: %q, want %q", test.platform, test.language, n.Title, test.want)
			}
		}
	}
	data := render(t, c, &audience.Recipient{Platform: push.FCM, Language: "de"}).Data
	if diff := cmp.Diff(map[string]string{"a": "1", "c": "3"}, data); diff != "" {
		t.Error(diff)
	}
	if got, want := c.Languages(), []string{"en", "de", "pt-BR", "zh-Hant"}; !slices.Equal(got, want) {
		t.Errorf("languages %v", got)
	}
}

func TestInvalidDefinitionNamesField(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for _, test := range []struct{ definition, want string }{
		{`{}`, "message: must be set, or variants instead"},
		{`{"variants":[]}`, "message: must be set, or variants instead"},
		{`{"message":{},"variants":[{"name":"a","weight":1,"message":{}}]}`, "variants: must be absent if message is set"},
		{`{"message":[]}`, "message: must be an object"},
		{`{"message":{"titel":"a"}}`, "message.titel: unknown field; known fields: apns, badge, body,"},
		{`{"message":{"token":"a"}}`, "message.token: unknown field; known fields: apns, badge, body,"},
		{`{"message":{"lane":"bulk"}}`, "message.lane: unknown field; known fields: apns, badge, body,"},
		{`{"message":{"title":1}}`, "message.title: must be a string"},
		{`{"message":{"ttl":"soon"}}`, `message.ttl: must be a duration such as "90s" or "1h30m", not negative`},
		{`{"message":{"tags":["a","a"]}}`, "message.tags[1]: must be different from tags[0]"},
		{`{"message":{"retry":{"attempts":11}}}`, "message.retry.attempts: must be a whole number from 1 to 10"},
		{`{"message":{"apns":{"payload":[]}}}`, "message.apns.payload: must be an object"},
		{`{"message":{"fcm":{"message":"x"}}}`, "message.fcm.message: must be an object"},
		{`{"message":{"fcm":{"message":` + deep + `}}}`, "message: must be nested at most 32 deep"},
		{`{"message":{"platforms":{"ios":{}}}}`, `message.platforms.ios: must be one of "apns", "fcm", "webpush"`},
		{`{"message":{"platforms":{"fcm":{"body":false}}}}`, "message.platforms.fcm.body: must be a string"},
		{`{"message":{"platforms":{"fcm":{"platforms":{}}}}}`, "message.platforms.fcm.platforms: unknown field"},
		{`{"message":{"languages":{"deutsch!":{}}}}`, "message.languages: must have names that are BCP 47 language tags, such as de or pt-BR"},
		{`{"message":{"languages":{"de":{},"DE":{}}}}`, "message.languages.de: must be another language than DE"},
		{`{"message":{"languages":{"de":{"title":"{{"}}}}`, "message.languages.de.title: must close each {{ with }}"},
		{`{"message":{"platforms":{"fcm":{"languages":{"de":{"data":{"k":"{{1}}"}}}}}}}`, "message.platforms.fcm.languages.de.data.k: must close each {{"},
		{`{"language":"de","message":{"languages":{"de":{}}}}`, "language: must be another language than those in languages"},
		{`{"language":"?","message":{}}`, `language: must be a BCP 47 language tag such as "de" or "pt-BR"`},
		{`{"message":{"title":"{{}}"}}`, "message.title: must close each {{"},
		{`{"message":{"apns":{"payload":{"a":["{{a b}}"]}}}}`, "message.apns.payload: must close each {{"},
		{`{"message":{"title":"` + strings.Repeat("{{a}} ", 257) + `"}}`, "message: must use fewer variables: at most 256 times in all"},
		{`{"message":{"title":"` + strings.Repeat("a", 256<<10) + `"}}`, "message: must have at most 262144 bytes, together with the messages of all variants"},
		{`{"variants":[` + strings.Repeat(`{"name":"a","weight":1,"message":{"title":"`+strings.Repeat("a", 200<<10)+`"}},`, 2) + `{}]}`, "message: must have at most 262144 bytes"},
		{`{"message":{"webpush":{"headers":{"Topic":"{{a"}}}}`, "message.webpush.headers.Topic: must close each {{"},
		{`{"variants":[{"name":"a","weight":1,"message":{"titel":""}}]}`, "variants[0].message.titel: unknown field"},
		{`{"variants":[{"name":"a b","weight":1,"message":{}}]}`, "variants[0].name: must have 1 to 64 letters"},
		{`{"variants":[{"name":"a","weight":0,"message":{}}]}`, "variants[0].weight: must be a whole number from 1 to 1,000,000"},
		{`{"variants":[{"name":"a","weight":1,"message":{}},{"name":"a","weight":1,"message":{}}]}`, "variants[1].name: must differ from those of other variants"},
		{`{"variants":[{"name":"a","weight":1}]}`, "variants[0].message: must be set"},
		{`{"variants":[{"name":"a","weight":1,"message":{"languages":{"de":{}}}},{"name":"b","weight":1,"message":{}}]}`, "variants[1].message.languages: must be the languages of the first variant: de"},
	} {
		_, err := audience.Compile(definition(t, test.definition))
		if _, ok := errors.AsType[*strictjson.Error](err); !ok || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s:\n got %v\nwant %s", test.definition, err, test.want)
		}
	}
}

// TestMessageHasFieldsOfNotification fails when a notification gets a field that a message does not
// have and that a broadcast does not set.
func TestMessageHasFieldsOfNotification(t *testing.T) {
	const setByBroadcast = " platform token topic condition channel installation subscription lane send_at dry_run "
	_, err := audience.Compile(&audience.Definition{Message: jsontext.Value(`{"unknown":1}`)})
	known := strings.Split(strings.TrimPrefix(err.Error(), "message.unknown: unknown field; known fields: "), ", ")
	for _, f := range reflect.VisibleFields(reflect.TypeFor[push.Notification]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" && !strings.Contains(setByBroadcast, " "+name+" ") && !slices.Contains(known, name) {
			t.Errorf("a message has no field %s", name)
		}
	}
}

func TestAllFieldsAreRendered(t *testing.T) {
	text := `{"title":"a","subtitle":"b","body":"c","image":"d","badge":1,"sound":"e","data":{"f":"g"},"tags":["h"],"priority":"high","collapse_key":"i",
		"ttl":"1h","on_unknown":"always","retry":{"attempts":2},"strict":true,"apns":{"environment":"sandbox"}}`
	var want push.Notification
	if err := unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	want.Platform, want.Lane = push.APNs, push.LaneBulk
	if diff := cmp.Diff(&want, render(t, compile(t, `{"message":`+text+`}`), &audience.Recipient{Platform: push.APNs})); diff != "" {
		t.Error(diff)
	}
}

func TestSamplesShowEachMessage(t *testing.T) {
	c := compile(t, `{"language":"en","variants":[
		{"name":"a","weight":1,"message":{"title":"a {{name|you}}","languages":{"de":{"title":"a de {{name}}"}}}},
		{"name":"b","weight":1,"message":{"title":"b","languages":{"de":{"title":"b de"}}}}]}`)
	var got []string
	for s, n := range c.Samples() {
		got = append(got, fmt.Sprintf("%s %s %s %v: %s", s.Platform, s.Variant, s.Language, s.Missing, n.Title))
	}
	if want := []string{"apns a en []: a you", "apns a de [name]: a de name", "apns b en []: b", "apns b de []: b de"}; len(got) != 12 || !slices.Equal(got[:4], want) {
		t.Errorf("got %q", got)
	}
	for range c.Samples() {
		break
	}
}

func device(i int) *audience.Recipient {
	token := binary.BigEndian.AppendUint64(make([]byte, 24, 32), uint64(i))
	return &audience.Recipient{Platform: push.APNs, Target: push.Target{Token: hex.EncodeToString(token)}}
}

func TestVariantSharesFollowWeights(t *testing.T) {
	c := compile(t, `{"variants":[{"name":"a","weight":1,"message":{}},{"name":"b","weight":50,"message":{}},{"name":"c","weight":49,"message":{}}]}`)
	for _, test := range []struct {
		name      string
		recipient func(int) *audience.Recipient
		count     int
		bound     float64
	}{
		{"target", device, 1_000_000, 0.001},
		{"key", func(i int) *audience.Recipient { return &audience.Recipient{Key: strconv.Itoa(i)} }, 1_000_000, 0.001},
	} {
		if raceEnabled {
			test.count, test.bound = test.count/10, 5*test.bound
		}
		counts := make([]int, 3)
		for i := range test.count {
			counts[c.Variant("broadcast", test.recipient(i))]++
		}
		for i, want := range []float64{0.01, 0.50, 0.49} {
			share := float64(counts[i]) / float64(test.count)
			if diff := share - want; diff < -test.bound || diff > test.bound {
				t.Errorf("by %s, variant %d has a share of %.5f, want %.2f", test.name, i, share, want)
			}
		}
	}
}

func TestVariantIsStable(t *testing.T) {
	const text = `{"variants":[{"name":"a","weight":1,"message":{}},{"name":"b","weight":1,"message":{}}]}`
	first, again := compile(t, text), compile(t, text)
	other := 0
	for i := range 1000 {
		r := device(i)
		v := first.Variant("1", r)
		upper := *r
		upper.Target.Token, upper.Language = strings.ToUpper(r.Target.Token), "de"
		if again.Variant("1", r) != v || again.Variant("1", &upper) != v {
			t.Fatalf("device %d gets another variant the second time", i)
		}
		if first.Variant("2", r) != v {
			other++
		}
	}
	if other < 400 || other > 600 {
		t.Errorf("%d of 1,000 devices get another variant in another broadcast", other)
	}
	phone, tablet := device(1), device(2)
	for i := range 100 {
		phone.Key, tablet.Key = fmt.Sprint(i), fmt.Sprint(i)
		if first.Variant("1", phone) != first.Variant("1", tablet) {
			t.Fatal("two devices with one key get different variants")
		}
	}
}

func TestContentIsSafeForConcurrentUse(t *testing.T) {
	c := compile(t, `{"language":"en","message":{"title":"{{a|b}}","data":{"k":"{{a|b}}"},"languages":{"de":{"title":"de"}}}}`)
	var goroutines sync.WaitGroup
	for g := range 4 {
		goroutines.Go(func() {
			for i := range 200 {
				r := audience.Recipient{Platform: push.FCM, Language: []string{"de", "en", "fr"}[i%3], Variables: variables("a", strconv.Itoa(g))}
				if err := c.Render(&r, 0, new(push.Notification)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	testwait.Call(t, goroutines.Wait, "all are rendered")
}
