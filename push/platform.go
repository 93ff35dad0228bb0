// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"strings"
)

// Platform names the push service that a notification goes to. The zero value
// is no platform and is refused at the door.
type Platform string

// The platforms that Sluice delivers to.
const (
	APNs    Platform = "apns"    // Apple Push Notification service
	FCM     Platform = "fcm"     // Firebase Cloud Messaging, HTTP v1
	WebPush Platform = "webpush" // RFC 8030 push services of the browsers
)

// UnmarshalText refuses every word but the three platforms.
func (p *Platform) UnmarshalText(text []byte) error {
	return unmarshalEnum(p, text, APNs, FCM, WebPush)
}

// Environment is one of the two worlds that Apple keeps apart. A device token and
// a channel belong to one of them and are unknown in the other. The zero value
// leaves the choice to the app's configuration.
type Environment string

// The environments.
const (
	Production Environment = "production" // apps from the App Store and TestFlight
	Sandbox    Environment = "sandbox"    // apps that Xcode has put on a device
)

// UnmarshalText refuses every word but production and sandbox.
func (e *Environment) UnmarshalText(text []byte) error {
	return unmarshalEnum(e, text, Production, Sandbox)
}

// Priority is what the device is told about urgency: whether to wake the
// screen or to wait for a good moment. It does not order the gateway's own
// work; Lane does.
type Priority string

// The priorities. The zero value leaves the choice to the provider's default.
const (
	PriorityHigh   Priority = "high"
	PriorityNormal Priority = "normal"
	PriorityLow    Priority = "low"
)

// UnmarshalText refuses every word but high, normal and low.
func (p *Priority) UnmarshalText(text []byte) error {
	return unmarshalEnum(p, text, PriorityHigh, PriorityNormal, PriorityLow)
}

// Lane orders notifications inside the gateway when something is scarce: bulk
// waits first and is shed first, critical last. The device never sees it.
type Lane string

// The lanes. The zero value means LaneNormal; ask Notification.InLane.
const (
	LaneCritical Lane = "critical"
	LaneNormal   Lane = "normal"
	LaneBulk     Lane = "bulk"
)

// UnmarshalText refuses every word but critical, normal and bulk.
func (l *Lane) UnmarshalText(text []byte) error {
	return unmarshalEnum(l, text, LaneCritical, LaneNormal, LaneBulk)
}

// OnUnknown says whether a notification may be sent again when nobody can tell
// whether the provider took it, for a repeat may show it twice.
type OnUnknown string

// The rules for a repeat. The zero value means RepeatIfCollapsible; ask
// Notification.MayRepeat.
const (
	RepeatNever         OnUnknown = "never"          // at most once: report unknown instead
	RepeatIfCollapsible OnUnknown = "if_collapsible" // only when a repeat replaces the first (a collapse key is set)
	RepeatAlways        OnUnknown = "always"         // at least once: a duplicate is the lesser evil
)

// UnmarshalText refuses every word but never, if_collapsible and always.
func (u *OnUnknown) UnmarshalText(text []byte) error {
	return unmarshalEnum(u, text, RepeatNever, RepeatIfCollapsible, RepeatAlways)
}

// unmarshalEnum sets *dst to the allowed word that text spells, or says which words
// are allowed. The offending value is left out: callers put this error into
// answers, and a misplaced token must not travel there.
func unmarshalEnum[T ~string](dst *T, text []byte, allowed ...T) error {
	for _, word := range allowed {
		if string(text) == string(word) {
			*dst = word
			return nil
		}
	}
	words := make([]string, len(allowed))
	for i, word := range allowed {
		words[i] = fmt.Sprintf("%q", string(word))
	}
	return fmt.Errorf("must be one of %s", strings.Join(words, ", "))
}
