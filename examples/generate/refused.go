// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// invalidToken is a well-formed notification to a token that the provider does
// not take. The mock knows these tokens by how they begin.
func (g generator) invalidToken(i int) line {
	title, body := g.pickPhrase()
	apple := func(prefix string) object {
		return object{"platform": "apns", "token": prefix + g.hex(56), "title": title, "body": body}
	}
	google := func(word string) object {
		return object{"platform": "fcm", "token": g.letters(22) + ":" + word + g.letters(130), "title": title, "body": body}
	}
	sent := func(n object, status, reason string, forget bool) line {
		return line{marshalLine(n), expectation{Status: status, Reason: reason, ForgetToken: forget, Attempts: 1}}
	}
	switch i % 8 {
	case 0, 1:
		return sent(apple("dead0000"), "unregistered", "Unregistered", true)
	case 2:
		return sent(apple("dead0001"), "unregistered", "ExpiredToken", true)
	case 3:
		return sent(apple("bad00000"), "refused", "BadDeviceToken", false)
	case 4:
		return sent(apple("bad00001"), "refused", "DeviceTokenNotForTopic", false)
	case 5:
		return sent(google("dead"), "unregistered", "UNREGISTERED", true)
	case 6:
		return sent(google("bad"), "refused", "INVALID_ARGUMENT", true)
	default:
		return sent(google("mismatch"), "refused", "SENDER_ID_MISMATCH", false)
	}
}

// refusedLine is a line that must be refused before anything is sent.
func refusedLine(input, field string) line {
	return line{input, expectation{Status: "refused", Field: field}}
}

// oversized is a payload one byte over its limit, or, to show that the limit
// is where the documents say, exactly on it.
func (g generator) oversized(i int) line {
	headers := object{}
	limit := 4096
	if i%4 >= 2 {
		headers["apns-push-type"], limit = "voip", 5120
	}
	size := limit + 1 - i%2
	frame := len(`{"aps":{"alert":"x"},"pad":""}`)
	payload := object{"aps": object{"alert": "x"}, "pad": strings.Repeat("p", size-frame)}
	n := object{"platform": "apns", "token": g.hex(64), "apns": object{"headers": headers, "payload": payload}}
	switch {
	case i >= 8: // the limit counts bytes, not characters
		payload["pad"] = strings.Repeat("é", (4096-frame)/2+1)
		n["apns"] = object{"payload": payload}
	case size <= limit:
		return accepted(n)
	}
	refused := refusedLine(marshalLine(n), "apns.payload")
	refused.expect.Reason = "PayloadTooLarge"
	return refused
}

// malformedKindCount is how many kinds of malformed lines there are.
func malformedKindCount() int { return len(generator{}.malformedMakers()) }

func (g generator) malformed(i int) line {
	kinds := g.malformedMakers()
	return kinds[i%len(kinds)]()
}

// malformedMakers are what callers get wrong, and the field that their receipt
// must name.
func (g generator) malformedMakers() []func() line {
	apns := func(member string, field string) func() line {
		return func() line {
			return refusedLine(fmt.Sprintf(`{"platform":"apns","token":"%s",%s}`, g.hex(64), member), field)
		}
	}
	token := func(platform, token string) func() line {
		return func() line {
			return refusedLine(marshalLine(object{"platform": platform, "token": token, "title": "Hi"}), "token")
		}
	}
	return []func() line{
		token("apns", "../../4/broadcasts/apps/com.example.app"),
		token("apns", "5a5a?topic=other"),
		token("apns", "5a5a5"), // an odd number of digits
		token("apns", "5a5a\r\napns-topic: other"),
		token("apns", "not hexadecimal"),
		token("fcm", "../messages:send"),
		token("fcm", "a token with spaces"),
		apns(`"titel":"Hi"`, "titel"),
		apns(`"badge":"one"`, "badge"),
		apns(`"priority":"urgent"`, "priority"),
		apns(`"ttl":"soon"`, "ttl"),
		apns(`"data":{"n":7}`, "data.n"),
		apns(`"title":"a","title":"b"`, "title"),
		apns(`"topic":"news","title":"Hi"`, "topic"),
		apns(`"title":"Hi","apns":{"headers":{"apns-priority":"11"}}`, "apns.headers.apns-priority"),
		apns(`"title":"Hi","apns":{"headers":{"authorization":"bearer x"}}`, "apns.headers.authorization"),
		func() line { return refusedLine(`{"platform":"apns","title":"To nobody"}`, "token") },
		func() line { return refusedLine(`{"platform":"pager","token":"5a5a"}`, "platform") },
		func() line { return refusedLine(fmt.Sprintf(`{"token":"%s"}`, g.hex(64)), "platform") },
		func() line { return refusedLine(`{"platform":"apns","token":"5a5a"`, "") }, // cut off
		func() line { return refusedLine(`["not","an","object"]`, "") },
		func() line {
			return refusedLine(`{"platform":"fcm","topic":"no spaces allowed","title":"Hi"}`, "topic")
		},
		func() line {
			return refusedLine(`{"platform":"fcm","condition":"'a' in topics && (","title":"Hi"}`, "condition")
		},
		func() line {
			return refusedLine(`{"platform":"fcm","topic":"news","data":{"google.x":"reserved"}}`, "data")
		},
	}
}
