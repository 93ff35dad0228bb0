// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// broadcastType is the only push type of a broadcast, with a broadcast's limits. Apple, "Sending
// broadcast push notification requests to APNs", read 2026-11-22.
var broadcastType = pushType{"liveactivity", "", 5120, "10 5 1", true, true}

// broadcast checks n and returns the request that sends it to all subscribers of a channel.
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
	return &wire.Request{Method: "POST", Path: "/4/broadcasts/apps/" + p.bundleID(), Header: header, Body: body}, nil
}

// bundleID returns the bundle ID that channels belong to.
func (p *Provider) bundleID() string {
	return strings.TrimSuffix(p.topic, pushTypeByName(broadcastType.name).suffix)
}

func (p *Provider) checkBroadcast(n *push.Notification) error {
	if !isChannel(n.Channel) {
		return invalid("channel", invalidTarget, channelIDFormat)
	}
	if p.topic == "" {
		return invalid("channel", invalidTarget, "another target: a broadcast requires a topic in the app's configuration")
	}
	if err := checkHeaderNames(n); err != nil {
		return err
	}
	if kind := senderHeader(n, "apns-push-type"); kind != "" && kind != broadcastType.name {
		return invalid("apns.headers.apns-push-type", invalidHeader, "liveactivity, the only push type of a broadcast")
	}
	for _, name := range [...]string{"apns-topic", "apns-collapse-id"} {
		if senderHeader(n, name) != "" {
			return invalid("apns.headers."+name, invalidHeader, "absent in a broadcast")
		}
	}
	if _, err := contentOf(n); err != nil {
		return err
	}
	return nil
}

const channelIDFormat = "a channel ID as APNs returned it: base64, at most 200 characters"

func isChannel(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil && s != "" && len(s) <= 200 && !strings.ContainsAny(s, "\r\n")
}

// broadcastHeader returns the request's header. Without a TTL the expiration is 0, the only value
// that channels of both storage policies accept. The collapse key is not used: each update replaces
// an activity's state.
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
	return append(h, newHeaders(n)...), nil
}

// broadcastOutcomes maps the responses to broadcasts that differ from those to device
// notifications. Apple, "Handling error responses from Apple Push Notification service" for
// broadcasts, read 2026-11-22.
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
	// For broadcasts, Apple does not document that the connection is unusable afterwards.
	{403, "BadCertificate"}:            unauthorized,
	{403, "BadCertificateEnvironment"}: unauthorized,
	{403, "InvalidProviderToken"}:      unauthorized,

	{429, "TooManyRequests"}: {Verdict: push.Throttled, Scope: push.ScopeTopic, RetryAfter: 5 * time.Second},

	{503, "Service Unavailable"}: unavailable, // spelled this way in one Apple document
}

// findOutcome returns the outcome of a response, and false if its reason is unknown.
func findOutcome(key responseKey, broadcast bool) (push.Outcome, bool) {
	if broadcast {
		if o, known := broadcastOutcomes[key]; known {
			return o, true
		}
	}
	o, known := outcomes[key]
	return o, known
}
