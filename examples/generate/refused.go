// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// invalidToken returns a well-formed notification to a token that the provider
// rejects. The mock recognizes these tokens by their prefix.
func (g generator) invalidToken(i int) line {
	title, body := g.pickPhrase()
	apns := func(prefix string) object {
		return object{"platform": "apns", "token": prefix + g.hex(56), "title": title, "body": body}
	}
	fcm := func(word string) object {
		return object{"platform": "fcm", "token": g.letters(22) + ":" + word + g.letters(130), "title": title, "body": body}
	}
	sent := func(n object, status, reason string, forget bool) line {
		return line{marshalLine(n), expectation{Status: status, Reason: reason, ForgetToken: forget, Attempts: 1}}
	}
	switch i % 8 {
	case 0, 1:
		return sent(apns("dead0000"), "unregistered", "Unregistered", true)
	case 2:
		return sent(apns("dead0001"), "unregistered", "ExpiredToken", true)
	case 3:
		return sent(apns("bad00000"), "refused", "BadDeviceToken", false)
	case 4:
		return sent(apns("bad00001"), "refused", "DeviceTokenNotForTopic", false)
	case 5:
		return sent(fcm("dead"), "unregistered", "UNREGISTERED", true)
	case 6:
		return sent(fcm("bad"), "refused", "INVALID_ARGUMENT", true)
	default:
		return sent(fcm("mismatch"), "refused", "SENDER_ID_MISMATCH", false)
	}
}

// refusedLine returns a line that the gateway must refuse without an attempt.
func refusedLine(input, field string) line {
	return line{input, expectation{Status: "refused", Field: field}}
}

// oversized returns a payload one byte over the documented limit, or exactly at
// the limit for comparison.
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

// malformedKindCount returns the number of kinds of malformed lines.
func malformedKindCount() int { return len(generator{}.malformedMakers()) }

func (g generator) malformed(i int) line {
	kinds := g.malformedMakers()
	return kinds[i%len(kinds)]()
}

// malformedMakers returns a function for each kind of malformed line. Each line
// names the field that its receipt must report.
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
		func() line { return refusedLine(`{"platform":"apns","token":"5a5a"`, "") }, // truncated
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
