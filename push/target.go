// SPDX-License-Identifier: Apache-2.0

package push

// Target is the receiver of a notification: exactly one of its fields is set. The provider checks
// which fields its platform supports and their syntax, and returns a FieldError for an invalid
// target.
type Target struct {
	// Token identifies one device: an APNs device token in hex, or an FCM registration token.
	Token string `json:"token,omitempty"`
	// Topic is an FCM topic, without the /topics/ prefix.
	Topic string `json:"topic,omitempty"`
	// Condition is a boolean expression over FCM topics.
	Condition string `json:"condition,omitempty"`
	// Channel is the ID of an APNs broadcast channel, in base64.
	Channel string `json:"channel,omitempty"`
	// Installation is a Firebase installation ID (FCM calls it fid).
	Installation string `json:"installation,omitempty"`
	// Subscription is a browser's push subscription (Web Push).
	Subscription *Subscription `json:"subscription,omitempty"`
}

// Subscription is the result of PushSubscription.toJSON() in a browser (W3C Push API). All of it is
// secret.
type Subscription struct {
	Endpoint string           `json:"endpoint"`
	Keys     SubscriptionKeys `json:"keys"`
	// ExpirationTime is in milliseconds since 1970, or null. It is accepted because browsers send
	// it, and ignored because the push service decides when a subscription ends.
	ExpirationTime *float64 `json:"expirationTime,omitempty"`
}

// SubscriptionKeys are the keys to encrypt a message for one browser (RFC 8291), in base64url.
type SubscriptionKeys struct {
	P256dh string `json:"p256dh"`
	Auth   string `json:"auth"`
}

// TargetKind says which field of a Target is set.
type TargetKind uint8

// The kinds of target. NoTarget is the kind of a Target with no field or more than one field set.
const (
	NoTarget TargetKind = iota
	ToToken
	ToTopic
	ToCondition
	ToChannel
	ToInstallation
	ToSubscription
)

// Kind returns which field is set, or NoTarget unless exactly one is set.
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

// Key returns the text that identifies the target among those of its kind. It is secret if the
// target is a device: do not log it.
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
