// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// manage makes one attempt at a call about channels.
func manage(t testing.TB, on apple, call push.ChannelCall) (*apns.Management, push.Outcome) {
	t.Helper()
	m := withKey(t).Manage(call)
	n := &push.Notification{ID: anID}
	r, err := m.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return m, m.Send(t.Context(), on, n, r)
}

func TestEveryExchangeAboutChannelsGoesAsItWasCaptured(t *testing.T) {
	for _, e := range exchangesOf(t, "apns_broadcast") {
		t.Run(e.ID, func(t *testing.T) {
			road := apple(func(r *wire.Request) (*wire.Response, error) {
				e.compareAll(t, r)
				return e.answer(), nil
			})
			var o push.Outcome
			switch e.ID {
			case "apns-channel-create":
				m := withKey(t).Manage(push.ChannelCall{Act: push.CreateChannel, Channel: push.Channel{Storage: push.StoreLatest}})
				n := &push.Notification{ID: e.Request.Headers.Get("apns-request-id")}
				r, err := m.Translate(n)
				equal(t, "misfit", err, nil)
				o = m.Send(t.Context(), road, n, r)
				equal(t, "channel", m.Found(), []push.Channel{{ID: e.Response.Headers.Get("apns-channel-id"), Storage: push.StoreLatest}})
			case "apns-broadcast-send":
				n := &push.Notification{
					ID: e.Request.Headers.Get("apns-request-id"), Target: push.Target{Channel: e.Request.Headers.Get("apns-channel-id")},
					Priority: push.PriorityHigh, APNs: &push.APNsBlock{Payload: []byte(e.Request.BodyJSON)},
				}
				o = send(t, withKey(t), road, n)
			default:
				t.Fatal("there is no such exchange")
			}
			equal(t, "verdict", o.Verdict, providertest.Verdict(e.Expect.Class))
		})
	}
}

// compareAll checks that r is the exchange's request, save for who it is and what its body is.
func (e exchange) compareAll(t *testing.T, r *wire.Request) {
	sent := fields(t, r)
	verified(t, sent["authorization"])
	equal(t, "method and path", r.Method+" "+r.Path, e.Request.Pseudo.Get(":method")+" "+e.Request.Pseudo.Get(":path"))
	equal(t, "body", decoded(t, r.Body), decoded(t, e.Request.BodyJSON))
	for _, h := range e.Request.Headers {
		if h[0] != "authorization" {
			equal(t, h[0], sent[h[0]], h[1])
		}
	}
}

func TestEveryCallAboutChannelsSaysWhatAppleAsksFor(t *testing.T) {
	for _, c := range []struct {
		call              push.ChannelCall
		path, body, about string
		answer            wire.Response
		found             []push.Channel
	}{
		{push.ChannelCall{Act: push.ListChannels}, "GET /1/apps/com.example.app/all-channels", "", "",
			wire.Response{Status: 200, Body: []byte(`{"channels":["AA==","AQ=="]}`)}, []push.Channel{{ID: "AA=="}, {ID: "AQ=="}}},
		{push.ChannelCall{Act: push.ListChannels}, "GET /1/apps/com.example.app/all-channels", "", "",
			wire.Response{Status: 200, Body: []byte(`{"channels":[]}`)}, []push.Channel{}},
		{push.ChannelCall{Act: push.ReadChannel, Channel: push.Channel{ID: channel}}, "GET /1/apps/com.example.app/channels", "", channel,
			wire.Response{Status: 200, Body: []byte(`{"message-storage-policy":0,"push-type":"LiveActivity"}`)}, []push.Channel{{ID: channel, Storage: push.StoreNone}}},
		{push.ChannelCall{Act: push.CreateChannel, Channel: push.Channel{Storage: push.StoreNone}}, "POST /1/apps/com.example.app/channels",
			`{"message-storage-policy":0,"push-type":"LiveActivity"}`, "",
			wire.Response{Status: 201, Header: []wire.Field{{Name: "apns-channel-id", Value: channel}}}, []push.Channel{{ID: channel, Storage: push.StoreNone}}},
		{push.ChannelCall{Act: push.DeleteChannel, Channel: push.Channel{ID: channel}}, "DELETE /1/apps/com.example.app/channels", "", channel,
			wire.Response{Status: 204}, nil},
	} {
		m, o := manage(t, func(r *wire.Request) (*wire.Response, error) {
			equal(t, "method and path", r.Method+" "+r.Path, c.path)
			equal(t, "body", string(r.Body), c.body)
			equal(t, "channel", fields(t, r)["apns-channel-id"], c.about)
			equal(t, "name", fields(t, r)["apns-request-id"], anID)
			return &c.answer, nil
		}, c.call)
		equal(t, c.path, o, push.Outcome{Verdict: push.Accepted, HTTP: c.answer.Status})
		equal(t, "channels", m.Found(), c.found)
	}
}

func TestACallAboutChannelsThatCannotBeMadeCostsNoRequest(t *testing.T) {
	for field, call := range map[string]push.ChannelCall{
		"storage": {Act: push.CreateChannel}, "storage ": {Act: push.CreateChannel, Channel: push.Channel{Storage: "some"}},
		"id": {Act: push.ReadChannel}, "id ": {Act: push.DeleteChannel, Channel: push.Channel{ID: "../x"}},
	} {
		_, err := withKey(t).Manage(call).Translate(&push.Notification{ID: anID})
		equal(t, field, push.Misfit(err).Field, strings.TrimSpace(field))
	}
	_, err := provider(t, apns.Config{}).Manage(push.ChannelCall{}).Translate(&push.Notification{ID: anID})
	equal(t, "without a topic", push.Misfit(err).Field, "app")
}

func TestAnAnswerAboutChannelsIsJudgedByTheTableOfBroadcasts(t *testing.T) {
	for _, r := range rowsOf(t, "apns_broadcast") {
		for _, status := range r.statuses() {
			if r.Code == "" {
				continue
			}
			_, o := manage(t, answering(status, fmt.Sprintf(`{"reason":%q}`, r.Code)), push.ChannelCall{Act: push.ListChannels})
			want := providertest.Verdict(r.Class)
			switch r.Code {
			case "ChannelNotRegistered":
				want = push.Unregistered
			case "CannotCreateChannelConfig":
				want = push.Refused
			}
			equal(t, r.String(), o.Verdict, want)
			equal(t, r.String(), o.Reason, r.Code)
		}
	}
}

func TestAnAnswerAboutChannelsThatNobodyCanReadIsNoSuccess(t *testing.T) {
	read, list := push.ChannelCall{Act: push.ReadChannel, Channel: push.Channel{ID: channel}}, push.ChannelCall{Act: push.ListChannels}
	for body, call := range map[string]push.ChannelCall{
		"": read, "{}": read, `{"message-storage-policy":2}`: read, `{"message-storage-policy":-1}`: read, `{"message-storage-policy":"0"}`: read,
		"null": list, " ": list, `{"channels":null}`: list, `{"channels":[1]}`: list,
	} {
		_, o := manage(t, answering(200, body), call)
		equal(t, body, o.Verdict, push.Unavailable)
		equal(t, body, o.Reason, "UNREADABLE_ANSWER")
	}
	create := push.ChannelCall{Act: push.CreateChannel, Channel: push.Channel{Storage: push.StoreNone}}
	_, o := manage(t, answering(201, ""), create)
	equal(t, "a channel without a name", o.Verdict, push.Unknown)
}
