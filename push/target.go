// SPDX-License-Identifier: Apache-2.0

package push

// Target says who is to receive a notification: exactly one of its fields is
// set. Which of them a platform knows, and their grammar, is the provider's to
// check; it answers with a FieldError.
type Target struct {
	// Token is one device: an APNs device token in hex, or an FCM registration token.
	Token string `json:"token,omitempty"`
	// Topic is an FCM topic, without the /topics/ prefix.
	Topic string `json:"topic,omitempty"`
	// Condition is a boolean expression over FCM topics.
	Condition string `json:"condition,omitempty"`
	// Channel is an APNs broadcast channel's ID, in base64.
	Channel string `json:"channel,omitempty"`
	// Installation is a Firebase installation ID (FCM calls it fid).
	Installation string `json:"installation,omitempty"`
	// Subscription is a browser's push subscription (Web Push).
	Subscription *Subscription `json:"subscription,omitempty"`
}

// Subscription is what PushSubscription.toJSON() gives in a browser (W3C Push
// API). Every part of it is a secret of the user's.
type Subscription struct {
	Endpoint string           `json:"endpoint"`
	Keys     SubscriptionKeys `json:"keys"`
	// ExpirationTime is taken because browsers give it, in milliseconds since
	// 1970 or null, and ignored: the push service knows better.
	ExpirationTime *float64 `json:"expirationTime,omitempty"`
}

// SubscriptionKeys encrypt a message to one browser (RFC 8291), in base64url.
type SubscriptionKeys struct {
	P256dh string `json:"p256dh"`
	Auth   string `json:"auth"`
}

// TargetKind tells which field of a Target is set.
type TargetKind uint8

// The kinds of target. NoTarget is the kind of an empty Target and of one with
// more than one field set.
const (
	NoTarget TargetKind = iota
	ToToken
	ToTopic
	ToCondition
	ToChannel
	ToInstallation
	ToSubscription
)

// Kind returns which field is set, and NoTarget unless exactly one is.
func (t *Target) Kind() TargetKind {
	kind := NoTarget
	for _, is := range [...]struct {
		set  bool
		kind TargetKind
	}{
		{t.Token != "", ToToken},
		{t.Topic != "", ToTopic},
		{t.Condition != "", ToCondition},
		{t.Channel != "", ToChannel},
		{t.Installation != "", ToInstallation},
		{t.Subscription != nil, ToSubscription},
	} {
		if !is.set {
			continue
		}
		if kind != NoTarget {
			return NoTarget
		}
		kind = is.kind
	}
	return kind
}

// Key returns the text that identifies the target among those of its kind. It
// is a secret wherever the target is a device: use it to index memory, never
// to print.
func (t *Target) Key() string {
	switch t.Kind() {
	case ToToken:
		return t.Token
	case ToTopic:
		return t.Topic
	case ToCondition:
		return t.Condition
	case ToChannel:
		return t.Channel
	case ToInstallation:
		return t.Installation
	case ToSubscription:
		return t.Subscription.Endpoint
	default:
		return ""
	}
}
