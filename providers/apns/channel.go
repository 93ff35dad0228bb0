// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// ChannelOperation makes one call to Apple's channel management and keeps what came of it. It stands in a route where a
// provider does, so that such a call waits, tries again and is bounded as notifications are. Apple, "Sending channel
// management requests to APNs", read 2026-11-22.
type ChannelOperation struct {
	provider *Provider
	call     push.ChannelCall
	channels []push.Channel
}

// ChannelOperation returns what makes the call. It serves one call alone.
func (p *Provider) ChannelOperation(call push.ChannelCall) *ChannelOperation {
	return &ChannelOperation{provider: p, call: call}
}

// Channels returns the channels of an accepted call: all of them, without their storage, or the one that it was about; none
// after a delete.
func (m *ChannelOperation) Channels() []push.Channel { return m.channels }

// storages are Apple's numbers for them.
var storages = [...]push.Storage{0: push.StoreNone, 1: push.StoreLatest}

var channelMethods = [...]string{
	push.ListChannels: "GET", push.ReadChannel: "GET", push.CreateChannel: "POST", push.DeleteChannel: "DELETE",
}

// Translate writes the call as Apple's request, all but the provider token. n gives it its name.
func (m *ChannelOperation) Translate(n *push.Notification) (*wire.Request, error) {
	if m.provider.topic == "" {
		return nil, invalid("app", "NoTopic", "one whose configuration names a topic: channels belong to a bundle ID")
	}
	r := &wire.Request{
		Method: channelMethods[m.call.Action], Path: "/1/apps/" + m.provider.topic + "/channels",
		Header: []wire.Field{{Name: "apns-request-id", Value: n.ID, NeverIndexed: true}},
	}
	switch m.call.Action {
	case push.ListChannels:
		r.Path = "/1/apps/" + m.provider.topic + "/all-channels"
	case push.CreateChannel:
		policy := slices.Index(storages[:], m.call.Storage)
		if policy < 0 {
			return nil, invalid("storage", invalidField, `"none" or "latest"`)
		}
		r.Header = append(r.Header, wire.Field{Name: "content-type", Value: "application/json"})
		r.Body = []byte(`{"message-storage-policy":` + string(rune('0'+policy)) + `,"push-type":"LiveActivity"}`)
	default:
		if !isChannel(m.call.ID) {
			return nil, invalid("id", invalidTarget, channelGrammar)
		}
		r.Header = append(r.Header, wire.Field{Name: "apns-channel-id", Value: m.call.ID})
	}
	return r, nil
}

// unreadableResponse is an answer that says that the call was done, and not what came of it.
const unreadableResponse = "UNREADABLE_ANSWER"

// Send makes one attempt and judges the answer. A channel that does not exist is Unregistered.
func (m *ChannelOperation) Send(ctx context.Context, conn wire.Doer, _ *push.Notification, r *wire.Request) push.Outcome {
	o, a := m.provider.attempt(ctx, conn, r, true)
	switch {
	case o.Reason == "ChannelNotRegistered":
		o.Verdict = push.Unregistered
	case o.Verdict == push.Refused:
		o.Detail = advice[o.Reason]
	case o.Verdict == push.Accepted && !m.parseResponse(a):
		o = push.Outcome{Verdict: push.Unavailable, Reason: unreadableResponse, Scope: push.ScopeEndpoint, HTTP: a.Status}
		if m.call.Action == push.CreateChannel { // it may be there, and nobody can say under which name
			o.Verdict = push.Unknown
		}
	}
	return o
}

// advice is what to do about Apple's refusals.
var advice = map[string]string{
	"FeatureNotEnabled":         "the bundle ID lacks the broadcast capability: switch it on in Apple's developer account",
	"CannotCreateChannelConfig": "an app has at most 10,000 channels in an environment: delete those that are over",
	"TopicDisallowed":           "the app's key does not speak for its topic",
	"TopicMismatch":             "the app's certificate is another topic's",
}

// parseResponse keeps the channels that an answer tells of, and returns whether it could.
func (m *ChannelOperation) parseResponse(a *wire.Response) bool {
	switch m.call.Action {
	case push.CreateChannel:
		m.channels = []push.Channel{{ID: a.Get("apns-channel-id"), Storage: m.call.Storage}}
		return isChannel(m.channels[0].ID)
	case push.ReadChannel:
		return m.parseChannel(a.Body)
	case push.ListChannels:
		return m.parseChannelList(a.Body)
	}
	return true
}

func (m *ChannelOperation) parseChannel(body []byte) bool {
	var in struct {
		Policy *int `json:"message-storage-policy"`
	}
	if json.Unmarshal(body, &in, lenient) != nil || in.Policy == nil || *in.Policy < 0 || *in.Policy >= len(storages) {
		return false
	}
	m.channels = []push.Channel{{ID: m.call.ID, Storage: storages[*in.Policy]}}
	return true
}

func (m *ChannelOperation) parseChannelList(body []byte) bool {
	var in struct {
		Channels []string `json:"channels"`
	}
	if json.Unmarshal(body, &in, lenient) != nil || in.Channels == nil {
		return false
	}
	m.channels = make([]push.Channel, len(in.Channels))
	for i, id := range in.Channels {
		m.channels[i].ID = id
	}
	return true
}
