// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// ChannelOperation runs one call to APNs channel management and keeps its result. It has the
// methods of a provider, so that a call waits, retries and is limited as a notification is. Apple,
// "Sending channel management requests to APNs", read 2026-11-22.
type ChannelOperation struct {
	provider *Provider
	call     push.ChannelCall
	channels []push.Channel
}

// ChannelOperation returns the operation for one call. Use it for that call only.
func (p *Provider) ChannelOperation(call push.ChannelCall) *ChannelOperation {
	return &ChannelOperation{provider: p, call: call}
}

// Channels returns the channels of an accepted call: all channels, without their storage, for a
// list, and otherwise the one that was created or read. It returns none after a delete.
func (m *ChannelOperation) Channels() []push.Channel { return m.channels }

// storages are the storage policies, indexed by their number in APNs.
var storages = [...]push.Storage{0: push.StoreNone, 1: push.StoreLatest}

var channelMethods = [...]string{
	push.ListChannels: "GET", push.ReadChannel: "GET", push.CreateChannel: "POST", push.DeleteChannel: "DELETE",
}

// Translate returns the call as a request without the provider token. The request's ID is n.ID.
func (m *ChannelOperation) Translate(n *push.Notification) (*wire.Request, error) {
	if m.provider.topic == "" {
		return nil, invalid("app", "NoTopic", "an app with a topic in its configuration: channels belong to a bundle ID")
	}
	r := &wire.Request{
		Method: channelMethods[m.call.Action], Path: "/1/apps/" + m.provider.bundleID() + "/channels",
		Header: []wire.Field{{Name: "apns-request-id", Value: n.ID, NeverIndexed: true}},
	}
	switch m.call.Action {
	case push.ListChannels:
		r.Path = "/1/apps/" + m.provider.bundleID() + "/all-channels"
	case push.CreateChannel:
		policy := slices.Index(storages[:], m.call.Storage)
		if policy < 0 {
			return nil, invalid("storage", invalidField, `"none" or "latest"`)
		}
		r.Header = append(r.Header, wire.Field{Name: "content-type", Value: "application/json"})
		r.Body = []byte(`{"message-storage-policy":` + string(rune('0'+policy)) + `,"push-type":"LiveActivity"}`)
	default:
		if !isChannel(m.call.ID) {
			return nil, invalid("id", invalidTarget, channelIDFormat)
		}
		r.Header = append(r.Header, wire.Field{Name: "apns-channel-id", Value: m.call.ID})
	}
	return r, nil
}

// unreadableResponse is the reason if the call succeeded but its response cannot be parsed.
const unreadableResponse = "UNREADABLE_ANSWER"

// Sign is Provider.Sign.
func (m *ChannelOperation) Sign(ctx context.Context, n *push.Notification) (field wire.Field, used any, failed *push.Outcome) {
	return m.provider.Sign(ctx, n)
}

// Judge returns the outcome of an attempt. For a channel that does not exist, the verdict is
// Unregistered.
func (m *ChannelOperation) Judge(_ *push.Notification, used any, resp *wire.Response, err error) push.Outcome {
	t, _ := used.(*token)
	if err != nil {
		return m.provider.judgeNoResponse(err, t)
	}
	o := m.provider.judge(resp, true, t)
	switch {
	case o.Reason == "ChannelNotRegistered":
		o.Verdict = push.Unregistered
	case o.Verdict == push.Refused:
		o.Detail = advice[o.Reason]
	case o.Verdict == push.Accepted && !m.parseResponse(resp):
		o = push.Outcome{Verdict: push.Unavailable, Reason: unreadableResponse, Scope: push.ScopeEndpoint, HTTP: resp.Status}
		if m.call.Action == push.CreateChannel { // the channel may exist, but its ID is unknown
			o.Verdict = push.Unknown
		}
	}
	return o
}

// advice says how to fix a refusal by APNs.
var advice = map[string]string{
	"FeatureNotEnabled":         "the bundle ID lacks the broadcast capability: enable it in Apple's developer account",
	"CannotCreateChannelConfig": "an app has at most 10,000 channels in an environment: delete unused ones",
	"TopicDisallowed":           "the app's key is not valid for its topic",
	"TopicMismatch":             "the app's certificate is for another topic",
}

// parseResponse sets channels from the response, and reports whether it could parse it.
func (m *ChannelOperation) parseResponse(resp *wire.Response) bool {
	switch m.call.Action {
	case push.CreateChannel:
		m.channels = []push.Channel{{ID: resp.Get("apns-channel-id"), Storage: m.call.Storage}}
		return isChannel(m.channels[0].ID)
	case push.ReadChannel:
		return m.parseChannel(resp.Body)
	case push.ListChannels:
		return m.parseChannelList(resp.Body)
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
