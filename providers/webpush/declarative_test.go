// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
)

const (
	safari = "https://web.push.apple.com/QGuQyavXutnMH8F"
	link   = "https://example.com/orders/7?a=1&b=2"
)

func withOptions(text string, change ...func(*push.WebPushBlock)) func(*push.Notification) {
	return func(n *push.Notification) {
		n.WebPush = &push.WebPushBlock{Notification: json.RawMessage(text)}
		for _, c := range change {
			c(n.WebPush)
		}
	}
}

func declarative(yes bool) func(*push.WebPushBlock) {
	return func(b *push.WebPushBlock) { b.Declarative = &yes }
}

func plaintext(t *testing.T, n *push.Notification, change ...func(*webpush.Config)) string {
	t.Helper()
	p := newProvider(t, change...)
	request, err := p.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	text, err := testBrowser().decrypt(request.Body)
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.Plaintext(n)
	if err != nil || string(again) != text {
		t.Errorf("Plaintext is %q, %v; the body has %q", again, err, text)
	}
	equal(t, "content type", headerValue(request, "content-type"), "application/octet-stream")
	return text
}

func TestOptionsOfNotification(t *testing.T) {
	equal(t, "merged", plaintext(t, newNotification(withOptions(`{"navigate":"`+link+`","icon":"https://example.com/i.png","silent":true,"title":"Mine","lang":"en"}`))),
		`{"title":"Mine","body":"World","navigate":"`+link+`","icon":"https://example.com/i.png","lang":"en","silent":true}`)
	equal(t, "the app's URL", plaintext(t, newNotification(), func(c *webpush.Config) { c.Navigate = link }), `{"title":"Hello","body":"World","navigate":"`+link+`"}`)
	equal(t, "data of the block", plaintext(t, newNotification(withOptions(`{"data":[1,{"a":null}]}`), func(n *push.Notification) {
		n.Data = map[string]string{"k": "v"}
	})), `{"title":"Hello","body":"World","data":[1,{"a":null}]}`)
	equal(t, "only in the block", plaintext(t, &push.Notification{Target: newNotification().Target, WebPush: &push.WebPushBlock{
		Notification: json.RawMessage(`{"title":"T"}`)}}), `{"title":"T"}`)
}

// TestDeclarativeMessage has the whole plaintext: the declarative message, whose app_badge and mutable
// are where Safari 18.4, newer versions and Firefox read them, and what an older service worker reads.
func TestDeclarativeMessage(t *testing.T) {
	badge := 3
	n := newNotification(withEndpoint(safari), withOptions(`{"navigate":"`+link+`","actions":[{"action":"a","title":"A","navigate":"https://example.com/a"}]}`,
		func(b *push.WebPushBlock) { b.Mutable = true }), func(n *push.Notification) {
		n.Subtitle, n.Badge, n.Sound, n.CollapseKey, n.Image = "Sub", &badge, "ping", "order", "https://example.com/p.png"
		n.Data = map[string]string{"k": "v"}
	})
	equal(t, "plaintext", plaintext(t, n), `{"web_push":8030,"notification":{"title":"Hello","body":"Sub\nWorld","navigate":"`+link+`",`+
		`"image":"https://example.com/p.png","tag":"order","actions":[{"action":"a","title":"A","navigate":"https://example.com/a"}],"data":{"k":"v"},`+
		`"app_badge":3,"mutable":true},"mutable":true,`+
		`"title":"Hello","subtitle":"Sub","body":"World","image":"https://example.com/p.png","app_badge":3,"sound":"ping","tag":"order","data":{"k":"v"},`+
		`"navigate":"`+link+`","actions":[{"action":"a","title":"A","navigate":"https://example.com/a"}]}`)
	equal(t, "warnings", len(n.Warnings), 0)
}

func TestWhichPayloadsAreDeclarative(t *testing.T) {
	options := `{"navigate":"` + link + `"}`
	mode := func(d webpush.Declarative) func(*webpush.Config) {
		return func(c *webpush.Config) { c.Declarative = d }
	}
	for name, c := range map[string]struct {
		n      *push.Notification
		config func(*webpush.Config)
		want   bool
	}{
		"Apple":                        {newNotification(withEndpoint(safari), withOptions(options)), mode(""), true},
		"Apple without a URL":          {newNotification(withEndpoint(safari)), mode(""), false},
		"Apple with the app's URL":     {newNotification(withEndpoint(safari)), func(c *webpush.Config) { c.Navigate = link }, true},
		"Apple without a title":        {newNotification(withEndpoint(safari), withOptions(options), func(n *push.Notification) { n.Title = "" }), mode(""), false},
		"Apple, an action without URL": {newNotification(withEndpoint(safari), withOptions(`{"navigate":"`+link+`","actions":[{"action":"a","title":"A"}]}`)), mode(""), false},
		"Apple, sender says no":        {newNotification(withEndpoint(safari), withOptions(options, declarative(false))), mode(""), false},
		"Mozilla":                      {newNotification(withOptions(options)), mode(""), false},
		"Mozilla, sender says yes":     {newNotification(withOptions(options, declarative(true))), mode(""), true},
		"always":                       {newNotification(withOptions(options)), mode(webpush.DeclarativeAlways), true},
		"always, without a URL":        {newNotification(), mode(webpush.DeclarativeAlways), false},
		"never":                        {newNotification(withEndpoint(safari), withOptions(options)), mode(webpush.DeclarativeNever), false},
		"never, sender says yes":       {newNotification(withOptions(options, declarative(true))), mode(webpush.DeclarativeNever), true},
	} {
		equal(t, name, strings.HasPrefix(plaintext(t, c.n, c.config), `{"web_push":8030,"notification":{"title":"Hello"`), c.want)
	}
	n := newNotification(withEndpoint(safari), withPayload("raw"))
	equal(t, "payload of the sender", plaintext(t, n, mode(webpush.DeclarativeAlways)), "raw")
}

