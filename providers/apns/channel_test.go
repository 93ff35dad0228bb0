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

// callChannels makes one attempt at a channel call.
func callChannels(t testing.TB, conn fakeAPNs, call push.ChannelCall) (*apns.ChannelOperation, push.Outcome) {
	t.Helper()
	m := newKeyProvider(t).ChannelOperation(call)
	n := &push.Notification{ID: notificationID}
	r, err := m.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return m, providertest.Send(t.Context(), m, conn, n, r)
}

func TestRecordedChannelExchanges(t *testing.T) {
	for _, e := range loadExchanges(t, "apns_broadcast") {
		t.Run(e.ID, func(t *testing.T) {
			conn := fakeAPNs(func(r *wire.Request) (*wire.Response, error) {
				e.compareBroadcast(t, r)
				return e.response(), nil
			})
			var o push.Outcome
			switch e.ID {
			case "apns-channel-create":
				m := newKeyProvider(t).ChannelOperation(push.ChannelCall{Action: push.CreateChannel, Channel: push.Channel{Storage: push.StoreLatest}})
				n := &push.Notification{ID: e.Request.Headers.Get("apns-request-id")}
				r, err := m.Translate(n)
				equal(t, "error", err, nil)
				o = providertest.Send(t.Context(), m, conn, n, r)
				equal(t, "channel", m.Channels(), []push.Channel{{ID: e.Response.Headers.Get("apns-channel-id"), Storage: push.StoreLatest}})
			case "apns-broadcast-send":
				n := &push.Notification{
					ID: e.Request.Headers.Get("apns-request-id"), Target: push.Target{Channel: e.Request.Headers.Get("apns-channel-id")},
					Priority: push.PriorityHigh, APNs: &push.APNsBlock{Payload: []byte(e.Request.BodyJSON)},
				}
				o = send(t, newKeyProvider(t), conn, n)
			default:
				t.Fatal("unknown exchange")
			}
			equal(t, "verdict", o.Verdict, providertest.VerdictFor(e.Expect.Class))
		})
	}
}

// compareBroadcast checks that r is the recorded request, except for the credential and the format
// of the body.
func (e exchange) compareBroadcast(t *testing.T, r *wire.Request) {
	sent := headerMap(t, r)
	verifyToken(t, sent["authorization"])
	equal(t, "method and path", r.Method+" "+r.Path, e.Request.Pseudo.Get(":method")+" "+e.Request.Pseudo.Get(":path"))
	equal(t, "body", decodeJSON(t, r.Body), decodeJSON(t, e.Request.BodyJSON))
	for _, h := range e.Request.Headers {
		if h[0] != "authorization" {
			equal(t, h[0], sent[h[0]], h[1])
		}
	}
}

func TestChannelRequests(t *testing.T) {
	for _, c := range []struct {
		call                push.ChannelCall
		path, body, channel string
		response            wire.Response
		want                []push.Channel
	}{
		{push.ChannelCall{Action: push.ListChannels}, "GET /1/apps/com.example.app/all-channels", "", "",
			wire.Response{Status: 200, Body: []byte(`{"channels":["AA==","AQ=="]}`)}, []push.Channel{{ID: "AA=="}, {ID: "AQ=="}}},
		{push.ChannelCall{Action: push.ListChannels}, "GET /1/apps/com.example.app/all-channels", "", "",
			wire.Response{Status: 200, Body: []byte(`{"channels":[]}`)}, []push.Channel{}},
		{push.ChannelCall{Action: push.ReadChannel, Channel: push.Channel{ID: channelID}}, "GET /1/apps/com.example.app/channels", "", channelID,
			wire.Response{Status: 200, Body: []byte(`{"message-storage-policy":0,"push-type":"LiveActivity"}`)}, []push.Channel{{ID: channelID, Storage: push.StoreNone}}},
		{push.ChannelCall{Action: push.CreateChannel, Channel: push.Channel{Storage: push.StoreNone}}, "POST /1/apps/com.example.app/channels",
			`{"message-storage-policy":0,"push-type":"LiveActivity"}`, "",
			wire.Response{Status: 201, Header: []wire.Field{{Name: "apns-channel-id", Value: channelID}}}, []push.Channel{{ID: channelID, Storage: push.StoreNone}}},
		{push.ChannelCall{Action: push.DeleteChannel, Channel: push.Channel{ID: channelID}}, "DELETE /1/apps/com.example.app/channels", "", channelID,
			wire.Response{Status: 204}, nil},
	} {
		m, o := callChannels(t, func(r *wire.Request) (*wire.Response, error) {
			equal(t, "method and path", r.Method+" "+r.Path, c.path)
			equal(t, "body", string(r.Body), c.body)
			equal(t, "channel", headerMap(t, r)["apns-channel-id"], c.channel)
			equal(t, "name", headerMap(t, r)["apns-request-id"], notificationID)
			c.response.Header = append(c.response.Header, wire.Field{Name: "apns-request-id", Value: notificationID})
			return &c.response, nil
		}, c.call)
		equal(t, c.path, o, push.Outcome{Verdict: push.Accepted, HTTP: c.response.Status})
		equal(t, "channels", m.Channels(), c.want)
	}
}

