// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// exchange is a recorded request and its response.
type exchange struct{ providertest.Exchange }

func TestRecordedExchanges(t *testing.T) {
	exchanges := providertest.Exchanges(t, "webpush")
	equal(t, "exchanges", len(exchanges), 3)
	for _, e := range exchanges {
		t.Run(e.ID, exchange{e}.run)
	}
}

// recordedText is the plaintext of the recorded bodies, which are encrypted for the browser of RFC 8291.
const recordedText = "When I grow up, I want to be a watermelon"

func (e exchange) run(t *testing.T) {
	u, err := url.Parse(e.Request.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, func(cfg *webpush.Config) { cfg.Services = []string{u.Host} })
	n := newNotification(withPayload(recordedText), func(n *push.Notification) {
		n.Subscription.Endpoint = e.Request.URL
		n.WebPush.Headers = map[string]string{}
	})
	for _, h := range e.Request.Headers {
		if h[0] == "urgency" || h[0] == "topic" {
			n.WebPush.Headers[h[0]] = h[1]
		}
	}
	for _, header := range e.headers() {
		o := send(t, p, func(r *wire.Request) (*wire.Response, error) {
			e.compare(t, r, u)
			return &wire.Response{Status: e.Response.Status, Header: header, Body: e.Response.BodyJSON}, nil
		}, n)
		equal(t, "verdict", o.Verdict, providertest.VerdictFor(e.Expect.Class))
		equal(t, "ForgetToken", o.ForgetToken, e.Expect.Forget)
		equal(t, "retryable", o.Retryable(), e.Expect.Class == "quota")
		equal(t, "endpoint fault", o.EndpointFault(), false)
		if e.Expect.Class == "quota" {
			equal(t, "wait", o.RetryAfter, 30*time.Second)
		}
		if e.Response.Status == 201 {
			equal(t, "provider ID", o.ProviderID, "qDIYHNcfAIPP_5ITvURr-d6BGt")
		}
	}
}

// headers returns the recorded header, and the same one with Retry-After as a date.
func (e exchange) headers() (all [2][]wire.Field) {
	for _, h := range e.Response.Headers {
		dated := h[1]
		if h[0] == "retry-after" {
			dated = "Sun, 22 Nov 2026 08:00:30 GMT"
			all[1] = append(all[1], wire.Field{Name: "date", Value: "Sun, 22 Nov 2026 08:00:00 GMT"})
		}
		all[0] = append(all[0], wire.Field{Name: h[0], Value: h[1]})
		all[1] = append(all[1], wire.Field{Name: h[0], Value: dated})
	}
	return all
}

// compare checks that r has exactly the headers of the recorded request. Each encryption has a
// different result, so it compares the plaintext and the length of the bodies.
func (e exchange) compare(t *testing.T, r *wire.Request, u *url.URL) {
	t.Helper()
	equal(t, "method and path", r.Method+" "+r.Path, e.Request.Method+" "+u.Path)
	for _, h := range e.Request.Headers {
		switch sent := headerValue(r, h[0]); h[0] {
		case "content-length": // set by the connection
			equal(t, h[0], sent, "")
		case "authorization":
			equal(t, h[0], strings.HasPrefix(sent, "vapid t=ey") && strings.HasSuffix(sent, ", k="+testKey().Public()), true)
			equal(t, "aud", parseClaims(t, sent)["aud"], any("https://"+u.Host))
		default:
			equal(t, h[0], sent, h[1])
		}
	}
	equal(t, "headers", len(r.Header), len(e.Request.Headers)-1)
	recorded, err := base64.RawURLEncoding.DecodeString(e.Request.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := testBrowser().decrypt(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "text", text, recordedText)
	equal(t, "bytes", len(r.Body), len(recorded))
}
