// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"strconv"
	"strings"
)

// topicSuffix is what each apns-push-type appends to the bundle ID, from "Sending notification requests to APNs".
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

// splitTopic takes the suffix of a push type off a topic.
func splitTopic(topic string) (base, suffix string) {
	for _, suffix := range topicSuffix {
		if base, found := strings.CutSuffix(topic, suffix); found && suffix != "" {
			return base, suffix
		}
	}
	return topic, ""
}

// onceHeaders may appear once only.
var onceHeaders = []string{
	"authorization", "apns-id", "apns-topic", "apns-push-type", "apns-priority", "apns-expiration", "apns-collapse-id",
}

// badHeader returns Apple's reason for the first bad header field, or "".
func badHeader(r *request) (reason string) {
	if repeats(r, onceHeaders) {
		return "DuplicateHeaders"
	}
	kind := r.get("apns-push-type")
	if _, known := topicSuffix[kind]; r.has("apns-push-type") && !known {
		return "InvalidPushType"
	}
	if r.has("apns-id") && !isUUID(r.get("apns-id")) {
		return "BadMessageId"
	}
	if r.has("apns-expiration") && !isNumber(r.get("apns-expiration")) {
		return "BadExpirationDate"
	}
	if r.has("apns-priority") && !allowedPriority(kind, r.get("apns-priority")) {
		return "BadPriority"
	}
	if len(r.get("apns-collapse-id")) > 64 {
		return "BadCollapseId"
	}
	return ""
}

// repeats finds a field that appears twice. Fields are few, so that comparing them beats a map.
func repeats(r *request, names []string) bool {
	for i, f := range r.header {
		for _, g := range r.header[i+1:] {
			if f.Name == g.Name && contains(names, f.Name) {
				return true
			}
		}
	}
	return false
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// allowedPriority knows that a background push must not be immediate. Apple does not say which reason it then gives.
func allowedPriority(kind, priority string) bool {
	switch priority {
	case "10":
		return kind != "background"
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

// isUUID wants the canonical form, 8-4-4-4-12.
func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return isHex(s[:8]) && isHex(s[9:13]) && isHex(s[14:18]) && isHex(s[19:23]) && isHex(s[24:])
}

// isTopic wants what a bundle ID or an MDM topic is made of.
func isTopic(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) <= 255
}
