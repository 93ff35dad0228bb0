// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

const channel = "dHN0LXNyY2gtY2hubA=="

// toChannel makes a notification one to a channel, with an update of an activity.
func toChannel(n *push.Notification) {
	n.Target, n.Title, n.Body = push.Target{Channel: channel}, "", ""
	n.APNs = &push.APNsBlock{Payload: []byte(`{"aps":{"timestamp":1,"event":"update","content-state":{"goals":2}}}`)}
}

func TestABroadcastSaysWhatAppleAsksFor(t *testing.T) {
	r := translate(t, withKey(t), hello(toChannel))
	equal(t, "method and path", r.Method+" "+r.Path, "POST /4/broadcasts/apps/"+topic)
	equal(t, "header", fields(t, r), map[string]string{
		"apns-request-id": anID, "apns-channel-id": channel, "apns-push-type": "liveactivity", "content-type": "application/json",
		"apns-expiration": "0",
	})
	ttl := push.Duration(time.Hour)
	sent := fields(t, translate(t, withKey(t), hello(toChannel, func(n *push.Notification) { n.TTL, n.Priority = &ttl, push.PriorityLow })))
	equal(t, "expiration and priority", sent["apns-expiration"]+" "+sent["apns-priority"], fmt.Sprint(hello().AcceptedAt.Unix()+3600, " 1"))

	o := send(t, withKey(t), func(r *wire.Request) (*wire.Response, error) {
		verified(t, fields(t, r)["authorization"])
		return &wire.Response{Status: 200, Header: []wire.Field{{Name: "apns-request-id", Value: strings.ToUpper(anID)}}}, nil
	}, hello(toChannel))
	equal(t, "outcome", o, push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: anID})
}

func TestABroadcastMayHave5120Bytes(t *testing.T) {
	of := func(size int) *push.Notification {
		return hello(toChannel, raw(filled(`{"aps":{"timestamp":1,"event":"end"},"k":"`, "é", `"}`, size)))
	}
	equal(t, "bytes", len(translate(t, withKey(t), of(5120)).Body), 5120)
	refused := refusal(t, withKey(t), of(5121))
	equal(t, "field and reason", refused.Field+" "+refused.Reason, "apns.payload PayloadTooLarge")
}

func TestWhatAChannelDoesNotTakeIsRefusedBeforeItCostsARequest(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*push.Notification)
		field  string
	}{
		{"no base64", func(n *push.Notification) { n.Channel = "../x" }, "channel"},
		{"base64 in two lines", func(n *push.Notification) { n.Channel = "dHN0\r\nLXNy" }, "channel"},
		{"a long one", func(n *push.Notification) { n.Channel = strings.Repeat("AAAA", 51) }, "channel"},
		{"an alert", headers("apns-push-type", "alert"), "apns.headers.apns-push-type"},
		{"a topic", headers("apns-topic", topic), "apns.headers.apns-topic"},
		{"a collapse ID", headers("apns-collapse-id", "x"), "apns.headers.apns-collapse-id"},
		{"an unknown header", headers("apns-channel-id", channel), "apns.headers.apns-channel-id"},
		{"priority 7", headers("apns-priority", "7"), "apns.headers.apns-priority"},
		{"expiration", headers("apns-expiration", "x"), "apns.headers.apns-expiration"},
		{"common fields", func(n *push.Notification) { n.APNs, n.Title = nil, "Hi" }, "apns.payload"},
		{"a start", raw(`{"aps":{"timestamp":1,"event":"start","content-state":{},"attributes-type":"A","attributes":{},"alert":{}}}`), "apns.payload.aps.event"},
		{"no object", raw(`[]`), "apns.payload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			equal(t, "field", refusal(t, withKey(t), hello(toChannel, c.change)).Field, c.field)
		})
	}
	certificate := provider(t, apns.Config{})
	equal(t, "without a topic", refusal(t, certificate, hello(toChannel)).Field, "channel")
}

func TestEveryRowOfBroadcastsIsJudgedAsTheTableSays(t *testing.T) {
	for _, r := range rowsOf(t, "apns_broadcast") {
		for _, status := range r.statuses() {
			t.Run(r.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { r.checkBroadcast(t, status) })
			})
		}
	}
}

func (r row) checkBroadcast(t *testing.T, status int) {
	p := withKey(t)
	send(t, p, answering(200, ""), hello(toChannel))
	time.Sleep(30 * time.Minute)
	o := send(t, p, answering(status, fmt.Sprintf(`{"reason":%q}`, r.Code)), hello(toChannel))
	want := providertest.Verdict(r.Class)
	if r.Code == "CannotCreateChannelConfig" { // no quota of sending, and no answer to it either
		want = push.Refused
	}
	equal(t, "verdict", o.Verdict, want)
	equal(t, "reason", o.Reason, r.Code)
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "endpoint fault", o.EndpointFault(), r.Fault)
	equal(t, "forget the token", o.ForgetToken, r.Forget)
	equal(t, "close", o.CloseConnection, r.Close || r.Code == "InternalServerError")
	equal(t, "scope", o.Scope.String(), r.Scope)
	if o.Verdict == push.Throttled {
		equal(t, "wait", o.RetryAfter, time.Duration(*r.LeastWait)*time.Second)
	}
}

const starting = `{"aps":{"timestamp":1,"event":"start","content-state":{"x":1},"attributes-type":"Game","attributes":{"home":"A"},"alert":{"title":"Goal"}}}`

func TestALiveActivityStartsIsUpdatedAndEnds(t *testing.T) {
	for _, payload := range []string{
		starting, `{"aps":{"timestamp":1700000000,"event":"update","content-state":{},"stale-date":1,"relevance-score":0.5}}`,
		`{"aps":{"timestamp":1,"event":"end"}}`, `{"aps":{"timestamp":1,"event":"end","dismissal-date":1,"content-state":{}}}`,
	} {
		r := translate(t, withKey(t), hello(headers("apns-push-type", "liveactivity"), raw(payload)))
		equal(t, "topic", fields(t, r)["apns-topic"], topic+".push-type.liveactivity")
		equal(t, "payload", string(r.Body), payload)
	}
}

func TestAnActivityThatNoDeviceWouldActOnIsRefusedWithItsMember(t *testing.T) {
	for change, member := range map[string]string{
		`"timestamp":1 `: "timestamp", `"timestamp":1|"timestamp":"1"`: "timestamp", `"timestamp":1|"timestamp":1.5`: "timestamp",
		`"timestamp":1|"timestamp":1700000000000`: "timestamp", `"start"|"begin"`: "event", `"start"|7`: "event",
		`"content-state":{"x":1}|"content-state":[]`: "content-state", `"content-state":{"x":1},|`: "content-state",
		`"attributes-type":"Game"|"attributes-type":1`: "attributes-type", `"attributes":{"home":"A"},|`: "attributes",
		`"alert":{"title":"Goal"}|"alert":"Goal"`: "alert", `"timestamp":1|"timestamp":1,"stale-date":"soon"`: "stale-date",
	} {
		old, with, _ := strings.Cut(change, "|")
		if with == "" && strings.HasSuffix(old, " ") {
			old, with = strings.TrimSpace(old)+",", ""
		}
		payload := strings.Replace(starting, old, with, 1)
		refused := refusal(t, withKey(t), hello(headers("apns-push-type", "liveactivity"), raw(payload)))
		equal(t, change, refused.Field+" "+refused.Reason, "apns.payload.aps."+member+" InvalidPayload")
	}
}
