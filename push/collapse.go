// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json"
	"slices"
	"strings"
)

// Collapsible reports whether the notification has a key with which a later one replaces it while
// the provider stores it.
func (n *Notification) Collapsible() bool {
	return n.CollapseKey != "" || n.APNs.Header("apns-collapse-id") != "" || n.WebPush.hasTopic()
}

// replacesDisplayed reports whether a second copy of the notification replaces the first one on the
// device, where it may be displayed already. That needs a displayed notification and more than
// Collapsible:
//
//   - APNs: apns-collapse-id, which Apple's devices apply to displayed alerts, but not to
//     background notifications, Live Activities and calls.
//   - FCM: android.notification.tag in the message. collapse_key replaces only what FCM stores.
//   - Web Push: tag in the payload, which showNotification applies. Topic replaces only what the
//     push service stores.
func (n *Notification) replacesDisplayed() bool {
	switch n.Platform {
	case APNs:
		return n.Kind() != ToChannel && n.isAlert() && (n.CollapseKey != "" || n.APNs.Header("apns-collapse-id") != "")
	case FCM:
		return n.FCM != nil && textAt(n.FCM.Message, "android", "notification", "tag") != ""
	case WebPush:
		if n.WebPush == nil {
			return n.CollapseKey != "" && n.hasText()
		}
		if options := n.WebPush.Notification; n.WebPush.Payload == "" {
			return (n.CollapseKey != "" || textAt(options, "tag") != "") && (n.hasText() || textAt(options, "title") != "")
		}
		payload := json.RawMessage(n.WebPush.Payload)
		return textAt(payload, "tag") != "" || textAt(payload, "notification", "tag") != ""
	}
	return false
}

// isAlert reports whether an APNs notification is displayed as an alert.
func (n *Notification) isAlert() bool {
	if kind := n.APNs.Header("apns-push-type"); kind != "" && kind != "alert" {
		return false
	}
	if n.APNs == nil || len(n.APNs.Payload) == 0 {
		return n.hasText()
	}
	present := func(member string) bool {
		value := valueAt(n.APNs.Payload, "aps", member)
		return value != nil && string(value) != "null"
	}
	return present("alert") && !slices.ContainsFunc(LiveActivityMembers, present)
}

// LiveActivityMembers are the members of aps that only Live Activities have.
var LiveActivityMembers = []string{"event", "content-state", "attributes-type", "attributes", "stale-date", "dismissal-date"}

// hasText reports whether the common fields are displayed.
func (n *Notification) hasText() bool {
	return n.Title != "" || n.Subtitle != "" || n.Body != "" || n.Image != ""
}

// hasTopic reports whether the headers contain a non-empty Topic, in any case.
func (b *WebPushBlock) hasTopic() bool {
	if b == nil {
		return false
	}
	for name, value := range b.Headers {
		if value != "" && strings.EqualFold(name, "topic") {
			return true
		}
	}
	return false
}

// textAt returns the string at the path of member names in a JSON object, or "".
func textAt(object json.RawMessage, path ...string) (text string) {
	if json.Unmarshal(valueAt(object, path...), &text) != nil {
		return ""
	}
	return text
}

// valueAt returns the value at the path of member names in a JSON object, or nil.
func valueAt(value json.RawMessage, path ...string) json.RawMessage {
	for _, name := range path {
		var members map[string]json.RawMessage
		if json.Unmarshal(value, &members) != nil {
			return nil
		}
		value = members[name]
	}
	return value
}