// TestLargeDeclarativeMessage checks that a text which fits once is sent once.
func TestLargeDeclarativeMessage(t *testing.T) {
	badge := 0
	sized := func(size int) *push.Notification {
		return newNotification(withOptions(`{"navigate":"`+link+`"}`, declarative(true)), func(n *push.Notification) {
			n.Body, n.Badge = strings.Repeat("x", size), &badge
		})
	}
	small, large := plaintext(t, sized(1500)), plaintext(t, sized(3500))
	equal(t, "twice", strings.Count(small, strings.Repeat("x", 1500)), 2)
	equal(t, "large", large, `{"web_push":8030,"notification":{"title":"Hello","body":"`+strings.Repeat("x", 3500)+`","navigate":"`+link+`","app_badge":0},"app_badge":0}`)
	refused := mustRefuse(t, sized(3993))
	equal(t, "too large", refused.Field+" "+refused.Reason, "body PayloadTooLarge")
}

func TestInvalidOptions(t *testing.T) {
	for text, want := range map[string]string{
		`{"navigate":"/orders/7"}`:                            "navigate: must be an https URL, such as https://example.com/orders/7",
		`{"navigate":"http://example.com"}`:                   "navigate: must be an https URL, such as https://example.com/orders/7",
		`{"navigate":7}`:                                      "navigate: must be a string",
		`{"title":null,"title":""}`:                           ": must be a JSON object without duplicate names",
		`{"silent":"yes"}`:                                    "silent: must be true or false",
		`{"icon":"icon.png"}`:                                 "icon: must be an https URL",
		`{"badge":3}`:                                         "badge: must be a string",
		`{"badge":"3"}`:                                       "badge: must be the https URL of an image; the number on the app's icon is the common field badge",
		`{"dir":"up"}`:                                        "dir: must be auto, ltr or rtl",
		`{"actions":{}}`:                                      "actions: must be an array",
		`{"actions":[{"title":"A"}]}`:                         "actions[0].action: must be set: the service worker gets it in the event notificationclick",
		`{"actions":[{"action":"a"}]}`:                        "actions[0].title: must be set: it is the text of the button",
		`{"actions":[{"action":"a","title":1}]}`:              "actions[0].title: must be a string",
		`{"actions":[{"action":"a","title":"A","icon":"x"}]}`: "actions[0].icon: must be an https URL",
		`{"actions":[{"action":"a","title":"A","navigate":"x"` + `}]}`: "actions[0].navigate: must be an https URL, such as https://example.com/orders/7",
		`{"app_badge":3}`:   "app_badge: must be absent: the common field badge sets it",
		`{"mutable":true}`:  "mutable: must be absent: webpush.mutable sets it",
		`{"web_push":8030}`: "web_push: must be absent: webpush.declarative sets it",
	} {
		refused := mustRefuse(t, newNotification(withOptions(text)))
		equal(t, text, refused.Error(), strings.Replace("webpush.notification."+want, ".:", ":", 1))
		equal(t, text, refused.Reason, "InvalidField")
	}
	for want, n := range map[string]*push.Notification{
		"title: must be set: a declarative push message needs a title": newNotification(withOptions(`{"navigate":"`+link+`"}`, declarative(true)), func(n *push.Notification) { n.Title = "" }),
		"webpush.notification.navigate: must be an https URL, such as https://example.com/orders/7: a declarative push message needs a URL to open, " +
			"here or as webpush.navigate in the app's configuration": newNotification(withOptions(``, declarative(true))),
		"webpush.notification.actions[1].navigate: must be an https URL, such as https://example.com/orders/7: each action of a declarative push message needs a URL to open": newNotification(
			withOptions(`{"navigate":"`+link+`","actions":[{"action":"a","title":"A","navigate":"`+link+`"},{"action":"b","title":"B"}]}`, declarative(true))),
		"webpush.mutable: must be false if webpush.declarative is false": newNotification(withOptions(``, declarative(false), func(b *push.WebPushBlock) { b.Mutable = true })),
		"webpush.payload: must be absent, or webpush.notification, declarative and mutable absent: it replaces the payload that they are for": newNotification(
			withOptions(`{}`, func(b *push.WebPushBlock) { b.Payload = "raw" })),
	} {
		refused := mustRefuse(t, n)
		equal(t, "error", refused.Error(), want)
	}
}

func TestUnknownOptionsAreSentWithWarning(t *testing.T) {
	n := newNotification(withOptions(`{"new_option":{"a":1},"DEVICE-TOKEN-1":2,"actions":[{"action":"a","title":"A","type":"text"}]}`))
	equal(t, "sent", plaintext(t, n), `{"title":"Hello","body":"World","actions":[{"action":"a","title":"A","type":"text"}],"new_option":{"a":1},"DEVICE-TOKEN-1":2}`)
	fields := map[string]bool{}
	for _, w := range n.Warnings {
		fields[w.Field] = true
	}
	equal(t, "fields", fields, map[string]bool{"webpush.notification.actions[0].type": true, "webpush.notification.new_option": true, "webpush.notification": true})
	n.Strict = true
	equal(t, "strict", mustRefuse(t, n).Reason, "NotRecognized")
}
