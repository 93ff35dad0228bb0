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

const channelID = "dHN0LXNyY2gtY2hubA=="

// withChannel targets a channel, with an update of an activity.
func withChannel(n *push.Notification) {
	n.Target, n.Title, n.Body = push.Target{Channel: channelID}, "", ""
	n.APNs = &push.APNsBlock{Payload: []byte(`{"aps":{"timestamp":1,"event":"update","content-state":{"goals":2}}}`)}
}

func TestBroadcastRequest(t *testing.T) {
	r := translate(t, newKeyProvider(t), newNotification(withChannel))
	equal(t, "method and path", r.Method+" "+r.Path, "POST /4/broadcasts/apps/"+topic)
	equal(t, "header", headerMap(t, r), map[string]string{
		"apns-request-id": notificationID, "apns-channel-id": channelID, "apns-push-type": "liveactivity", "content-type": "application/json",
		"apns-expiration": "0",
	})
	ttl := push.Duration(time.Hour)
	sent := headerMap(t, translate(t, newKeyProvider(t), newNotification(withChannel, func(n *push.Notification) { n.TTL, n.Priority = &ttl, push.PriorityLow })))
	equal(t, "expiration and priority", sent["apns-expiration"]+" "+sent["apns-priority"], fmt.Sprint(newNotification().AcceptedAt.Unix()+3600, " 1"))

	o := send(t, newKeyProvider(t), func(r *wire.Request) (*wire.Response, error) {
		verifyToken(t, headerMap(t, r)["authorization"])
		return &wire.Response{Status: 200, Header: []wire.Field{{Name: "apns-request-id", Value: strings.ToUpper(notificationID)}}}, nil
	}, newNotification(withChannel))
	equal(t, "outcome", o, push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: notificationID})
}

func TestBroadcastPayloadLimit(t *testing.T) {
	newSized := func(size int) *push.Notification {
		return newNotification(withChannel, withPayload(fill(`{"aps":{"timestamp":1,"event":"end"},"k":"`, "é", `"}`, size)))
	}
	equal(t, "bytes", len(translate(t, newKeyProvider(t), newSized(5120)).Body), 5120)
	refused := mustRefuse(t, newKeyProvider(t), newSized(5121))
	equal(t, "field and reason", refused.Field+" "+refused.Reason, "apns.payload PayloadTooLarge")
}

func TestInvalidBroadcastsAreRefusedBeforeSending(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*push.Notification)
		field  string
	}{
		{"not base64", func(n *push.Notification) { n.Channel = "../x" }, "channel"},
		{"base64 with a line break", func(n *push.Notification) { n.Channel = "dHN0\r\nLXNy" }, "channel"},
		{"too long", func(n *push.Notification) { n.Channel = strings.Repeat("AAAA", 51) }, "channel"},
		{"an alert", withHeaders("apns-push-type", "alert"), "apns.headers.apns-push-type"},
		{"a topic", withHeaders("apns-topic", topic), "apns.headers.apns-topic"},
		{"a collapse ID", withHeaders("apns-collapse-id", "x"), "apns.headers.apns-collapse-id"},
		{"an unknown header", withHeaders("apns-channel-id", channelID), "apns.headers.apns-channel-id"},
		{"priority 7", withHeaders("apns-priority", "7"), "apns.headers.apns-priority"},
		{"expiration", withHeaders("apns-expiration", "x"), "apns.headers.apns-expiration"},
		{"common fields", func(n *push.Notification) { n.APNs, n.Title = nil, "Hi" }, "apns.payload"},
		{"a start event", withPayload(`{"aps":{"timestamp":1,"event":"start","content-state":{},"attributes-type":"A","attributes":{},"alert":{}}}`), "apns.payload.aps.event"},
		{"not an object", withPayload(`[]`), "apns.payload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			equal(t, "field", mustRefuse(t, newKeyProvider(t), newNotification(withChannel, c.change)).Field, c.field)
		})
	}
	certificate := newProvider(t, apns.Config{})
	equal(t, "without a topic", mustRefuse(t, certificate, newNotification(withChannel)).Field, "channel")
}

func TestBroadcastErrorTable(t *testing.T) {
	for _, r := range loadRows(t, "apns_broadcast") {
		for _, status := range r.statuses() {
			t.Run(r.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { r.checkBroadcast(t, status) })
			})
		}
	}
}

func (r row) checkBroadcast(t *testing.T, status int) {
	p := newKeyProvider(t)
	send(t, p, respond(200, ""), newNotification(withChannel))
	time.Sleep(30 * time.Minute)
	body := fmt.Sprintf(`{"reason":%q}`, r.Code)
	if r.Code == push.IntermediaryResponse {
		body = "<html>"
	}
	o := send(t, p, r.response(status, body), newNotification(withChannel))
	want := providertest.VerdictFor(r.Class)
	if r.Code == "CannotCreateChannelConfig" { // the table has quota, but waiting does not help
		want = push.Refused
	}
	equal(t, "verdict", o.Verdict, want)
	equal(t, "reason", o.Reason, r.Code)
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "endpoint fault", o.EndpointFault(), r.EndpointFault)
	equal(t, "ForgetToken", o.ForgetToken, r.ForgetToken)
	equal(t, "close", o.CloseConnection, r.Close || r.Code == "InternalServerError")
	equal(t, "scope", o.Scope.String(), r.Scope)
	if o.Verdict == push.Throttled {
		equal(t, "wait", o.RetryAfter, time.Duration(*r.MinBackoff)*time.Second)
	}
}

