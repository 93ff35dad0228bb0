// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

// AppendJSON appends the notification's JSON form on one line. The result is that of json.Marshal,
// except that <, > and & are not escaped. It does not use encoding/json because the queue writes
// every notification. It returns an error if a raw block is not valid JSON or a time cannot be
// represented.
func (n *Notification) AppendJSON(b []byte) ([]byte, error) {
	b = appendString(append(b, '{'), "platform", string(n.Platform))
	b = n.appendFields(b)
	b = n.appendVisible(b)
	b = appendStringMap(b, "data", n.Data)
	b = appendStrings(b, "tags", n.Tags)
	b = appendNonEmpty(b, "priority", string(n.Priority))
	b = appendNonEmpty(b, "lane", string(n.Lane))
	b = appendNonEmpty(b, "collapse_key", n.CollapseKey)
	if n.TTL != nil {
		b = appendNonEmpty(b, "ttl", time.Duration(*n.TTL).String())
	}
	var errs [4]error
	if !n.SendAt.IsZero() {
		b, errs[0] = appendValidTime(b, "send_at", n.SendAt)
	}
	b = appendNonEmpty(b, "on_unknown", string(n.OnUnknown))
	b = n.Retry.appendField(b)
	if n.DryRun {
		b = append(b, `"dry_run":true,`...)
	}
	if n.Strict {
		b = append(b, `"strict":true,`...)
	}
	b, errs[1] = n.APNs.appendField(b)
	b, errs[2] = n.FCM.appendField(b)
	b, errs[3] = n.WebPush.appendField(b)
	return appendClose(b), errors.Join(errs[:]...)
}

// appendVisible appends the members that the device shows.
func (n *Notification) appendVisible(b []byte) []byte {
	b = appendNonEmpty(b, "title", n.Title)
	b = appendNonEmpty(b, "subtitle", n.Subtitle)
	b = appendNonEmpty(b, "body", n.Body)
	b = appendNonEmpty(b, "image", n.Image)
	if n.Badge != nil {
		b = appendInt(b, "badge", *n.Badge)
	}
	return appendNonEmpty(b, "sound", n.Sound)
}

func (r *Retry) appendField(b []byte) []byte {
	if r == nil {
		return b
	}
	b = appendInt(append(appendKey(b, "retry"), '{'), "attempts", r.Attempts)
	return append(appendClose(b), ',')
}

func (a *APNsBlock) appendField(b []byte) ([]byte, error) {
	if a == nil {
		return b, nil
	}
	b = appendStringMap(append(appendKey(b, "apns"), '{'), "headers", a.Headers)
	b, err := appendRawJSON(b, "payload", a.Payload)
	b = appendNonEmpty(b, "environment", string(a.Environment))
	return append(appendClose(b), ','), err
}

func (f *FCMBlock) appendField(b []byte) ([]byte, error) {
	if f == nil {
		return b, nil
	}
	b, err := appendRawJSON(append(appendKey(b, "fcm"), '{'), "message", f.Message)
	if f.ValidateOnly {
		b = append(b, `"validate_only":true,`...)
	}
	return append(appendClose(b), ','), err
}

func (b *WebPushBlock) appendField(to []byte) ([]byte, error) {
	if b == nil {
		return to, nil
	}
	to = appendStringMap(append(appendKey(to, "webpush"), '{'), "headers", b.Headers)
	to = appendNonEmpty(to, "payload", b.Payload)
	to, err := appendRawJSON(to, "notification", b.Notification)
	if b.Declarative != nil {
		to = append(strconv.AppendBool(appendKey(to, "declarative"), *b.Declarative), ',')
	}
	if b.Mutable {
		to = append(to, `"mutable":true,`...)
	}
	return append(appendClose(to), ','), err
}

// appendFields appends the target's members.
func (t *Target) appendFields(b []byte) []byte {
	b = appendNonEmpty(b, "token", t.Token)
	b = appendNonEmpty(b, "topic", t.Topic)
	b = appendNonEmpty(b, "condition", t.Condition)
	b = appendNonEmpty(b, "channel", t.Channel)
	b = appendNonEmpty(b, "installation", t.Installation)
	return t.Subscription.appendField(b)
}

func (s *Subscription) appendField(b []byte) []byte {
	if s == nil {
		return b
	}
	b = appendString(append(appendKey(b, "subscription"), '{'), "endpoint", s.Endpoint)
	b = appendString(append(appendKey(b, "keys"), '{'), "p256dh", s.Keys.P256dh)
	b = append(appendClose(appendString(b, "auth", s.Keys.Auth)), ',')
	if s.ExpirationTime != nil {
		if number, err := json.Marshal(*s.ExpirationTime); err == nil { // NaN and Inf have no JSON form and are dropped
			b = append(append(appendKey(b, "expirationTime"), number...), ',')
		}
	}
	return append(appendClose(b), ',')
}

// AppendJSON appends the event's JSON form on one line. The result is that of json.Marshal, except
// that <, > and & are not escaped. It returns an error if a time cannot be represented.
func (e *Event) AppendJSON(b []byte) ([]byte, error) {
	b = appendString(append(b, '{'), "id", e.ID)
	b = appendString(b, "app", e.App)
	var errs [2]error
	b, errs[0] = appendValidTime(b, "at", e.At)
	b = appendString(b, "status", string(e.Status))
	b = appendNonEmpty(b, "platform", string(e.Platform))
	b = appendNonEmpty(b, "lane", string(e.Lane))
	b = appendStrings(b, "tags", e.Tags)
	b = appendNonEmpty(b, "broadcast", e.Broadcast)
	if e.Line != 0 {
		b = appendInt(b, "line", int(e.Line))
	}
	if e.Attempt != 0 {
		b = appendInt(b, "attempt", e.Attempt)
	}
	if !e.SendAt.IsZero() {
		b, errs[1] = appendValidTime(b, "send_at", e.SendAt)
	}
	if e.Receipt != nil {
		b = append(e.Receipt.AppendJSON(appendKey(b, "receipt")), ',')
	}
	if e.Target != nil {
		b = append(appendClose(e.Target.appendFields(append(appendKey(b, "target"), '{'))), ',')
	}
	b = appendNonEmpty(b, "traceparent", e.TraceParent)
	b = appendNonEmpty(b, "tracestate", e.TraceState)
	b = appendBase64(b, "key_hash", e.KeyHash)
	b = appendBase64(b, "body_hash", e.BodyHash)
	return appendClose(b), errors.Join(errs[:]...)
}
