// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
)

func TestCommonFieldsPlaintext(t *testing.T) {
	badge := 3
	equal(t, "plaintext", decryptedBody(t, newNotification(func(n *push.Notification) {
		n.Subtitle, n.Image, n.Badge, n.Sound, n.CollapseKey = "Sub", "https://example.com/p.png", &badge, "ping", "score"
		n.Data = map[string]string{"b": "2", "a": "1"}
	})), `{"title":"Hello","subtitle":"Sub","body":"World","image":"https://example.com/p.png","app_badge":3,"sound":"ping",`+
		`"tag":"score","data":{"a":"1","b":"2"}}`)
	equal(t, "raw payload", decryptedBody(t, newNotification(withPayload("anything \xff at all"))), "anything \xff at all")
	equal(t, "only data", decryptedBody(t, &push.Notification{Target: newNotification().Target, Data: map[string]string{"k": ""}}), `{"data":{"k":""}}`)
}

func TestTextRoundTrip(t *testing.T) {
	for _, text := range []string{"é", "日本語", "📦👩‍👩‍👧", "שלום", "a\u2028b", `"\` + "\n\t\x01", "\u0000", strings.Repeat("ß", 1000)} {
		equal(t, "payload", decryptedBody(t, newNotification(withPayload(text))), text)
		equal(t, "title arrives", strings.Contains(decryptedBody(t, newNotification(func(n *push.Notification) { n.Title = text })), `{"title":"`), true)
	}
	for name, edit := range map[string]func(*push.Notification){
		"title": func(n *push.Notification) { n.Title = "\xff" }, "collapse_key": func(n *push.Notification) { n.CollapseKey = "\xc0" },
		"data": func(n *push.Notification) { n.Data = map[string]string{"\xff": "x"} },
	} {
		equal(t, name, mustRefuse(t, newNotification(edit)), push.FieldError{Field: name, Reason: "InvalidField", Allowed: "valid UTF-8"})
	}
}

func TestPayloadLimit(t *testing.T) {
	body := translate(t, newNotification(withPayload(strings.Repeat("x", 3993)))).Body
	equal(t, "body size", len(body), 4096)
	for field, n := range map[string]*push.Notification{
		"webpush.payload": newNotification(withPayload(strings.Repeat("x", 3994))),
		"body":            newNotification(func(n *push.Notification) { n.Body = strings.Repeat("x", 3994) }),
		"data":            newNotification(func(n *push.Notification) { n.Data = map[string]string{"k": strings.Repeat("x", 3994)} }),
	} {
		refused := mustRefuse(t, n)
		equal(t, "field and reason", refused.Field+" "+refused.Reason, field+" PayloadTooLarge")
		equal(t, "contains the limit", strings.Contains(refused.Allowed, "at most 3993 bytes"), true)
	}
}

func TestRequestHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := translate(t, newNotification())
		equal(t, "method and path", r.Method+" "+r.Path, "POST /wpush/v2/gAAAAABSECRETsubscription")
		equal(t, "header", fmt.Sprint(r.Header), "[{content-encoding aes128gcm false} {content-type application/octet-stream false} {ttl 2419200 true}]")

		ttl := push.Duration(90*time.Second + time.Millisecond)
		r = translate(t, newNotification(func(n *push.Notification) { n.TTL, n.Priority, n.CollapseKey = &ttl, push.PriorityLow, "scores" }))
		equal(t, "common fields", []string{headerValue(r, "ttl"), headerValue(r, "urgency"), headerValue(r, "topic")}, []string{"91", "low", "scores"})
		r = translate(t, newNotification(withHeaders("ttl", "0", "Urgency", "very-low", "TOPIC", "mine"), func(n *push.Notification) {
			n.TTL, n.Priority, n.CollapseKey = &ttl, push.PriorityHigh, "score"
		}))
		equal(t, "sender's headers win", []string{headerValue(r, "ttl"), headerValue(r, "urgency"), headerValue(r, "topic")}, []string{"0", "very-low", "mine"})

		now := push.Duration(0)
		equal(t, "now or never", headerValue(translate(t, newNotification(func(n *push.Notification) { n.TTL = &now })), "ttl"), "0")
		for key, want := range map[string]string{
			"": "", "a-b_C9": "a-b_C9", "order:12 34": "hash", "c": "hash", "score": "hash", "collie-update": "hash",
			strings.Repeat("a", 29): "hash", strings.Repeat("a", 30): strings.Repeat("a", 30), strings.Repeat("a", 33): "hash", "スコア": "hash",
		} {
			topic := headerValue(translate(t, newNotification(func(n *push.Notification) { n.CollapseKey = key })), "topic")
			if want == "hash" {
				equal(t, key, len(topic) == 32 && topic == headerValue(translate(t, newNotification(func(n *push.Notification) { n.CollapseKey = key })), "topic"), true)
				continue
			}
			equal(t, key, topic, want)
		}
	})
}

