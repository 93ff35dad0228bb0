// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// newChannel is the body that creates a channel that stores a message.
const newChannel = `{"message-storage-policy":1,"push-type":"LiveActivity"}`

// unknownChannel is a well-formed channel ID.
const unknownChannel = "dW5rbm93bg=="

var (
	inSandbox = host("api-manage-broadcast.sandbox.push.apple.com")
	list      = path("/1/apps/com.example.app/all-channels")
)

// manage returns a valid request for channel management with changes.
func (m mock) manage(t *testing.T, method, channel, text string, changes ...change) *h2.Request {
	t.Helper()
	r := &h2.Request{Method: method, Path: "/1/apps/com.example.app/channels", Authority: "api-manage-broadcast.push.apple.com", Body: []byte(text)}
	r.Header = append(r.Header, h2.Field("authorization", authorization(t, m.credentials[0], 0)))
	if channel != "" {
		r.Header = append(r.Header, h2.Field("apns-channel-id", channel))
	}
	for _, c := range changes {
		c(r)
	}
	return r
}

// create creates a channel and returns its ID.
func (m mock) create(t *testing.T, text string, changes ...change) string {
	t.Helper()
	got := send(t, m.ManageConn(nil), m.manage(t, "POST", "", text, changes...))
	if got.Status != 201 || got.get("apns-channel-id") == "" {
		t.Fatalf("got %d %s", got.Status, got.Body)
	}
	return got.get("apns-channel-id")
}

// broadcast returns a valid broadcast with changes.
func (m mock) broadcast(t *testing.T, channel string, changes ...change) *h2.Request {
	t.Helper()
	return m.push(t, append([]change{
		path("/4/broadcasts/apps/com.example.app"), remove("apns-topic"), remove("apns-id"), set("apns-request-id", id),
		set("apns-push-type", "liveactivity"), set("apns-channel-id", channel), body(`{"aps":{"timestamp":1,"event":"update","content-state":{}}}`),
	}, changes...)...)
}

func TestChannelIsCreatedReadListedAndDeleted(t *testing.T) {
	m := newMock(t, 0)
	conn, manageConn := m.Conn(nil), m.ManageConn(nil)
	expect := func(status int, c script.Service, r *h2.Request) response {
		t.Helper()
		got := send(t, c, r)
		if got.Status != status || got.get("apns-request-id") == "" {
			t.Fatalf("got %d %s %v, want %d", got.Status, got.Body, got.Header, status)
		}
		return got
	}
	if got := expect(200, manageConn, m.manage(t, "GET", "", "", list)); string(got.Body) != `{"channels":[]}` {
		t.Errorf("the list is %s at first", got.Body)
	}
	channel := m.create(t, newChannel)
	if got := expect(200, manageConn, m.manage(t, "GET", channel, "")); string(got.Body) != newChannel {
		t.Errorf("the channel is %s", got.Body)
	}
	if got := expect(200, manageConn, m.manage(t, "GET", "", "", list)); string(got.Body) != `{"channels":["`+channel+`"]}` {
		t.Errorf("the list is %s", got.Body)
	}
	r := m.broadcast(t, channel)
	if got := expect(200, conn, r); got.get("apns-request-id") != id || r.Token != channel || !r.Multicast || r.ID != id {
		t.Errorf("broadcast: got %v, token %q, ID %q", got.Header, r.Token, r.ID)
	}
	expect(204, manageConn, m.manage(t, "DELETE", channel, ""))
	expect(400, conn, m.broadcast(t, channel))
	expect(400, manageConn, m.manage(t, "DELETE", channel, ""))
}

func TestChannelExistsInOneEnvironment(t *testing.T) {
	m := newMock(t, 0)
	channel := m.create(t, newChannel, inSandbox)
	for name, want := range map[string]int{"api.push.apple.com": 400, "api-broadcast.sandbox.push.apple.com": 200, "api.sandbox.push.apple.com": 200} {
		if got := send(t, m.Conn(nil), m.broadcast(t, channel, host(name))); got.Status != want {
			t.Errorf("%s: got %d %s, want %d", name, got.Status, got.Body, want)
		}
	}
}

