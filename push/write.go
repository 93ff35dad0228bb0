// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json"
	"errors"
	"time"
)

// AppendJSON appends the notification's JSON form on one line: that of its tags, with < > and & as they are. It is by hand
// because every notification that is kept is written so. It refuses a raw block that is no JSON.
func (n *Notification) AppendJSON(b []byte) ([]byte, error) {
	b = appendAnyText(append(b, '{'), "platform", string(n.Platform))
	b = n.appendMembers(b)
	b = n.appendShown(b)
	b = appendTexts(b, "data", n.Data)
	b = appendText(b, "priority", string(n.Priority))
	b = appendText(b, "lane", string(n.Lane))
	b = appendText(b, "collapse_key", n.CollapseKey)
	if n.TTL != nil {
		b = appendText(b, "ttl", time.Duration(*n.TTL).String())
	}
	var failed [3]error
	if !n.SendAt.IsZero() {
		b, failed[0] = appendMoment(b, "send_at", n.SendAt)
	}
	b = appendText(b, "on_unknown", string(n.OnUnknown))
	b = n.Retry.appendMember(b)
	b, failed[1] = n.APNs.appendMember(b)
	b, failed[2] = n.FCM.appendMember(b)
	return appendEnd(n.WebPush.appendMember(b)), errors.Join(failed[:]...)
}

// appendShown appends what the device shows.
func (n *Notification) appendShown(b []byte) []byte {
	b = appendText(b, "title", n.Title)
	b = appendText(b, "subtitle", n.Subtitle)
	b = appendText(b, "body", n.Body)
	b = appendText(b, "image", n.Image)
	if n.Badge != nil {
		b = appendCount(b, "badge", *n.Badge)
	}
	return appendText(b, "sound", n.Sound)
}

func (r *Retry) appendMember(b []byte) []byte {
	if r == nil {
		return b
	}
	b = appendCount(append(appendName(b, "retry"), '{'), "attempts", r.Attempts)
	return append(appendEnd(b), ',')
}

func (a *APNsBlock) appendMember(b []byte) ([]byte, error) {
	if a == nil {
		return b, nil
	}
	b = appendTexts(append(appendName(b, "apns"), '{'), "headers", a.Headers)
	b, err := appendRaw(b, "payload", a.Payload)
	b = appendText(b, "environment", string(a.Environment))
	return append(appendEnd(b), ','), err
}

func (f *FCMBlock) appendMember(b []byte) ([]byte, error) {
	if f == nil {
		return b, nil
	}
	b, err := appendRaw(append(appendName(b, "fcm"), '{'), "message", f.Message)
	if f.ValidateOnly {
		b = append(b, `"validate_only":true,`...)
	}
	return append(appendEnd(b), ','), err
}

func (b *WebPushBlock) appendMember(to []byte) []byte {
	if b == nil {
		return to
	}
	to = appendTexts(append(appendName(to, "webpush"), '{'), "headers", b.Headers)
	to = appendText(to, "payload", b.Payload)
	return append(appendEnd(to), ',')
}

// appendMembers appends the target's members.
func (t *Target) appendMembers(b []byte) []byte {
	b = appendText(b, "token", t.Token)
	b = appendText(b, "topic", t.Topic)
	b = appendText(b, "condition", t.Condition)
	b = appendText(b, "channel", t.Channel)
	b = appendText(b, "installation", t.Installation)
	return t.Subscription.appendMember(b)
}

func (s *Subscription) appendMember(b []byte) []byte {
	if s == nil {
		return b
	}
	b = appendAnyText(append(appendName(b, "subscription"), '{'), "endpoint", s.Endpoint)
	b = appendAnyText(append(appendName(b, "keys"), '{'), "p256dh", s.Keys.P256dh)
	b = append(appendEnd(appendAnyText(b, "auth", s.Keys.Auth)), ',')
	if s.ExpirationTime != nil {
		if number, err := json.Marshal(*s.ExpirationTime); err == nil { // what is no number is not worth keeping
			b = append(append(appendName(b, "expirationTime"), number...), ',')
		}
	}
	return append(appendEnd(b), ',')
}

// AppendJSON appends the event's JSON form on one line: that of its tags, with < > and & as they are. It refuses a time
// that could not be read back.
func (e *Event) AppendJSON(b []byte) ([]byte, error) {
	b = appendAnyText(append(b, '{'), "id", e.ID)
	b = appendAnyText(b, "app", e.App)
	var failed [2]error
	b, failed[0] = appendMoment(b, "at", e.At)
	b = appendAnyText(b, "status", string(e.Status))
	b = appendText(b, "platform", string(e.Platform))
	b = appendText(b, "lane", string(e.Lane))
	if e.Attempt != 0 {
		b = appendCount(b, "attempt", e.Attempt)
	}
	if !e.SendAt.IsZero() {
		b, failed[1] = appendMoment(b, "send_at", e.SendAt)
	}
	if e.Receipt != nil {
		b = append(e.Receipt.AppendJSON(appendName(b, "receipt")), ',')
	}
	if e.Target != nil {
		b = append(appendEnd(e.Target.appendMembers(append(appendName(b, "target"), '{'))), ',')
	}
	b = appendBytes(b, "key_hash", e.KeyHash)
	b = appendBytes(b, "body_hash", e.BodyHash)
	return appendEnd(b), errors.Join(failed[:]...)
}