func TestSenderHeaderValues(t *testing.T) {
	for _, urgency := range []string{"very-low", "low", "normal", "high"} {
		equal(t, urgency, headerValue(translate(t, newNotification(withHeaders("Urgency", urgency))), "urgency"), urgency)
	}
	for _, bad := range [][]string{
		{"Urgency", "HIGH"}, {"Urgency", ""}, {"TTL", "-1"}, {"TTL", "+1"}, {"TTL", "01"}, {"TTL", "1s"}, {"TTL", "2147483648"},
		{"Topic", ""}, {"Topic", strings.Repeat("a", 33)}, {"Topic", "a b"}, {"Topic", "é"}, {"Topic", "a\r\nx: y"},
		{"Authorization", "vapid"}, {"Content-Encoding", "gzip"}, {"\r\n", "x"}, {"ttl", "1", "TTL", "2"}, {"Host", "x"}, {"Content-Type", "x"}, {":path", "/"},
		{"Crypto-Key", "x"}, {"Connection", "close"}, {"Transfer-Encoding", "chunked"}, {"", "x"}, {"x new", "1"}, {"x-new", ""}, {"x-new", "a\r\nb"}, {"x-new", "é"},
		{"x-new", "1", "X-New", "1"}, {"x-new", strings.Repeat("x", 1025)}, {"X-WNS-Cache-Policy", "none"},
	} {
		refused := mustRefuse(t, newNotification(withHeaders(bad...)))
		equal(t, bad[0], refused.Reason, "InvalidHeader")
		equal(t, "the field", strings.HasPrefix(refused.Field, "webpush.headers"), true)
	}
}

func TestUnknownHeadersAreSentWithWarning(t *testing.T) {
	n := newNotification(withHeaders("X-New", "a b", "TTL", "5"))
	r := translate(t, n)
	equal(t, "sent", headerValue(r, "x-new")+" "+headerValue(r, "ttl"), "a b 5")
	equal(t, "warnings", len(n.Warnings), 1)
	equal(t, "field", n.Warnings[0].Field, "webpush.headers.x-new")
	n = newNotification(withHeaders("X-New", "1"))
	n.Strict = true
	equal(t, "strict", mustRefuse(t, n).Reason, "NotRecognized")
}

func TestWNSHeader(t *testing.T) {
	const windows = "https://wns2-par02p.notify.windows.com/w/?token=BQYAAAD"
	zero, hour := push.Duration(0), push.Duration(time.Hour)
	ttl := func(d *push.Duration) func(*push.Notification) { return func(n *push.Notification) { n.TTL = d } }
	for name, c := range map[string]struct {
		n    *push.Notification
		want string
	}{
		"TTL 0":              {newNotification(withEndpoint(windows), ttl(&zero)), "no-cache"},
		"TTL 0 of sender":    {newNotification(withEndpoint(windows), withHeaders("ttl", "0")), "no-cache"},
		"an hour":            {newNotification(withEndpoint(windows), ttl(&hour)), ""},
		"no TTL":             {newNotification(withEndpoint(windows)), ""},
		"another service":    {newNotification(ttl(&zero)), ""},
		"header of sender":   {newNotification(withEndpoint(windows), ttl(&hour), withHeaders("X-WNS-Cache-Policy", "cache")), "cache"},
		"header and TTL 0":   {newNotification(withEndpoint(windows), ttl(&zero), withHeaders("x-wns-cache-policy", "no-cache")), "no-cache"},
		"in capital letters": {newNotification(withEndpoint("https://WNS2.Notify.Windows.com/w/?token=x"), ttl(&zero)), "no-cache"},
	} {
		r := translate(t, c.n)
		equal(t, name, headerValue(r, "x-wns-cache-policy"), c.want)
		equal(t, name, len(c.n.Warnings), 0)
	}
}

