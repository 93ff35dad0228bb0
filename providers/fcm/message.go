// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/jsonobj"
	"github.com/sluice-push/sluice/push"
)

// The reasons of an invalid notification. A receipt with one of them means that nothing was sent.
const (
	invalidTarget   = "InvalidTarget"
	invalidField    = "InvalidField"
	invalidPayload  = "InvalidPayload"
	payloadEmpty    = "PayloadEmpty"
	payloadTooLarge = "PayloadTooLarge"
)

// The payload limits in bytes. Firebase, "About FCM messages".
const (
	maxPayload      = 4096
	maxTopicPayload = 2048 // to a topic or condition
)

// maxTTL is the maximum and default TTL of FCM: four weeks.
const maxTTL = 2419200 * time.Second

func invalid(field, reason, allowed string) error {
	return &push.FieldError{Field: field, Reason: reason, Allowed: allowed}
}

// requestBody returns the request's body.
func requestBody(n *push.Notification) ([]byte, error) {
	if err := checkFields(n); err != nil {
		return nil, err
	}
	var o jsonobj.Writer
	if isRaw(n) {
		o = openBody(n)
		merged, err := merge(n)
		if err != nil {
			return nil, err
		}
		o.Bytes = append(o.Bytes, merged...)
	} else {
		o = startBody(n)
		appendContent(&o, n, deriveFromFields(n))
		if o.InvalidField != "" {
			return nil, invalid(o.InvalidField, invalidField, "valid UTF-8")
		}
		if size := payloadSize(n); size > payloadLimit(n) {
			return nil, tooLarge(largestField(n), size, n)
		}
	}
	o.Close()
	return o.Bytes, nil
}

// openBody returns the body up to the message.
func openBody(n *push.Notification) jsonobj.Writer {
	o := jsonobj.Writer{Bytes: make([]byte, 0, sizeHint(n))}
	o.Open("")
	if n.DryRun || n.FCM != nil && n.FCM.ValidateOnly {
		o.Name("validate_only", "")
		o.Bytes = append(o.Bytes, "true"...)
	}
	o.Name("message", "")
	return o
}

// startBody returns the body up to the target, the first member of a message that is not raw. What
// follows does not depend on the target.
func startBody(n *push.Notification) jsonobj.Writer {
	o := openBody(n)
	appendTarget(&o, n)
	return o
}

func isRaw(n *push.Notification) bool { return n.FCM != nil && len(n.FCM.Message) > 0 }

func payloadLimit(n *push.Notification) int {
	if kind := n.Kind(); kind == push.ToTopic || kind == push.ToCondition {
		return maxTopicPayload
	}
	return maxPayload
}

// payloadSize counts what every device receives: the texts of the notification, and the names and
// values of data. FCM counts at least that, and does not document what else it counts.
func payloadSize(n *push.Notification) int {
	size := len(n.Title) + len(n.Body) + len(n.Image)
	for name, value := range n.Data {
		size += len(name) + len(value)
	}
	return size
}

// largestField returns the common field that takes the most bytes of the payload.
func largestField(n *push.Notification) string {
	field, size := "body", len(n.Body)
	if len(n.Title) > size {
		field, size = "title", len(n.Title)
	}
	if len(n.Image) > size {
		field, size = "image", len(n.Image)
	}
	if payloadSize(n)-len(n.Title)-len(n.Body)-len(n.Image) > size {
		field = "data"
	}
	return field
}

func tooLarge(field string, size int, n *push.Notification) error {
	return invalid(field, payloadTooLarge, fmt.Sprintf(
		"shorter: title, body, image and data have %d bytes together; at most %d bytes are allowed for this target", size, payloadLimit(n)))
}

