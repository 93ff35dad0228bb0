// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// broadcastType is the one push type that a channel takes, with the limits of a broadcast. Apple, "Sending broadcast
// push notification requests to APNs", read 2026-11-22.
var broadcastType = pushType{"liveactivity", "", 5120, "10 5 1", true, true}

// broadcast checks n and writes it as a request to all who listen to a channel.
func (p *Provider) broadcast(n *push.Notification) (*wire.Request, error) {
	if err := p.checkBroadcast(n); err != nil {
		return nil, err
	}
	body, err := payload(n, &broadcastType)
	if err != nil {
		return nil, err
	}
	header, err := broadcastHeader(n)
	if err != nil {
		return nil, err
	}
	if err := checkLiveActivity(n); err != nil {
		return nil, err
	}
	return &wire.Request{Method: "POST", Path: "/4/broadcasts/apps/" + p.topic, Header: header, Body: body}, nil
}

func (p *Provider) checkBroadcast(n *push.Notification) error {
	if !isChannel(n.Channel) {
		return invalid("channel", invalidTarget, channelGrammar)
	}
	if p.topic == "" {
		return invalid("channel", invalidTarget, "another target: this app's configuration names no topic, and a broadcast is for an app")
	}
	if err := checkHeaderNames(n); err != nil {
		return err
	}
	if kind := senderHeader(n, "apns-push-type"); kind != "" && kind != broadcastType.name {
		return invalid("apns.headers.apns-push-type", invalidHeader, "liveactivity: a channel takes nothing else")
	}
	for _, name := range [...]string{"apns-topic", "apns-collapse-id"} {
		if senderHeader(n, name) != "" {
			return invalid("apns.headers."+name, invalidHeader, "absent: a broadcast has none")
		}
	}
	if _, err := contentOf(n); err != nil {
		return err
	}
	return nil
}

const channelGrammar = "a channel's ID as Apple gave it: base64, at most 200 characters"

func isChannel(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil && s != "" && len(s) <= 200 && !strings.ContainsAny(s, "\r\n")
}

// broadcastHeader writes the header. Without a TTL the expiration is 0, which every channel takes: one whose policy is
// to store nothing takes no other. A collapse key has no place here, for an activity's state replaces the last one anyway.
func broadcastHeader(n *push.Notification) ([]wire.Field, error) {
	priority, err := priorityFor(n, &broadcastType)
	if err != nil {
		return nil, err
	}
	expiration, err := expirationFor(n, &broadcastType)
	if err != nil {
		return nil, err
	}
	if expiration == "" {
		expiration = "0"
	}
	h := append(make([]wire.Field, 0, 7),
		wire.Field{Name: "apns-request-id", Value: n.ID, NeverIndexed: true},
		wire.Field{Name: "apns-channel-id", Value: n.Channel},
		wire.Field{Name: "apns-push-type", Value: broadcastType.name},
		wire.Field{Name: "content-type", Value: "application/json"},
		wire.Field{Name: "apns-expiration", Value: expiration, NeverIndexed: true})
	if priority != "" {
		h = append(h, wire.Field{Name: "apns-priority", Value: priority})
	}
	return h, nil
}

// broadcastOutcomes are Apple's answers to broadcasts where they are others than to a device. Apple, "Handling error
// responses from Apple Push Notification service" for broadcasts, read 2026-11-22.
var broadcastOutcomes = map[responseKey]push.Outcome{
	{400, "FeatureNotEnabled"}:         refused,
	{400, "MissingChannelId"}:          refused,
	{400, "BadChannelId"}:              refused,
	{400, "ChannelNotRegistered"}:      refused,
	{400, "BadRequestParams"}:          refused,
	{400, "BadRequestPayload"}:         refused,
	{400, "MissingPushType"}:           refused,
	{400, "CannotCreateChannelConfig"}: refused,

	{403, "TopicMismatch"}: {Verdict: push.Refused, Scope: push.ScopeCredential},
	// Here a bad token ends with its request (nothing says that the connection is spoilt).
	{403, "BadCertificate"}:            unauthorized,
	{403, "BadCertificateEnvironment"}: unauthorized,
	{403, "InvalidProviderToken"}:      unauthorized,

	{429, "TooManyRequests"}: {Verdict: push.Throttled, Scope: push.ScopeTopic, RetryAfter: 5 * time.Second},

	{503, "Service Unavailable"}: unavailable, // so spelled in a document, once
}

// findOutcome finds the row of an answer.
func findOutcome(a responseKey, broadcast bool) (push.Outcome, bool) {
	if broadcast {
		if o, known := broadcastOutcomes[a]; known {
			return o, true
		}
	}
	o, known := outcomes[a]
	return o, known
}
