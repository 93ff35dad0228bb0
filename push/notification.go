// SPDX-License-Identifier: Apache-2.0

// Package push defines the domain types: what is sent (Notification), to whom (Target), and the
// result (Outcome, Receipt). It sends nothing and imports no other package of this module.
package push

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Notification is one message to one target. Its JSON form is the body of a request to
// POST /v1/apps/{app}/notifications. The gateway sets the fields that have no JSON form.
type Notification struct {
	// ID identifies the notification in receipts, in the history and, as apns-id, at Apple. It is a
	// UUID in canonical form and the same for every attempt.
	ID string `json:"-"`
	// App is the configured app that sends the notification.
	App string `json:"-"`
	// AcceptedAt is when the gateway accepted the notification.
	AcceptedAt time.Time `json:"-"`
	// KeyHash and BodyHash identify the Idempotency-Key of the request and its body, as in Event.
	// Both are empty without a key.
	KeyHash  []byte `json:"-"`
	BodyHash []byte `json:"-"`
	// Trace is the trace that the notification belongs to.
	Trace TraceContext `json:"-"`
	// Warnings says what the provider did not recognize in the provider-specific blocks. It is set
	// when the notification is validated; see Warn.
	Warnings []Warning `json:"-"`

	Platform Platform `json:"platform"`
	Target

	Title    string `json:"title,omitempty"`
	Subtitle string `json:"subtitle,omitempty"`
	Body     string `json:"body,omitempty"`
	// Image is the https URL of an image to show.
	Image string `json:"image,omitempty"`
	// Badge is the number on the app's icon: nil leaves it unchanged, 0 clears it.
	Badge *int `json:"badge,omitempty"`
	// Sound is the name of a sound in the app, or "default".
	Sound string `json:"sound,omitempty"`
	// Data is delivered to the app and not displayed.
	Data map[string]string `json:"data,omitempty"`

	// Tags are labels of the sender, by which notifications can be found and counted; see CheckTags. No
	// provider gets them.
	Tags []string `json:"tags,omitempty"`

	Priority Priority `json:"priority,omitempty"`
	Lane     Lane     `json:"lane,omitempty"`
	// CollapseKey makes a later notification with the same key replace this one while the provider
	// stores it and, on Apple's devices and in browsers, also after it is displayed.
	CollapseKey string `json:"collapse_key,omitempty"`
	// TTL is how long the provider may try to deliver, counted from Due. nil means the provider's
	// default; 0 means one immediate attempt at delivery.
	TTL *Duration `json:"ttl,omitempty"`
	// SendAt is the time to send the notification; zero means now.
	SendAt    time.Time `json:"send_at,omitzero"`
	OnUnknown OnUnknown `json:"on_unknown,omitempty"`
	// Retry can lower the number of attempts below the operator's limit; nil leaves the limit.
	Retry *Retry `json:"retry,omitempty"`
	// DryRun makes the gateway check the notification without sending it: see Receipt.DryRun. FCM
	// validates it too. A dry run is not recorded in the history and not counted.
	DryRun bool `json:"dry_run,omitempty"`
	// Strict makes a warning an error, so that a notification with an unknown field is not sent.
	Strict bool `json:"strict,omitempty"`

	// The provider-specific blocks. Each is read only by its provider and overrides the common
	// fields.
	APNs    *APNsBlock    `json:"apns,omitempty"`
	FCM     *FCMBlock     `json:"fcm,omitempty"`
	WebPush *WebPushBlock `json:"webpush,omitempty"`
}

// Retry is a sender's limit on attempts.
type Retry struct {
	// Attempts is the maximum number of attempts, 1 to 10, including those of the queue. 0, and any
	// number above the operator's limit, means the operator's limit.
	Attempts int `json:"attempts"`
}

// APNsBlock holds the fields that only APNs has.
type APNsBlock struct {
	// Headers are apns-* request headers; authorization is not allowed.
	Headers map[string]string `json:"headers,omitempty"`
	// Payload replaces the payload made from the common fields.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Environment is the environment of the target; empty means the app's default.
	Environment Environment `json:"environment,omitempty"`
}

// Header returns the value of a header, or "". Names are case-insensitive; name is in lower case. A
// nil block has no headers.
func (a *APNsBlock) Header(name string) string {
	if a == nil {
		return ""
	}
	if value := a.Headers[name]; value != "" {
		return value
	}
	for given, value := range a.Headers {
		if value != "" && strings.EqualFold(given, name) {
			return value
		}
	}
	return ""
}

// FCMBlock holds the fields that only FCM has.
type FCMBlock struct {
	// Message is an FCM HTTP v1 message object. It is merged over the message made from the common
	// fields.
	Message json.RawMessage `json:"message,omitempty"`
	// ValidateOnly makes FCM check the message without delivering it.
	ValidateOnly bool `json:"validate_only,omitempty"`
}

