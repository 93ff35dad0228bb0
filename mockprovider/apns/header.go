// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// topicSuffix is what each apns-push-type appends to the bundle ID, from "Sending notification
// requests to APNs".
var topicSuffix = map[string]string{
	"alert": "", "background": "", "mdm": "",
	"location":     ".location-query",
	"voip":         ".voip",
	"complication": ".complication",
	"fileprovider": ".pushkit.fileprovider",
	"liveactivity": ".push-type.liveactivity",
	"pushtotalk":   ".voip-ptt",
	"widgets":      ".push-type.widgets",
	"controls":     ".push-type.controls",
}

// splitTopic splits the suffix of a push type from a topic.
func splitTopic(topic string) (base, suffix string) {
	for _, suffix := range topicSuffix {
		if base, found := strings.CutSuffix(topic, suffix); found && suffix != "" {
			return base, suffix
		}
	}
	return topic, ""
}

// uniqueHeaders must not be repeated.
var uniqueHeaders = []string{
	"authorization", "apns-id", "apns-topic", "apns-push-type", "apns-priority", "apns-expiration", "apns-collapse-id",
}

// checkHeader returns APNs' reason for the first invalid header field, or "".
func checkHeader(r *h2.Request) (reason string) {
	if hasDuplicate(r, uniqueHeaders) {
		return "DuplicateHeaders"
	}
	pushType := r.Get("apns-push-type")
	if _, known := topicSuffix[pushType]; r.Has("apns-push-type") && !known {
		return "InvalidPushType"
	}
	if r.Has("apns-id") && !isUUID(r.Get("apns-id")) {
		return "BadMessageId"
	}
	if r.Has("apns-expiration") && !isNumber(r.Get("apns-expiration")) {
		return "BadExpirationDate"
	}
	if r.Has("apns-priority") && !validPriority(pushType, r.Get("apns-priority")) {
		return "BadPriority"
	}
	if len(r.Get("apns-collapse-id")) > 64 {
		return "BadCollapseId"
	}
	return ""
}

// hasDuplicate reports whether one of the fields is repeated. Requests have few fields, so comparing
// all pairs is faster than a map.
func hasDuplicate(r *h2.Request, names []string) bool {
	for i, f := range r.Header {
		for _, g := range r.Header[i+1:] {
			if f.Name == g.Name && slices.Contains(names, f.Name) {
				return true
			}
		}
	}
	return false
}

// validPriority checks apns-priority. A background push must not have priority 10. Apple does not
// document the reason for that; BadPriority is a guess.
func validPriority(pushType, priority string) bool {
	switch priority {
	case "10":
		return pushType != "background"
	case "5", "1":
		return true
	}
	return false
}

func isNumber(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && n >= 0
}

func isHex(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (s[i] < '0' || s[i] > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isUUID reports whether s is a UUID in the canonical form, 8-4-4-4-12.
func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return isHex(s[:8]) && isHex(s[9:13]) && isHex(s[14:18]) && isHex(s[19:23]) && isHex(s[24:])
}

// isTopic reports whether s consists of the characters of bundle IDs and MDM topics.
func isTopic(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) <= 255
}
