// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// exchange is a recorded request and its response.
type exchange struct{ providertest.Exchange }

func loadExchanges(t *testing.T, provider string) (all []exchange) {
	t.Helper()
	for _, e := range providertest.Exchanges(t, provider) {
		e.Request.BodyJSON = bytes.ReplaceAll(e.Request.BodyJSON, []byte("${FCM_TOKEN}"), []byte(deviceToken))
		all = append(all, exchange{e})
	}
	return all
}

func TestRecordedExchanges(t *testing.T) {
	exchanges := loadExchanges(t, "fcm")
	equal(t, "exchanges", len(exchanges), 7)
	for _, e := range exchanges {
		t.Run(e.ID, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { e.run(t) })
		})
	}
}

func (e exchange) run(t *testing.T) {
	p := newProvider(t)
	send(t, p, accept, newNotification())
	time.Sleep(10 * time.Minute)
	n := e.notification(t)
	if e.ID == "fcm-400-field-violation" { // refused before sending
		equal(t, "field", mustRefuse(t, p, n).Field, "fcm.message.data")
		n = newNotification()
	} else {
		equal(t, "body", decodeJSON(t, translate(t, p, n).Body), decodeJSON(t, e.Request.BodyJSON))
	}
	for _, body := range e.bodies() {
		o := send(t, p, func(r *wire.Request) (*wire.Response, error) {
			e.compare(t, r)
			return e.ResponseWithBody(body), nil
		}, n)
		equal(t, "verdict", o.Verdict, providertest.VerdictFor(e.Expect.Class))
		equal(t, "ForgetToken", o.ForgetToken, e.Expect.Forget)
		equal(t, "retryable", o.Retryable(), e.Expect.Retryable || o.Verdict == push.Throttled || o.Verdict == push.Unavailable)
		if e.Expect.Fault != nil {
			equal(t, "endpoint fault", o.EndpointFault(), *e.Expect.Fault)
		}
		if retryAfter := e.Response.Headers.Get("retry-after"); retryAfter != "" {
			equal(t, "wait", o.RetryAfter.String(), map[string]string{"60": "1m0s", "15": "15s"}[retryAfter])
		}
	}
}

// notification returns the notification that is translated to the recorded request: title, body and
// data in the common fields, everything else as a raw message.
func (e exchange) notification(t *testing.T) *push.Notification {
	t.Helper()
	var body struct{ Message map[string]json.RawMessage }
	if err := json.Unmarshal(e.Request.BodyJSON, &body); err != nil {
		t.Fatal(err)
	}
	n := &push.Notification{AcceptedAt: time.Now()}
	common := map[string]any{"token": &n.Token, "notification": n, "data": &n.Data}
	for name, into := range common {
		if part, given := body.Message[name]; given && json.Unmarshal(part, into) == nil {
			delete(body.Message, name)
		}
	}
	rest, err := json.Marshal(body.Message)
	if err != nil {
		t.Fatal(err)
	}
	if len(body.Message) > 0 {
		n.FCM = &push.FCMBlock{Message: rest}
	}
	return n
}

// bodies returns the response's body and its variants.
func (e exchange) bodies() [][]byte {
	bodies := [][]byte{e.Response.BodyJSON}
	for _, v := range e.Variants {
		text := string(e.Response.BodyJSON)
		if v.Message != "" {
			text = strings.Replace(text, "Requested entity was not found.", v.Message, 1)
		}
		if v.Detail != nil {
			text = strings.Replace(text, `"details": [`, `"details": [`+string(v.Detail)+",", 1)
		}
		bodies = append(bodies, []byte(text))
	}
	return bodies
}

// compare checks that r has exactly the path and headers of the recorded request.
func (e exchange) compare(t *testing.T, r *wire.Request) {
	equal(t, "path", r.Path, e.Request.Pseudo.Get(":path"))
	equal(t, "headers", len(r.Header), len(e.Request.Headers))
	for _, h := range e.Request.Headers {
		sent := (&wire.Response{Header: r.Header}).Get(h[0])
		if h[0] == "authorization" {
			equal(t, h[0], strings.HasPrefix(sent, "Bearer "+accessToken(1)[:5]), true)
			continue
		}
		equal(t, h[0], sent, h[1])
	}
}