// WebPushBlock holds the fields that only Web Push has.
type WebPushBlock struct {
	// Headers are TTL, Urgency and Topic (RFC 8030), and X-WNS-Cache-Policy (Windows).
	Headers map[string]string `json:"headers,omitempty"`
	// Payload replaces the plaintext made from the common fields. It is encrypted for the browser.
	Payload string `json:"payload,omitempty"`
	// Notification holds options of showNotification and navigate, the URL to open. It is merged over
	// those made from the common fields.
	Notification json.RawMessage `json:"notification,omitempty"`
	// Declarative says whether the payload is a declarative push message, which the browser displays
	// without a service worker; nil leaves it to the app's configuration. true needs a title and
	// navigate.
	Declarative *bool `json:"declarative,omitempty"`
	// Mutable lets a service worker change a declarative push message before it is displayed.
	Mutable bool `json:"mutable,omitempty"`
}

// EffectiveLane returns the notification's lane, or LaneNormal if it has none.
func (n *Notification) EffectiveLane() Lane {
	if n.Lane == "" {
		return LaneNormal
	}
	return n.Lane
}

// Key returns the text that identifies the target among those of its kind. The digits of an APNs
// device token are in lower case, because senders write them in either case. The key of a device is
// secret: do not log it.
func (n *Notification) Key() string {
	if n.Platform == APNs && n.Kind() == ToToken {
		return strings.ToLower(n.Token)
	}
	return n.Target.Key()
}

// Environment returns the environment that the sender set, or "".
func (n *Notification) Environment() Environment {
	if n.APNs == nil {
		return ""
	}
	return n.APNs.Environment
}

// MayRetryUnknown reports whether the sender allows another attempt after one whose result is
// unknown. By default that is if a second copy replaces the first on the device, also if the first
// is displayed already.
func (n *Notification) MayRetryUnknown() bool {
	switch n.OnUnknown {
	case RepeatAlways:
		return true
	case RepeatNever:
		return false
	default:
		return n.replacesDisplayed()
	}
}

// MayRetry reports whether the sender allows another attempt after the given number of attempts.
func (n *Notification) MayRetry(attempts int) bool {
	return n.Retry == nil || n.Retry.Attempts == 0 || attempts < n.Retry.Attempts
}

// Due returns when the notification is to be sent: SendAt, or AcceptedAt if that is later.
func (n *Notification) Due() time.Time {
	if n.SendAt.After(n.AcceptedAt) {
		return n.SendAt
	}
	return n.AcceptedAt
}

// Expiry returns when the notification expires, and false if it has no TTL.
func (n *Notification) Expiry() (time.Time, bool) {
	if n.TTL == nil {
		return time.Time{}, false
	}
	return n.Due().Add(time.Duration(*n.TTL)), true
}

// Warning is about a part of a provider-specific block that this version does not know, or that the
// provider is documented to ignore. It was sent unchanged, so that a new field of a provider needs
// no new version of the gateway.
type Warning struct {
	Field  string `json:"field"`  // path in the JSON body; never contains a value
	Detail string `json:"detail"` // what is expected there
}

// maxWarnings bounds the size of a receipt.
const maxWarnings = 16

// Warn records a warning. field and allowed are those of a FieldError. If n is strict, Warn returns
// that error instead, and the notification must not be sent. Only providers call it, while they
// validate n.
func (n *Notification) Warn(field, allowed string) error {
	switch {
	case n.Strict:
		return &FieldError{Field: field, Reason: "NotRecognized", Allowed: allowed + " (because of strict)"}
	case len(n.Warnings) < maxWarnings:
		n.Warnings = append(n.Warnings, Warning{Field: field, Detail: "not recognized and sent unchanged; expected: " + allowed})
	}
	return nil
}

// Duration is a time.Duration that is a string such as "90s" or "1h30m" in JSON.
type Duration time.Duration

// UnmarshalText accepts what time.ParseDuration accepts, except negative durations.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return errors.New(`must be a duration such as "90s" or "1h30m", not negative`)
	}
	*d = Duration(v)
	return nil
}

// MarshalText returns the duration in the format of time.Duration.String.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).String()), nil
}

// FieldError says which field of a notification is invalid and what is allowed there. It never
// contains the value, which may be a device token.
type FieldError struct {
	Field   string // path in the JSON body, such as apns.headers.apns-priority
	Reason  string // one of a closed set, such as PayloadTooLarge; the receipt's reason
	Allowed string // what is allowed, as a phrase: "an even number of hex digits, 2 to 200"
	// Unregistered is set if the target is well-formed and known to be no longer registered.
	Unregistered bool
}

// Error returns a text such as "token: must be an even number of hex digits, 2 to 200".
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: must be %s", e.Field, e.Allowed)
}