const startPayload = `{"aps":{"timestamp":1,"event":"start","content-state":{"x":1},"attributes-type":"Game","attributes":{"home":"A"},"alert":{"title":"Goal"}}}`

func TestLiveActivityEvents(t *testing.T) {
	for _, payload := range []string{
		startPayload, `{"aps":{"timestamp":1700000000,"event":"update","content-state":{},"stale-date":1,"relevance-score":0.5}}`,
		`{"aps":{"timestamp":1,"event":"end"}}`, `{"aps":{"timestamp":1,"event":"end","dismissal-date":1,"content-state":{}}}`,
		`{"aps":{"timestamp":1,"event":"end","content-state":null,"stale-date":null,"dismissal-date":null,"relevance-score":null}}`,
		`{"aps":{"timestamp":1,"event":"end","dismissal-date":1795600000.5,"stale-date":99999999999}}`,
	} {
		r := translate(t, newKeyProvider(t), newNotification(withHeaders("apns-push-type", "liveactivity"), withPayload(payload)))
		equal(t, "topic", headerMap(t, r)["apns-topic"], topic+".push-type.liveactivity")
		equal(t, "payload", string(r.Body), payload)
	}
}

func TestInvalidLiveActivityNamesMember(t *testing.T) {
	for change, member := range map[string]string{
		`"timestamp":1 `: "timestamp", `"timestamp":1|"timestamp":"1"`: "timestamp", `"timestamp":1|"timestamp":1.5`: "timestamp",
		`"timestamp":1|"timestamp":1700000000000`: "timestamp", `"start"|"Begin"`: "event", `"start"|7`: "event",
		`"content-state":{"x":1}|"content-state":[]`: "content-state", `"content-state":{"x":1},|`: "content-state",
		`"attributes-type":"Game"|"attributes-type":1`: "attributes-type", `"attributes":{"home":"A"},|`: "attributes",
		`"alert":{"title":"Goal"}|"alert":"Goal"`: "alert", `"timestamp":1|"timestamp":1,"stale-date":"soon"`: "stale-date",
		`"timestamp":1|"timestamp":1,"stale-date":1795600000000`: "stale-date", `"timestamp":1|"timestamp":1,"stale-date":1.7956e12`: "stale-date",
		`"timestamp":1|"timestamp":1,"dismissal-date":1795600000000`: "dismissal-date", `"timestamp":1|"timestamp":1,"dismissal-date":1e999`: "dismissal-date",
		`"timestamp":1|"timestamp":null`: "timestamp", `"start"|null`: "event", `"alert":{"title":"Goal"}|"alert":null`: "alert",
	} {
		old, with, _ := strings.Cut(change, "|")
		if with == "" && strings.HasSuffix(old, " ") {
			old, with = strings.TrimSpace(old)+",", ""
		}
		payload := strings.Replace(startPayload, old, with, 1)
		refused := mustRefuse(t, newKeyProvider(t), newNotification(withHeaders("apns-push-type", "liveactivity"), withPayload(payload)))
		equal(t, change, refused.Field+" "+refused.Reason, "apns.payload.aps."+member+" InvalidPayload")
	}
}

func TestActivityIsRecognizedByAnyOfItsMembers(t *testing.T) {
	p := newKeyProvider(t)
	for member, field := range map[string]string{
		`"event":"end"`: "", `"event":"update"`: "content-state", `"content-state":{}`: "event", `"attributes-type":"A"`: "event",
		`"attributes":{}`: "event", `"stale-date":1`: "event", `"dismissal-date":1`: "event", `"event":"end","alert":{"title":"Over"},"sound":"x"`: "",
	} {
		n := newNotification(withPayload(`{"aps":{"timestamp":1,` + member + `}}`))
		if field != "" {
			equal(t, member, mustRefuse(t, p, n).Field, "apns.payload.aps."+field)
			continue
		}
		equal(t, member, headerMap(t, translate(t, p, n))["apns-push-type"], "liveactivity")
	}
}

func TestDatesInMillisecondsAreExplained(t *testing.T) {
	for _, n := range []*push.Notification{
		newNotification(withPayload(`{"aps":{"timestamp":1795600000000,"event":"end"}}`)),
		newNotification(withPayload(`{"aps":{"timestamp":1,"event":"end","dismissal-date":1795600000000}}`)),
		newNotification(withPayload(`{"aps":{"timestamp":1,"event":"end","stale-date":1795600000000}}`)),
		newNotification(withHeaders("apns-expiration", "1795600000000")),
	} {
		if refused := mustRefuse(t, newKeyProvider(t), n); !strings.Contains(refused.Error(), "not milliseconds") {
			t.Error(refused)
		}
	}
}