// checkFields checks the common fields that have more rules than valid UTF-8.
func checkFields(n *push.Notification) error {
	switch {
	case !isVisible(n) && n.Badge == nil && n.Sound == "" && len(n.Data) == 0 && !isRaw(n):
		return invalid("body", payloadEmpty, "set, or another visible field, data or fcm.message: the notification is empty")
	case n.Badge != nil && *n.Badge < 0:
		return invalid("badge", invalidField, "0 or more")
	case n.Image != "" && !isImage(n.Image):
		return invalid("image", invalidField, "an https URL")
	case n.TTL != nil && time.Duration(*n.TTL) > maxTTL:
		return invalid("ttl", invalidField, "at most 672h (four weeks) for FCM")
	case !isCollapseKey(n.CollapseKey):
		return invalid("collapse_key", invalidField, "at most 64 printable ASCII characters, with no space at either end, the limit of Apple devices")
	}
	for name := range n.Data {
		if isReserved(name) {
			return invalid("data", invalidField, reservedNames)
		}
	}
	for name := range n.Data {
		if isDropped(name) {
			return n.Warn("data", droppedNames)
		}
	}
	return nil
}

// isVisible reports whether the device displays a notification.
func isVisible(n *push.Notification) bool {
	return n.Title != "" || n.Subtitle != "" || n.Body != "" || n.Image != ""
}