func TestChannelWithoutStorageAllowsNoExpiration(t *testing.T) {
	m := newMock(t, 0)
	stores, discards := m.create(t, newChannel), m.create(t, strings.Replace(newChannel, "1", "0", 1))
	for _, c := range []struct {
		channel, expiration string
		want                int
	}{{stores, "0", 200}, {stores, "1900000000", 200}, {discards, "0", 200}, {discards, "1900000000", 400}} {
		got := send(t, m.Conn(nil), m.broadcast(t, c.channel, set("apns-expiration", c.expiration)))
		if got.Status != c.want || c.want == 400 && got.Reason != "BadExpirationDate" {
			t.Errorf("%+v: got %d %s", c, got.Status, got.Body)
		}
	}
}

func TestEveryDocumentedBroadcastErrorOccurs(t *testing.T) {
	m := newMock(t, 0)
	channel := m.create(t, newChannel)
	for _, c := range []struct {
		status int
		reason string
		change change
	}{
		{400, "MissingChannelId", remove("apns-channel-id")},
		{400, "BadChannelId", set("apns-channel-id", "not base64!")},
		{400, "ChannelNotRegistered", set("apns-channel-id", unknownChannel)},
		{400, "PayloadEmpty", body("")},
		{400, "BadRequestPayload", body(`[]`)},
		{400, "BadRequestPayload", body(`{"aps":{"event":"start"}}`)},
		{400, "BadMessageId", set("apns-request-id", "1")},
		{400, "MissingPushType", remove("apns-push-type")},
		{400, "InvalidPushType", set("apns-push-type", "alert")},
		{400, "BadExpirationDate", set("apns-expiration", "soon")},
		{400, "BadPriority", set("apns-priority", "7")},
		{400, "TopicDisallowed", path("/4/broadcasts/apps/com.example.other")},
		{403, "MissingProviderToken", remove("authorization")},
		{403, "InvalidProviderToken", set("authorization", "bearer a.b.c")},
		{403, "ExpiredProviderToken", set("authorization", authorization(t, m.credentials[0], 61*time.Minute))},
		{404, "BadPath", path("/4/broadcasts/apps/com.example.app/more")},
		{405, "MethodNotAllowed", method("PUT")},
		{413, "PayloadTooLarge", body(jsonOfSize(5121))},
		{200, "", body(jsonOfSize(5120))},
	} {
		if got := send(t, m.Conn(nil), m.broadcast(t, channel, c.change)); got.Status != c.status || got.Reason != c.reason {
			t.Errorf("got %d %s, want %d %s", got.Status, got.Body, c.status, c.reason)
		}
	}
}

