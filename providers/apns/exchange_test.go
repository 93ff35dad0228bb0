// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// exchange is a recorded request and all response.
type exchange struct{ providertest.Exchange }

func loadExchanges(t *testing.T, provider string) (all []exchange) {
	t.Helper()
	for _, e := range providertest.Exchanges(t, provider) {
		all = append(all, exchange{e})
	}
	return all
}

// notification returns the notification that is translated to the recorded request.
func (e exchange) notification() *push.Notification {
	n := &push.Notification{
		ID: e.Request.Headers.Get("apns-id"), AcceptedAt: time.Now(),
		Target: push.Target{Token: strings.TrimPrefix(e.Request.Pseudo.Get(":path"), "/3/device/")},
		APNs:   &push.APNsBlock{Headers: map[string]string{"apns-push-type": e.Request.Headers.Get("apns-push-type")}},
	}
	if n.ID == "" {
		n.ID = notificationID
	}
	if e.Request.Headers.Get("apns-expiration") == "0" {
		n.TTL = new(push.Duration)
	}
	if e.Request.Headers.Get("apns-priority") == "10" {
		n.Priority = push.PriorityHigh
	}
	switch {
	case e.Request.BodyRule != "":
		n.APNs.Payload = []byte(fill(`{"aps":{"alert":"`, "a", `"}}`, 4097))
	case n.APNs.Headers["apns-push-type"] != "background":
		n.Title, n.Body, n.Sound = "Hello", "World", "default"
	}
	return n
}

func TestRecordedExchanges(t *testing.T) {
	exchanges := loadExchanges(t, "apns")
	equal(t, "exchanges", len(exchanges), 6)
	for _, e := range exchanges {
		t.Run(e.ID, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { e.run(t) })
		})
	}
}

func (e exchange) run(t *testing.T) {
	p := newKeyProvider(t)
	send(t, p, respond(200, ""), newNotification())
	time.Sleep(30 * time.Minute)
	n := e.notification()
	if e.Expect.Class == "payload_too_large" { // refused before sending
		equal(t, "reason", mustRefuse(t, p, n).Reason, "PayloadTooLarge")
		n.APNs.Payload = []byte(`{}`)
	} else {
		equal(t, "payload", decodeJSON(t, translate(t, p, n).Body), decodeJSON(t, e.Request.BodyJSON))
	}
	o := send(t, p, func(r *wire.Request) (*wire.Response, error) {
		e.compare(t, r)
		return e.response(), nil
	}, n)
	equal(t, "verdict", o.Verdict, providertest.VerdictFor(e.Expect.Class))
	equal(t, "ForgetToken", o.ForgetToken, e.Expect.Forget)
	equal(t, "retryable", o.Retryable(), e.Expect.Retryable)
}

// compare checks that r has exactly the headers of the recorded request, except for the credential
// and the ID.
func (e exchange) compare(t *testing.T, r *wire.Request) {
	sent := headerMap(t, r)
	verifyToken(t, sent["authorization"])
	equal(t, "path", r.Path, e.Request.Pseudo.Get(":path"))
	for _, h := range e.Request.Headers {
		if h[0] != "authorization" {
			equal(t, h[0], sent[h[0]], h[1])
		}
		delete(sent, h[0])
	}
	delete(sent, "apns-id")
	delete(sent, "content-type")
	equal(t, "extra headers", sent, map[string]string{})
}

func (e exchange) response() *wire.Response { return e.ResponseWithBody(e.Response.BodyJSON) }

func decodeJSON(t *testing.T, body []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