func isImage(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

func isCollapseKey(s string) bool {
	unprintable := strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	return len(s) <= 64 && !unprintable && strings.TrimSpace(s) == s
}

const reservedNames = "without the names that FCM reserves: the prefixes google. and gcm.notification., from and message_type"

// isReserved reports whether FCM refuses that name in data ("REST Resource: projects.messages",
// revision 20261023).
func isReserved(name string) bool {
	return name == "from" || name == "message_type" || strings.HasPrefix(name, "google.") || strings.HasPrefix(name, "gcm.notification.")
}

const droppedNames = "without collapse_key, gcm, and names that start with gcm.: the Firebase SDK of Android does not pass them to the app"

// isDropped reports whether FCM or its Android SDK drops an entry with that name from data.
func isDropped(name string) bool {
	return name == "collapse_key" || name == "gcm" || strings.HasPrefix(name, "gcm.")
}

// appendCommon appends the message made from the common fields.
func appendCommon(o *jsonobj.Writer, n *push.Notification, d derived) {
	appendTarget(o, n)
	appendContent(o, n, d)
}

// appendTarget opens the message and appends its target.
func appendTarget(o *jsonobj.Writer, n *push.Notification) {
	o.Open("")
	o.Text(targetName(n.Kind()), n.Key(), "token")
}

// appendContent appends everything else from the common fields, and closes the message.
func appendContent(o *jsonobj.Writer, n *push.Notification, d derived) {
	if hasTexts(n) {
		o.Open("notification")
		o.Text("title", n.Title, "title")
		o.Text("body", n.Body, "body")
		o.Text("image", n.Image, "image")
		o.Close()
	}
	if len(n.Data) > 0 {
		o.Open("data")
		o.Texts(n.Data, "data")
		o.Close()
	}
	left, bounded := remainingTTL(n)
	appendAndroid(o, n, d, left, bounded)
	appendAPNs(o, n, d, bounded)
	appendWebPush(o, n, left, bounded)
	o.Close()
}

// hasTexts reports whether the message has a notification, which all platforms display.
func hasTexts(n *push.Notification) bool { return n.Title != "" || n.Body != "" || n.Image != "" }

// remainingTTL returns the remaining seconds of n's TTL, rounded up. FCM counts the TTL from when
// it receives the message, a notification's TTL counts from when it is due.
func remainingTTL(n *push.Notification) (seconds int64, bounded bool) {
	end, bounded := n.Expiry()
	if !bounded || *n.TTL == 0 {
		return 0, bounded
	}
	return int64((max(time.Until(end), 0) + time.Second - 1) / time.Second), true
}

// appendAndroid appends the fields that are specific to Android.
func appendAndroid(o *jsonobj.Writer, n *push.Notification, d derived, left int64, bounded bool) {
	sound := n.Sound != "" && d.androidSound
	priority := n.Priority != "" && !d.androidV2 // implied by the kind of an android_v2 message
	if !priority && !bounded && n.CollapseKey == "" && !sound {
		return
	}
	name := "android"
	if d.androidV2 {
		name = "android_v2"
	}
	o.Open(name)
	switch {
	case !priority:
	case n.Priority == push.PriorityHigh:
		o.Text("priority", "HIGH", "")
	default:
		o.Text("priority", "NORMAL", "")
	}
	if bounded {
		o.Text("ttl", strconv.FormatInt(left, 10)+"s", "")
	}
	o.Text("collapse_key", n.CollapseKey, "collapse_key")
	if sound {
		appendAndroidSound(o, n, d)
	}
	o.Close()
}

func appendAndroidSound(o *jsonobj.Writer, n *push.Notification, d derived) {
	if d.androidV2 {
		o.Open("remote_notification")
		defer o.Close()
	}
	o.Open("notification")
	o.Text("sound", n.Sound, "sound")
	o.Close()
}

// appendAPNs appends the fields that are specific to Apple devices.
func appendAPNs(o *jsonobj.Writer, n *push.Notification, d derived, bounded bool) {
	headers := d.background || d.apnsPriority != "" || bounded || n.CollapseKey != ""
	aps := n.Subtitle != "" || n.Badge != nil || n.Sound != "" || d.mutableContent || d.contentAvailable
	if !headers && !aps {
		return
	}
	o.Open("apns")
	if headers {
		o.Open("headers")
		appendAPNsHeaders(o, n, d)
		o.Close()
	}
	if aps {
		o.Open("payload")
		o.Open("aps")
		appendAPS(o, n, d)
		o.Close()
		o.Close()
	}
	o.Close()
}

func appendAPNsHeaders(o *jsonobj.Writer, n *push.Notification, d derived) {
	if d.background {
		o.Text("apns-push-type", "background", "")
	}
	o.Text("apns-priority", d.apnsPriority, "")
	if end, bounded := n.Expiry(); bounded {
		seconds := int64(0)
		if *n.TTL > 0 {
			seconds = end.Add(time.Second - 1).Unix()
		}
		o.Text("apns-expiration", strconv.FormatInt(seconds, 10), "")
	}
	o.Text("apns-collapse-id", n.CollapseKey, "collapse_key")
}

func appendAPS(o *jsonobj.Writer, n *push.Notification, d derived) {
	if n.Subtitle != "" { // this alert replaces notification, so it needs all texts
		o.Open("alert")
		o.Text("title", d.title, "title")
		o.Text("subtitle", n.Subtitle, "subtitle")
		o.Text("body", d.body, "body")
		o.Close()
	}
	if n.Badge != nil {
		o.Number("badge", *n.Badge)
	}
	o.Text("sound", n.Sound, "sound")
	if d.contentAvailable {
		o.Number("content-available", 1)
	}
	if d.mutableContent {
		o.Number("mutable-content", 1)
	}
}

// appendWebPush appends the headers for browsers (RFC 8030).
func appendWebPush(o *jsonobj.Writer, n *push.Notification, left int64, bounded bool) {
	if n.Priority == "" && !bounded {
		return
	}
	o.Open("webpush")
	o.Open("headers")
	if bounded {
		o.Text("TTL", strconv.FormatInt(left, 10), "")
	}
	o.Text("Urgency", string(n.Priority), "priority")
	o.Close()
	o.Close()
}

// sizeHint estimates the size of the body, so that one allocation is enough.
func sizeHint(n *push.Notification) int {
	size := 480 + len(n.Key()) + 2*(len(n.Title)+len(n.Body)) + len(n.Subtitle) + len(n.Image) + 2*len(n.Sound) + 2*len(n.CollapseKey)
	for name, value := range n.Data {
		size += len(name) + len(value) + len(`"":"",`)
	}
	return size
}