func TestTopicThatAppleRefuses(t *testing.T) {
	const safari = "https://web.push.apple.com/QGuQyavXutnMH8F"
	for _, topic := range []string{"c", "score", strings.Repeat("a", 29)} {
		refused := mustRefuse(t, newNotification(withEndpoint(safari), withHeaders("topic", topic)))
		equal(t, topic, refused.Field+" "+refused.Reason, "webpush.headers.Topic InvalidHeader")
		equal(t, "elsewhere", headerValue(translate(t, newNotification(withHeaders("topic", topic))), "topic"), topic)
	}
	equal(t, "length 4", headerValue(translate(t, newNotification(withEndpoint(safari), withHeaders("topic", "goal"))), "topic"), "goal")
}

func TestRemovedSubscriptionIsUnregistered(t *testing.T) {
	for _, url := range []string{
		"https://permanently-removed.invalid/fcm/send/dHIoDxE7Hdg:APA91b", "https://permanently-removed.invalid/", "https://Permanently-Removed.invalid",
	} {
		n := newNotification(withEndpoint(url), func(n *push.Notification) { n.Subscription.Keys = push.SubscriptionKeys{} })
		for _, change := range []func(*webpush.Config){
			func(*webpush.Config) {}, func(cfg *webpush.Config) { cfg.Services = []string{"*"} }, func(cfg *webpush.Config) { cfg.OriginOverride = "https://127.0.0.1:4432" },
		} {
			refused := mustRefuse(t, n, change)
			o := push.InvalidNotification(&refused)
			equal(t, "outcome", fmt.Sprintf("%v %v %s %s", o.Verdict, o.ForgetToken, o.Reason, o.Field), "unregistered true SubscriptionRemoved subscription.endpoint")
		}
	}
	equal(t, "another host", mustRefuse(t, newNotification(withEndpoint("https://x.permanently-removed.invalid/"))).Unregistered, false)
}

func TestInvalidNotificationsAreRefused(t *testing.T) {
	bad := -1
	for want, n := range map[string]*push.Notification{
		"body PayloadEmpty":  {Target: newNotification().Target},
		"badge InvalidField": newNotification(func(n *push.Notification) { n.Badge = &bad }),
		"image InvalidField": newNotification(func(n *push.Notification) { n.Image = "http://example.com/a.png" }),
		"subscription InvalidTarget": newNotification(func(n *push.Notification) {
			n.Target = push.Target{Token: "abc"}
		}),
	} {
		refused := mustRefuse(t, n)
		equal(t, "field and reason", refused.Field+" "+refused.Reason, want)
	}
}

func TestOtherHostsAreRefused(t *testing.T) {
	anyHost := func(cfg *webpush.Config) { cfg.Services = []string{"*"} }
	for _, url := range []string{
		"", "x", "/push", "http://fcm.googleapis.com/fcm/send/x", "ftp://fcm.googleapis.com/", "https:fcm.googleapis.com/x", "https:///x",
		"https://fcm.googleapis.com", "https://fcm.googleapis.com?x", "https://fcm.googleapis.com:/x",
		"https://user@fcm.googleapis.com/x", "https://fcm.googleapis.com@evil.example/x", "https://fcm.googleapis.com:8443/x",
		"https://fcm.googleapis.com/x#y", "https://fcm.googleapis.com/x y", "https://fcm.googleapis.com\\.evil.example/x",
		"https://127.0.0.1/x", "https://127.1/x", "https://2130706433/x", "https://0x7f.0.0.1/x", "https://0177.0.0.1/x", "https://[::1]/x",
		"https://[::ffff:127.0.0.1]/x", "https://[fe80::1%25eth0]/x", "https://169.254.169.254/latest/meta-data/", "https://localhost/x",
		"https://fcm.googleapis.com./x", "https://fcm.googleapis..com/x", "https://-a.example/x", "https://a-.example/x",
		"https://fcm%2egoogleapis.com/x", "https://ｆcm.googleapis.com/x", "https://fcm.googleapis.com/x\r\nhost: evil", "https://\x00.example/x",
		"https://example.com/" + strings.Repeat("x", 2048),
	} {
		equal(t, url, mustRefuse(t, newNotification(withEndpoint(url)), anyHost).Field, "subscription.endpoint")
	}
	for _, url := range []string{
		"https://evil.example/x", "https://evilfcm.googleapis.com/x", "https://fcm.googleapis.com.evil.example/x", "https://notify.windows.com/x",
		"https://xnotify.windows.com/x",
	} {
		equal(t, url, mustRefuse(t, newNotification(withEndpoint(url))).Reason, "ServiceNotAllowed")
	}
}

