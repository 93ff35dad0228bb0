// SPDX-License-Identifier: Apache-2.0

// Package push holds the words of the product: what is sent, who receives it,
// and what came of it. It sends nothing and imports nothing of ours.
package push

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Notification is one message to one target. Its JSON form is the body of
// POST /v1/apps/{app}/notifications; the fields that JSON does not carry are the
// gateway's own.
type Notification struct {
	// ID names the notification everywhere: in receipts, in history and, as
	// apns-id, at Apple. It is a UUID in canonical form, and the same for
	// every attempt.
	ID string `json:"-"`
	// App is the configured app on whose behalf it is sent.
	App string `json:"-"`
	// AcceptedAt is when the gateway took it.
	AcceptedAt time.Time `json:"-"`
	// Patient marks one of a flow that can be held up, such as a batch: in an
	// overload it waits for its place, where others are turned away.
	CanQueue bool `json:"-"`
	// Leaving, if not nil, is called right before each attempt leaves for the provider, with its number from 1. From
	// then on nobody can tell whether it arrived until its answer is known: the queue notes that on disk. An error keeps
	// it here and ends the send as abandoned.
	BeforeAttempt func(attempt int) error `json:"-"`
	// KeyHash and BodyHash are those of the Idempotency-Key that it came with, as Event has them; both empty without one.
	KeyHash  []byte `json:"-"`
	BodyHash []byte `json:"-"`

	Platform Platform `json:"platform"`
	Target

	Title    string `json:"title,omitempty"`
	Subtitle string `json:"subtitle,omitempty"`
	Body     string `json:"body,omitempty"`
	// Image is the https URL of a picture to show.
	Image string `json:"image,omitempty"`
	// Badge is the number on the app's icon; nil leaves it alone, 0 clears it.
	Badge *int `json:"badge,omitempty"`
	// Sound is a sound's name in the app, or "default".
	Sound string `json:"sound,omitempty"`
	// Data reaches the app and is not shown.
	Data map[string]string `json:"data,omitempty"`

	Priority Priority `json:"priority,omitempty"`
	Lane     Lane     `json:"lane,omitempty"`
	// CollapseKey lets a later notification replace this one on the device.
	CollapseKey string `json:"collapse_key,omitempty"`
	// TTL is how long the provider may keep trying, counted from Due. nil
	// leaves it to the provider; 0 means now or never.
	TTL *Duration `json:"ttl,omitempty"`
	// SendAt holds the notification back until then; zero means now.
	SendAt    time.Time `json:"send_at,omitzero"`
	OnUnknown OnUnknown `json:"on_unknown,omitempty"`
	// Retry asks for fewer attempts than the operator allows; nil asks for none fewer.
	Retry *Retry `json:"retry,omitempty"`

	// The raw blocks, each read only by its own provider. They win over the
	// common fields.
	APNs    *APNsBlock    `json:"apns,omitempty"`
	FCM     *FCMBlock     `json:"fcm,omitempty"`
	WebPush *WebPushBlock `json:"webpush,omitempty"`
}

// Retry is what a sender wishes about further attempts.
type Retry struct {
	// Attempts is how many there may be in all, 1 to 10, the queue's included; 0 means as many as the operator allows, and
	// so does every number above that.
	Attempts int `json:"attempts"`
}

// APNsBlock is what only Apple understands.
type APNsBlock struct {
	// Headers are apns-* request headers, without authorization.
	Headers map[string]string `json:"headers,omitempty"`
	// Payload replaces the payload that the common fields would make.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Environment is the one that the target belongs to; empty means the app's.
	Environment Environment `json:"environment,omitempty"`
}

// FCMBlock is what only FCM understands.
type FCMBlock struct {
	// Message is the message object of FCM HTTP v1, merged over the one that
	// the common fields make.
	Message json.RawMessage `json:"message,omitempty"`
	// ValidateOnly asks FCM to check the message and deliver nothing.
	ValidateOnly bool `json:"validate_only,omitempty"`
}

// WebPushBlock is what only Web Push services understand.
type WebPushBlock struct {
	// Headers are TTL, Urgency and Topic (RFC 8030).
	Headers map[string]string `json:"headers,omitempty"`
	// Payload is the plaintext that is encrypted to the browser.
	Payload string `json:"payload,omitempty"`
}

// hasTopic reports whether Topic is among the headers, whose names know no case.
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

// EffectiveLane returns the notification's lane, LaneNormal where none was named.
func (n *Notification) EffectiveLane() Lane {
	if n.Lane == "" {
		return LaneNormal
	}
	return n.Lane
}

// Environment returns the environment that its sender named, or "".
func (n *Notification) Environment() Environment {
	if n.APNs == nil {
		return ""
	}
	return n.APNs.Environment
}

// Collapsible reports whether a second copy would replace the first on the
// device instead of standing beside it.
func (n *Notification) Collapsible() bool {
	return n.CollapseKey != "" || (n.APNs != nil && n.APNs.Headers["apns-collapse-id"] != "") || n.WebPush.hasTopic()
}

// MayRetryUnknown reports whether the sender allows another attempt after one whose
// end is unknown.
func (n *Notification) MayRetryUnknown() bool {
	switch n.OnUnknown {
	case RepeatAlways:
		return true
	case RepeatNever:
		return false
	default:
		return n.Collapsible()
	}
}

// MayRetry reports whether the sender allows another attempt after so many.
func (n *Notification) MayRetry(attempts int) bool {
	return n.Retry == nil || n.Retry.Attempts == 0 || attempts < n.Retry.Attempts
}

// Due returns when the notification was to be sent: at once when it was
// accepted, or at SendAt.
func (n *Notification) Due() time.Time {
	if n.SendAt.After(n.AcceptedAt) {
		return n.SendAt
	}
	return n.AcceptedAt
}

// Expiry returns when the notification loses its worth, and false if its
// sender named no TTL.
func (n *Notification) Expiry() (time.Time, bool) {
	if n.TTL == nil {
		return time.Time{}, false
	}
	return n.Due().Add(time.Duration(*n.TTL)), true
}

// Duration is a time.Duration that JSON spells as Go does: "90s", "1h30m".
type Duration time.Duration

// UnmarshalText accepts what time.ParseDuration does, but nothing negative.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return errors.New(`must be a duration such as "90s" or "1h30m", not negative`)
	}
	*d = Duration(v)
	return nil
}

// MarshalText spells the duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).String()), nil
}

// FieldError says which field of a notification cannot be sent and what is
// allowed there. It never holds the value: that may be a device token.
type FieldError struct {
	Field   string // path in the JSON body, such as apns.headers.apns-priority
	Reason  string // a word from a closed set, such as PayloadTooLarge; becomes the receipt's reason
	Allowed string // what would have been accepted, as a phrase: "an even number of hex digits, 2 to 200"
}

// Error reads "token: must be …".
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: must be %s", e.Field, e.Allowed)
}
