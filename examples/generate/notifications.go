// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// samplePhrases are realistic texts: several scripts, two of them right to left,
// emoji of several code points, quotes and escapes.
var samplePhrases = []struct{ title, body string }{
	{"Your parcel is on its way", "It should be with you before 18:00."},
	{"地震速報", "東京都で震度5弱の地震がありました。津波の心配はありません。"},
	{"新年快乐 🎉", "祝你新的一年万事如意!🧧"},
	{"رسالة جديدة", "وصلتك رسالة من سارة: «أراك غدًا؟»"},
	{"הודעה חדשה 💬", "דנה: \"מחר בשמונה, בסדר?\""},
	{"👩‍👩‍👧‍👦 Family", "Mia shared 12 photos with you 🏖️"},
	{"Größe wieder da", "Der Pullover ist in Größe L wieder auf Lager – für 39,90 €."},
	{"Ваш заказ готов", "Заберите его до 21:00."},
	{"ขอบคุณ 🙏", "คำสั่งซื้อของคุณได้รับการยืนยันแล้ว"},
	{"Lưu ý", "Chuyến bay VN 123 bị hoãn 40 phút."},
	{"मैच शुरू 🏏", "भारत 212/4 (38.2)"},
	{"Line one\nline two", "A tab\tand a backslash \\ and a slash /"},
}

// generator generates lines from a seeded source, so the files are the same on
// every machine.
type generator struct{ random *rand.Rand }

func (g generator) pickPhrase() (title, body string) {
	p := samplePhrases[g.random.IntN(len(samplePhrases))]
	return p.title, p.body
}

// hex returns a random token with the given number of hex digits. Its prefix is
// not one of the mock's special prefixes.
func (g generator) hex(digits int) string {
	var b strings.Builder
	b.WriteString("5a")
	for b.Len() < digits {
		fmt.Fprintf(&b, "%x", g.random.IntN(16))
	}
	return b.String()
}

// registration returns a token in the format of FCM: an installation ID, a
// colon and a long random string.
func (g generator) registration() string { return g.letters(22) + ":APA91b" + g.letters(134) }

func (g generator) letters(n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[g.random.IntN(len(alphabet))]
	}
	return string(b)
}

func accepted(o object) line {
	return line{marshalLine(o), expectation{Status: "accepted", Attempts: 1}}
}

func (g generator) alert(i int) line {
	title, body := g.pickPhrase()
	n := object{"platform": "apns", "token": g.hex(64), "title": title, "body": body}
	switch i % 5 {
	case 1:
		n["badge"], n["sound"], n["subtitle"] = i%100, "default", "Sluice"
	case 2:
		n["collapse_key"], n["ttl"], n["priority"] = fmt.Sprintf("score-%d", i%7), "1h", "normal"
	case 3:
		n["image"], n["data"] = "https://img.example.com/p/7.jpg", map[string]string{"order": fmt.Sprint(i), "emoji": "🛒"}
	case 4:
		n["lane"], n["on_unknown"], n["ttl"] = "critical", "always", "0s"
	}
	return accepted(n)
}

func (g generator) background(i int) line {
	return accepted(object{
		"platform": "apns", "token": g.hex(64), "lane": "bulk",
		"apns": object{
			"headers": object{"apns-push-type": "background", "apns-priority": "5"},
			"payload": object{"aps": object{"content-available": 1}, "sync": i},
		},
	})
}

func (g generator) voip(i int) line {
	return accepted(object{
		"platform": "apns", "token": g.hex(64), "lane": "critical", "ttl": "30s",
		"apns": object{
			"headers": object{"apns-push-type": "voip"},
			"payload": object{"call": object{"id": fmt.Sprintf("c-%d", i), "from": "Noa 📞 נועה"}},
		},
	})
}

func (g generator) liveActivity(i int) line {
	event := "update"
	if i%4 == 3 {
		event = "end"
	}
	return accepted(object{
		"platform": "apns", "token": g.hex(160), // a Live Activity's token is longer
		"apns": object{
			"headers": object{"apns-push-type": "liveactivity", "apns-priority": "10"},
			"payload": object{"aps": object{
				"timestamp": 1793836800 + i, "event": event,
				"content-state": object{"home": i % 5, "away": i % 3, "minute": i % 90},
			}},
		},
	})
}

func (g generator) fcmToken(i int) line {
	title, body := g.pickPhrase()
	n := object{"platform": "fcm", "token": g.registration(), "title": title, "body": body}
	switch i % 4 {
	case 1:
		n["data"] = map[string]string{"chat": fmt.Sprint(i), "text": "שלום 👋"}
	case 2:
		n["priority"], n["ttl"], n["collapse_key"] = "high", "10m", "chat"
	case 3:
		delete(n, "title")
		delete(n, "body")
		n["data"] = map[string]string{"silent": "true"}
		n["fcm"] = object{"message": object{"android": object{"priority": "NORMAL"}}}
	}
	return accepted(n)
}

func (g generator) fcmTopic(i int) line {
	title, body := g.pickPhrase()
	return accepted(object{"platform": "fcm", "topic": fmt.Sprintf("news-%d", i%9), "title": title, "body": body,
		"data": map[string]string{"article": fmt.Sprint(i)}})
}

func (g generator) fcmCondition(i int) line {
	title, body := g.pickPhrase()
	return accepted(object{"platform": "fcm", "title": title, "body": body, "data": map[string]string{"n": fmt.Sprint(i)},
		"condition": "'news' in topics && ('sport' in topics || !('quiet' in topics))"})
}