func TestEveryDocumentedChannelErrorOccurs(t *testing.T) {
	m := newMock(t, 0)
	none := func(*h2.Request) {}
	for _, c := range []struct {
		method, channel, text string
		status                int
		reason                string
		change                change
	}{
		{"GET", "", "", 400, "MissingChannelId", none},
		{"GET", "?", "", 400, "BadChannelId", none},
		{"DELETE", unknownChannel, "", 400, "ChannelNotRegistered", none},
		{"POST", "", "", 400, "PayloadEmpty", none},
		{"POST", "", `{"message-storage-policy":1}`, 400, "MissingPushType", none},
		{"POST", "", `{"message-storage-policy":1,"push-type":"liveactivity"}`, 400, "InvalidPushType", none},
		{"POST", "", `{"message-storage-policy":2,"push-type":"LiveActivity"}`, 400, "BadRequestPayload", none},
		{"POST", "", `{"push-type":"LiveActivity"}`, 400, "BadRequestPayload", none},
		{"POST", "", newChannel + newChannel, 400, "BadRequestPayload", none},
		{"POST", "", `{"message-storage-policy":1,"push-type":"LiveActivity","name":"x"}`, 400, "BadRequestPayload", none},
		{"POST", "", newChannel, 400, "BadMessageId", set("apns-request-id", "1")},
		{"POST", "", newChannel, 400, "BadRequestParams", path("/1/apps/com.example.app/channels?x=1")},
		{"POST", "", newChannel, 400, "TopicDisallowed", path("/1/apps/com.example.other/channels")},
		{"PUT", "", newChannel, 405, "MethodNotAllowed", none},
		{"POST", "", newChannel, 405, "MethodNotAllowed", list},
		{"GET", "", "", 404, "BadPath", path("/1/apps/com.example.app")},
		{"GET", "", "", 403, "MissingProviderToken", func(r *h2.Request) { remove("authorization")(r); r.Path = "/" }},
	} {
		got := send(t, m.ManageConn(nil), m.manage(t, c.method, c.channel, c.text, c.change))
		if got.Status != c.status || got.Reason != c.reason {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.text, got.Status, got.Body, c.status, c.reason)
		}
	}
	other := send(t, m.ManageConn(certificate(t)), m.manage(t, "GET", "", "", path("/1/apps/com.example.other/all-channels")))
	if other.Status != 403 || other.Reason != "TopicMismatch" {
		t.Errorf("a certificate for another app: got %d %s", other.Status, other.Body)
	}
}

// A disabled feature, a quota and an outage have no conditions in the mock, so they need a fault.
func TestBroadcastFaultHasTheFormatOfTheChannelAPI(t *testing.T) {
	m := newMock(t, 0)
	for _, f := range []script.Fault{
		{Status: 400, Reason: "FeatureNotEnabled"}, {Status: 403, Reason: "BadCertificate"}, {Status: 403, Reason: "BadCertificateEnvironment"},
		{Status: 429, Reason: "TooManyRequests", RetryAfter: 5 * time.Second}, {Status: 429, Reason: "TooManyProviderTokenUpdates"},
		{Status: 500, Reason: "InternalServerError"}, {Status: 503, Reason: "Service Unavailable"}, {Status: 503, Reason: "Shutdown"},
	} {
		for _, got := range []h2.Response{
			m.ManageConn(nil).RespondFault(m.manage(t, "POST", "", newChannel), &f), m.Conn(nil).RespondFault(m.broadcast(t, unknownChannel), &f),
		} {
			got := parse(t, got)
			if got.Status != f.Status || string(got.Body) != fmt.Sprintf(`{"reason":%q}`, f.Reason) || got.get("apns-request-id") == "" {
				t.Errorf("%+v: got %d %s", f, got.Status, got.Body)
			}
		}
	}
}

func TestNumberOfChannelsIsLimited(t *testing.T) {
	m := newMock(t, 0)
	c := m.ManageConn(certificate(t))
	create := func(changes ...change) response { return send(t, c, m.manage(t, "POST", "", newChannel, changes...)) }
	cert := certificate(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			c := m.ManageConn(cert)
			for range 500 {
				r := h2.Request{Method: "POST", Path: "/1/apps/com.example.app/channels", Body: []byte(newChannel)}
				if got := c.Respond(&r); got.Status != 201 {
					t.Errorf("got %d %s", got.Status, got.Body)
					return
				}
			}
		})
	}
	testwait.Call(t, wg.Wait, "the end of all calls")
	if got := create(); got.Status != 400 || got.Reason != "CannotCreateChannelConfig" {
		t.Errorf("channel 10,001: got %d %s", got.Status, got.Body)
	}
	if got := create(inSandbox); got.Status != 201 {
		t.Errorf("in the sandbox: got %d %s", got.Status, got.Body)
	}
	channels, _ := send(t, c, m.manage(t, "GET", "", "", list)).object["channels"].([]any)
	slices.SortFunc(channels, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	if n := len(slices.Compact(channels)); n != 10_000 {
		t.Errorf("%d channels are listed", n)
	}
}