func TestInvalidChannelCallsAreRefusedBeforeSending(t *testing.T) {
	for field, call := range map[string]push.ChannelCall{
		"storage": {Action: push.CreateChannel}, "storage ": {Action: push.CreateChannel, Channel: push.Channel{Storage: "some"}},
		"id": {Action: push.ReadChannel}, "id ": {Action: push.DeleteChannel, Channel: push.Channel{ID: "../x"}},
	} {
		_, err := newKeyProvider(t).ChannelOperation(call).Translate(&push.Notification{ID: notificationID})
		equal(t, field, push.InvalidNotification(err).Field, strings.TrimSpace(field))
	}
	_, err := newProvider(t, apns.Config{}).ChannelOperation(push.ChannelCall{}).Translate(&push.Notification{ID: notificationID})
	equal(t, "without a topic", push.InvalidNotification(err).Field, "app")
}

func TestChannelErrorTable(t *testing.T) {
	for _, r := range loadRows(t, "apns_broadcast") {
		for _, status := range r.statuses() {
			if r.Code == "" || r.Code == push.IntermediaryResponse {
				continue
			}
			_, o := callChannels(t, respond(status, fmt.Sprintf(`{"reason":%q}`, r.Code)), push.ChannelCall{Action: push.ListChannels})
			want := providertest.VerdictFor(r.Class)
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

func TestIntermediaryDoesNotEndChannelCalls(t *testing.T) {
	for _, call := range []push.ChannelCall{
		{Action: push.ListChannels}, {Action: push.ReadChannel, Channel: push.Channel{ID: channelID}},
		{Action: push.CreateChannel, Channel: push.Channel{Storage: push.StoreNone}}, {Action: push.DeleteChannel, Channel: push.Channel{ID: channelID}},
	} {
		for _, status := range []int{200, 204, 302, 400, 403, 404, 407, 410} {
			m, o := callChannels(t, respondWithoutID(status, "<html>"), call)
			equal(t, fmt.Sprint(call.Action, status), o, push.Intermediary(status, 0))
			equal(t, "channels", len(m.Channels()), 0)
		}
	}
}

func TestUnreadableChannelResponseIsNotAccepted(t *testing.T) {
	read, list := push.ChannelCall{Action: push.ReadChannel, Channel: push.Channel{ID: channelID}}, push.ChannelCall{Action: push.ListChannels}
	for body, call := range map[string]push.ChannelCall{
		"": read, "{}": read, `{"message-storage-policy":2}`: read, `{"message-storage-policy":-1}`: read, `{"message-storage-policy":"0"}`: read,
		"null": list, " ": list, `{"channels":null}`: list, `{"channels":[1]}`: list,
	} {
		_, o := callChannels(t, respond(200, body), call)
		equal(t, body, o.Verdict, push.Unavailable)
		equal(t, body, o.Reason, "UNREADABLE_ANSWER")
	}
	create := push.ChannelCall{Action: push.CreateChannel, Channel: push.Channel{Storage: push.StoreNone}}
	_, o := callChannels(t, respond(201, ""), create)
	equal(t, "a channel without an ID", o.Verdict, push.Unknown)
}
