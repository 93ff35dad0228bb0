// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Management makes one call to Apple's channel management and keeps what came of it. It stands in a route where a
// provider does, so that such a call waits, tries again and is bounded as notifications are. Apple, "Sending channel
// management requests to APNs", read 2026-11-22.
type Management struct {
	provider *Provider
	call     push.ChannelCall
	found    []push.Channel
}

// Manage returns what makes the call. It serves one call alone.
func (p *Provider) Manage(call push.ChannelCall) *Management {
	return &Management{provider: p, call: call}
}

// Found returns the channels of an accepted call: all of them, without their storage, or the one that it was about; none
// after a delete.
func (m *Management) Found() []push.Channel { return m.found }

// storages are Apple's numbers for them.
var storages = [...]push.Storage{0: push.StoreNone, 1: push.StoreLatest}

var channelMethods = [...]string{
	push.ListChannels: "GET", push.ReadChannel: "GET", push.CreateChannel: "POST", push.DeleteChannel: "DELETE",
}

// Translate writes the call as Apple's request, all but the provider token. n gives it its name.
func (m *Management) Translate(n *push.Notification) (*wire.Request, error) {
	if m.provider.topic == "" {
		return nil, misfit("app", "NoTopic", "one whose configuration names a topic: channels belong to a bundle ID")
	}
	r := &wire.Request{
		Method: channelMethods[m.call.Act], Path: "/1/apps/" + m.provider.topic + "/channels",
		Header: []wire.Field{{Name: "apns-request-id", Value: n.ID, NeverIndexed: true}},
	}
	switch m.call.Act {
	case push.ListChannels:
		r.Path = "/1/apps/" + m.provider.topic + "/all-channels"
	case push.CreateChannel:
		policy := slices.Index(storages[:], m.call.Storage)
		if policy < 0 {
			return nil, misfit("storage", invalidField, `"none" or "latest"`)
		}
		r.Header = append(r.Header, wire.Field{Name: "content-type", Value: "application/json"})
		r.Body = []byte(`{"message-storage-policy":` + string(rune('0'+policy)) + `,"push-type":"LiveActivity"}`)
	default:
		if !isChannel(m.call.ID) {
			return nil, misfit("id", invalidTarget, channelGrammar)
		}
		r.Header = append(r.Header, wire.Field{Name: "apns-channel-id", Value: m.call.ID})
	}
	return r, nil
}

// unreadable is an answer that says that the call was done, and not what came of it.
const unreadable = "UNREADABLE_ANSWER"

// Send makes one attempt and judges the answer. A channel that does not exist is Unregistered.
func (m *Management) Send(ctx context.Context, conn wire.Doer, _ *push.Notification, r *wire.Request) push.Outcome {
	o, a := m.provider.attempt(ctx, conn, r, true)
	switch {
	case o.Reason == "ChannelNotRegistered":
		o.Verdict = push.Unregistered
	case o.Verdict == push.Refused:
		o.Detail = advice[o.Reason]
	case o.Verdict == push.Accepted && !m.read(a):
		o = push.Outcome{Verdict: push.Unavailable, Reason: unreadable, Scope: push.ScopeEndpoint, HTTP: a.Status}
		if m.call.Act == push.CreateChannel { // it may be there, and nobody can say under which name
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

// read keeps the channels that an answer tells of, and returns whether it could.
func (m *Management) read(a *wire.Response) bool {
	switch m.call.Act {
	case push.CreateChannel:
		m.found = []push.Channel{{ID: a.Get("apns-channel-id"), Storage: m.call.Storage}}
		return isChannel(m.found[0].ID)
	case push.ReadChannel:
		return m.readOne(a.Body)
	case push.ListChannels:
		return m.readAll(a.Body)
	}
	return true
}

func (m *Management) readOne(body []byte) bool {
	var in struct {
		Policy *int `json:"message-storage-policy"`
	}
	if json.Unmarshal(body, &in, lenient) != nil || in.Policy == nil || *in.Policy < 0 || *in.Policy >= len(storages) {
		return false
	}
	m.found = []push.Channel{{ID: m.call.ID, Storage: storages[*in.Policy]}}
	return true
}

func (m *Management) readAll(body []byte) bool {
	var in struct {
		Channels []string `json:"channels"`
	}
	if json.Unmarshal(body, &in, lenient) != nil || in.Channels == nil {
		return false
	}
	m.found = make([]push.Channel, len(in.Channels))
	for i, id := range in.Channels {
		m.found[i].ID = id
	}
	return true
}
