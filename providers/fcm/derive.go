// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"slices"
	"strings"

	"github.com/sluice-push/sluice/push"
)

// derived holds the parts of a message that depend on the rest of it. With a raw message, they
// depend on the result of the merge, whichever side a field comes from.
type derived struct {
	title, body      string // of the alert, if there is a subtitle
	mutableContent   bool   // an app extension fetches the image
	contentAvailable bool   // wake the app: there is data, and nothing to display
	background       bool   // push type background
	apnsPriority     string // "" for the default

	androidV2    bool // the fields for Android belong in android_v2, which excludes android
	androidSound bool // the notification is displayed on Android anyway, so that a sound does not change its kind
}

// deriveFromFields returns what follows from the common fields alone.
func deriveFromFields(n *push.Notification) derived {
	silent := !isVisible(n) && n.Badge == nil && n.Sound == "" && len(n.Data) > 0
	d := derived{
		title: n.Title, body: n.Body, mutableContent: n.Image != "", contentAvailable: silent, background: silent, androidSound: hasTexts(n),
	}
	d.apnsPriority = apnsPriority(n.Priority, silent, false)
	return d
}

// deriveFromMessage returns what follows from a message: the raw one, merged over the common fields.
func deriveFromMessage(n *push.Notification, message members) derived {
	notification, apns := message.object("notification"), message.object("apns")
	headers, aps := apns.object("headers"), apns.object("payload").object("aps")
	texts := notification.has("title") || notification.has("body") || notification.has("image")
	shown := texts || aps.has("alert") || aps.has("badge") || aps.has("sound")
	liveActivity := apns.has("live_activity_token") || slices.ContainsFunc(push.LiveActivityMembers, aps.has) ||
		headers.text("apns-push-type") == "liveactivity"
	pushType, priority := headers.text("apns-push-type"), headers.text("apns-priority")

	silent := !shown && !liveActivity && (pushType == "" || pushType == "background") &&
		(len(message.object("data")) > 0 || aps.has("content-available")) && !aps.isZero("content-available")
	d := derived{
		title: notification.text("title"), body: notification.text("body"),
		mutableContent:   !silent && (notification.has("image") || apns.object("fcm_options").has("image")),
		contentAvailable: silent,
		background:       pushType == "background" || silent && (priority == "" || priority == "5"), // APNs refuses other priorities
	}
	d.apnsPriority = apnsPriority(n.Priority, d.background, liveActivity)
	d.androidV2 = message.has("android_v2")
	if d.androidV2 {
		d.androidSound = message.object("android_v2").object("remote_notification").has("notification")
	} else {
		d.androidSound = texts || message.object("android").has("notification")
	}
	return d
}

// apnsPriority returns the apns-priority for p. APNs allows only 5 for background, and only 10 and 5
// for Live Activities.
func apnsPriority(p push.Priority, background, liveActivity bool) string {
	switch {
	case background:
		return "5"
	case p == push.PriorityHigh:
		return "10"
	case p == push.PriorityNormal, p == push.PriorityLow && liveActivity:
		return "5"
	case p == push.PriorityLow:
		return "1"
	}
	return ""
}

// object returns the members of the object with that name, or nil if there is no such object.
func (m members) object(name string) members {
	found, _ := parseObject(m.get(name))
	return found
}

// text returns the string with that name, or "".
func (m members) text(name string) string {
	s, _ := unquote(m.get(name))
	return s
}

// has reports whether the member exists and is not empty. null is the same as absent.
func (m members) has(name string) bool {
	value := m.get(name)
	switch value.Kind() {
	case '"':
		return len(value) > len(`""`)
	case '{':
		found, _ := parseObject(value)
		return len(found) > 0
	}
	return value != nil && value.Kind() != 'n'
}

// isZero reports whether the member is 0, "0" or false.
func (m members) isZero(name string) bool {
	value := strings.Trim(string(m.get(name)), `"`)
	return value == "0" || value == "false"
}