func TestKnownServicesAreAllowed(t *testing.T) {
	for url, want := range map[string]string{
		"https://fcm.googleapis.com/fcm/send/a:b":                     "https://fcm.googleapis.com /fcm/send/a:b",
		"https://FCM.googleapis.com:443/fcm/send/x":                   "https://fcm.googleapis.com /fcm/send/x",
		"https://updates.push.services.mozilla.com/wpush/v2/g":        "https://updates.push.services.mozilla.com /wpush/v2/g",
		"https://web.push.apple.com/QabcDEF":                          "https://web.push.apple.com /QabcDEF",
		"https://wns2-db5p.notify.windows.com/w/?token=BQYAAAD%2b%2f": "https://wns2-db5p.notify.windows.com /w/?token=BQYAAAD%2b%2f",
	} {
		n := newNotification(withEndpoint(url))
		origin, err := newProvider(t).Origin(n)
		equal(t, url, fmt.Sprint(origin, " ", translate(t, n).Path, err), want+"<nil>")
	}
}

func TestOriginOverride(t *testing.T) {
	override := func(cfg *webpush.Config) { cfg.OriginOverride = "https://127.0.0.1:8443" }
	for _, url := range []string{"https://127.0.0.1:8443/push/a", endpoint} {
		origin, err := newProvider(t, override).Origin(newNotification(withEndpoint(url)))
		equal(t, url, fmt.Sprint(origin, err), "https://127.0.0.1:8443<nil>")
	}
	for _, url := range []string{"https://127.0.0.1/push/a", "https://127.0.0.1:8444/push/a", "https://evil.example/x", "http://127.0.0.1:8443/push/a"} {
		equal(t, url, mustRefuse(t, newNotification(withEndpoint(url)), override).Field, "subscription.endpoint")
	}
}

func TestInvalidSubscriptionKeysAreRefused(t *testing.T) {
	good := testBrowser().subscription(endpoint).Keys
	offCurve := append([]byte{4}, bytes.Repeat([]byte{1}, 64)...)
	for name, keys := range map[string]push.SubscriptionKeys{
		"p256dh": {Auth: good.Auth}, "p256dh short": {P256dh: good.P256dh[:80], Auth: good.Auth},
		"p256dh off the curve": {P256dh: base64URL(offCurve), Auth: good.Auth}, "p256dh not base64": {P256dh: "!", Auth: good.Auth},
		"p256dh compressed": {P256dh: base64URL(append([]byte{2}, bytes.Repeat([]byte{1}, 32)...)), Auth: good.Auth},
		"auth":              {P256dh: good.P256dh}, "auth long": {P256dh: good.P256dh, Auth: good.Auth + "AAAA"},
	} {
		key, _, _ := strings.Cut(name, " ")
		equal(t, name, mustRefuse(t, newNotification(func(n *push.Notification) { n.Subscription.Keys = keys })).Field, "subscription.keys."+key)
	}
}

func TestSubscriptionKeysInStandardBase64(t *testing.T) {
	n := newNotification()
	n.Subscription.Keys.P256dh = strings.NewReplacer("-", "+", "_", "/").Replace(n.Subscription.Keys.P256dh) + "="
	n.Subscription.Keys.Auth += "=="
	equal(t, "plaintext", decryptedBody(t, n), `{"title":"Hello","body":"World"}`)
}

func TestEachBodyHasItsOwnKeyAndSalt(t *testing.T) {
	a, b := translate(t, newNotification()).Body, translate(t, newNotification()).Body
	equal(t, "salt", bytes.Equal(a[:16], b[:16]), false)
	equal(t, "key", bytes.Equal(a[21:86], b[21:86]), false)
}

func TestConfigErrorsNameField(t *testing.T) {
	for want, cfg := range map[string]webpush.Config{
		"key: missing":     {Subject: subject},
		"subject: must be": {Key: testKey(), Subject: "ops@example.com"},
		"services: each":   {Key: testKey(), Subject: subject, Services: []string{"127.0.0.1"}},
	} {
		if _, err := webpush.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}
