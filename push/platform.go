// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"strings"
)

// Platform is the push service that a notification is sent to. The zero value is invalid.
type Platform string

// The platforms that Sluice delivers to.
const (
	APNs    Platform = "apns"    // Apple Push Notification service
	FCM     Platform = "fcm"     // Firebase Cloud Messaging, HTTP v1
	WebPush Platform = "webpush" // the browsers' push services (RFC 8030)
)

// UnmarshalText accepts apns, fcm and webpush.
func (p *Platform) UnmarshalText(text []byte) error {
	return unmarshalEnum(p, text, APNs, FCM, WebPush)
}

// Environment is one of the two separate environments of APNs. A device token or channel belongs to
// one of them and is unknown in the other. The zero value means the app's default.
type Environment string

// The environments.
const (
	Production Environment = "production" // apps from the App Store and TestFlight
	Sandbox    Environment = "sandbox"    // apps installed from Xcode
)

// UnmarshalText accepts production and sandbox.
func (e *Environment) UnmarshalText(text []byte) error {
	return unmarshalEnum(e, text, Production, Sandbox)
}

// Priority tells the device how urgent a notification is, for instance whether to wake the screen.
// It does not affect the order in which the gateway sends; see Lane.
type Priority string

// The priorities. The zero value means the provider's default.
const (
	PriorityHigh   Priority = "high"
	PriorityNormal Priority = "normal"
	PriorityLow    Priority = "low"
)

// UnmarshalText accepts high, normal and low.
func (p *Priority) UnmarshalText(text []byte) error {
	return unmarshalEnum(p, text, PriorityHigh, PriorityNormal, PriorityLow)
}

// Lane is the priority inside the gateway when capacity is short: bulk waits and is shed first,
// critical last. It is not sent to the device.
type Lane string

// The lanes. The zero value means LaneNormal; see Notification.EffectiveLane.
const (
	LaneCritical Lane = "critical"
	LaneNormal   Lane = "normal"
	LaneBulk     Lane = "bulk"
)

// Priority returns the rank of the lane: 0 for critical, 1 for normal and the zero value, and 2 for
// bulk.
func (l Lane) Priority() int {
	switch l {
	case LaneCritical:
		return 0
	case LaneBulk:
		return 2
	default:
		return 1
	}
}

// UnmarshalText accepts critical, normal and bulk.
func (l *Lane) UnmarshalText(text []byte) error {
	return unmarshalEnum(l, text, LaneCritical, LaneNormal, LaneBulk)
}

// OnUnknown says whether to send a notification again when it is unknown whether the provider
// accepted it. The device may then show it twice.
type OnUnknown string

// The OnUnknown values. The zero value means RepeatIfCollapsible; see Notification.MayRetryUnknown.
const (
	RepeatNever         OnUnknown = "never"          // at most once: the receipt says unknown
	RepeatIfCollapsible OnUnknown = "if_collapsible" // retry only if the second copy replaces the first on the device
	RepeatAlways        OnUnknown = "always"         // at least once: accept duplicates
)

// UnmarshalText accepts never, if_collapsible and always.
func (u *OnUnknown) UnmarshalText(text []byte) error {
	return unmarshalEnum(u, text, RepeatNever, RepeatIfCollapsible, RepeatAlways)
}

// unmarshalEnum sets *dst to the allowed value that text spells, or returns an error that lists the
// allowed values. The error omits text: callers return it to clients, and text may be a misplaced
// device token.
func unmarshalEnum[T ~string](dst *T, text []byte, allowed ...T) error {
	for _, value := range allowed {
		if string(text) == string(value) {
			*dst = value
			return nil
		}
	}
	values := make([]string, len(allowed))
	for i, value := range allowed {
		values[i] = fmt.Sprintf("%q", string(value))
	}
	return fmt.Errorf("must be one of %s", strings.Join(values, ", "))
}
