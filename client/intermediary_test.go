// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

const blockPage = "<!doctype html>\n<title>Blocked</title>\n<p>Request blocked by policy.\n"

// intermediaryResponses are responses of proxies, firewalls and captive portals.
var intermediaryResponses = []struct {
	status      int
	contentType string
	body        string
	unknown     bool // the request may have been forwarded to a gateway
}{
	{200, "text/html", "<html>Sign in", true},
	{200, "text/html", blockPage, true},
	{200, "text/plain", "", true},
	{200, "application/json", `{}`, true},
	{200, "application/json", `{"status":"ok"}`, true},
	{200, "application/json", `null`, true},
	{200, "application/octet-stream", strings.Repeat("x", 5<<20), true},
	{202, "text/html", blockPage, true},
	{204, "", "", true},
	{301, "text/html", blockPage, false},
	{302, "text/html", blockPage, false},
	{307, "", "", false},
	{308, "text/html", blockPage, false},
	{400, "text/html", blockPage, false},
	{401, "text/html", blockPage, false},
	{403, "text/html", blockPage, false},
	{403, "application/json", `{"error":"forbidden"}`, false},
	{403, "application/problem+json", `{"type":"about:blank","title":"Forbidden","status":403}`, false},
	{404, "text/html", blockPage, false},
	{404, "application/json", `{"receipt":{"status":"unregistered"}}`, false},
	{405, "text/html", blockPage, false},
	{407, "text/html", blockPage, false},
	{408, "text/html", blockPage, true},
	{409, "text/html", blockPage, false},
	{410, "text/html", blockPage, false},
	{413, "text/html", blockPage, false},
	{415, "", "", false},
	{421, "", "", false},
	{422, "text/html", blockPage, false},
	{429, "text/html", blockPage, false},
	{431, "", "", false},
	{451, "text/html", blockPage, false},
	{500, "text/html", blockPage, true},
	{501, "text/html", blockPage, true},
	{502, "text/html", blockPage, true},
	{503, "text/html", blockPage, true},
	{504, "application/json", `{"message":"Endpoint request timed out"}`, true},
	{520, "text/html", blockPage, true},
}

// intermediary starts a server that passes GET /livez to a gateway of the zone a, and responds to
// everything else itself.
func intermediary(t *testing.T, status int, contentType, body string) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	return fakeGatewayWithReport(t, `max=60, zone="a"`, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Retry-After", "3600")
		if status/100 == 3 {
			w.Header().Set("Location", "https://login.example/?secret=1")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}), requests
}

// sends are the calls of the client, each with one notification.
var sends = map[string]func(context.Context, *client.Client, *push.Notification) (push.Receipt, error){
	"Send": func(ctx context.Context, c *client.Client, n *push.Notification) (push.Receipt, error) {
		return c.Send(ctx, n)
	},
	"SendEach": func(ctx context.Context, c *client.Client, n *push.Notification) (push.Receipt, error) {
		each := *n
		each.Target = push.Target{}
		receipts, err := c.SendEach(ctx, &each, []push.Target{n.Target})
		if err != nil {
			return push.Receipt{}, err
		}
		return receipts[0], nil
	},
	"SendBatch": func(ctx context.Context, c *client.Client, n *push.Notification) (receipt push.Receipt, err error) {
		for receipt, err = range c.SendBatch(ctx, func(yield func(*push.Notification) bool) { yield(n) }) {
			continue
		}
		return receipt, err
	},
}

// TestResponseOfIntermediaryIsNoVerdict sends to an intermediary and to a gateway behind none. The
// gateway gets the notification, unless the intermediary may have forwarded it and a repeat is not
// allowed.
func TestResponseOfIntermediaryIsNoVerdict(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t)
	g := env.startGateway(anyPort, "zone: b\n")
	var device atomic.Int32
	for _, res := range intermediaryResponses {
		for _, repeat := range []push.OnUnknown{push.RepeatNever, push.RepeatAlways} {
			t.Run(fmt.Sprintf("%d_%s/%s", res.status, res.contentType, repeat), func(t *testing.T) {
				t.Parallel()
				url, requests := intermediary(t, res.status, res.contentType, res.body)
				env := *env
				env.t = t
				c := env.newClient(client.Config{Zone: "a", Timeout: 10 * time.Minute}, url, g.url())
				waitConnected(c, 2)
				for name, send := range sends {
					var n *push.Notification
					var receipt push.Receipt
					var err error
					for range 100 { // the zone of the intermediary is preferred, but not always used
						n = testNotification(int(device.Add(1)))
						n.OnUnknown = repeat
						if receipt, err = send(t.Context(), c, n); requests.Swap(0) > 0 {
							break
						}
					}
					_, accepted := env.counts()
					if !res.unknown || repeat == push.RepeatAlways {
						if err != nil || receipt.Verdict != push.Accepted || accepted[n.Token] != 1 {
							t.Errorf("%s: %+v %v; accepted %d times", name, receipt, err, accepted[n.Token])
						}
						continue
					}
					if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "unknown" || accepted[n.Token] != 0 {
						t.Errorf("%s: %+v %v; accepted %d times", name, receipt, err, accepted[n.Token])
					}
				}
			})
		}
	}
}

// TestResponseOfIntermediaryNamesTheCause sends to an intermediary without another gateway.
func TestResponseOfIntermediaryNamesTheCause(t *testing.T) {
	t.Parallel()
	for name, send := range sends {
		for _, res := range intermediaryResponses {
			t.Run(fmt.Sprintf("%s/%d_%s", name, res.status, res.contentType), func(t *testing.T) {
				t.Parallel()
				url, requests := intermediary(t, res.status, res.contentType, res.body)
				env := &testEnv{t: t, key: "slk_test"}
				c := env.newClient(client.Config{Attempts: 2, Timeout: 10 * time.Minute}, url)
				receipt, err := send(t.Context(), c, testNotification(1))
				problem, ok := errors.AsType[*client.Error](err)
				kind, verdict := "unavailable", push.Unsent
				if res.unknown {
					kind, verdict = "unknown", push.Unknown
				}
				if !ok || problem.Type != kind || name != "SendEach" && (receipt.Verdict != verdict || receipt.Reason != "NO_GATEWAY") {
					t.Fatalf("%+v %#v", receipt, err)
				}
				cause := fmt.Sprint(res.status)
				if len(res.body) > 4<<20 {
					cause = "" // the response may not have been read
				}
				if text := err.Error(); !strings.Contains(text, cause) || !strings.Contains(text, "not from a gateway") || strings.Contains(text, "secret") || strings.Contains(text, "Blocked") ||
					strings.Contains(text, "https://login.example") != (res.status/100 == 3) {
					t.Errorf("%s", text)
				}
				if n := requests.Load(); n > 4 {
					t.Errorf("%d requests", n)
				}
			})
		}
	}
}

// A captive portal responds to everything, also to GET /livez.
func TestCaptivePortalIsNoGateway(t *testing.T) {
	t.Parallel()
	portal := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, blockPage) }
	env := newTestEnv(t)
	url := fakeGatewayWithReport(t, "", portal)
	c := env.newClient(client.Config{}, url, env.startGateway(anyPort, "").url())
	for i := range 4 {
		if receipt, err := c.Send(t.Context(), testNotification(i)); err != nil || receipt.Verdict != push.Accepted {
			t.Errorf("%+v %v", receipt, err)
		}
	}
	alone := env.newClient(client.Config{}, url)
	testwait.Until(t, func() bool { return strings.Contains(alone.Status().Reason, "not from a gateway") }, "the cause in the status")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if receipt, err := alone.Send(ctx, testNotification(9)); err == nil || receipt.Verdict != push.Unsent || !strings.Contains(err.Error(), "not from a gateway") {
		t.Errorf("%+v %v; want the cause", receipt, err)
	}
}

func TestEventsContinueAfterResponseOfIntermediary(t *testing.T) {
	t.Parallel()
	for _, res := range intermediaryResponses {
		switch {
		case len(res.body) > 4<<20, !slices.Contains([]int{200, 302, 403, 503}, res.status):
			continue // one of each kind: the client waits a second between two gateways
		}
		t.Run(fmt.Sprintf("%d_%s", res.status, res.contentType), func(t *testing.T) {
			t.Parallel()
			url, requests := intermediary(t, res.status, res.contentType, res.body)
			other := fakeGatewayWithReport(t, `zone="b"`, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "id: 1\nevent: accepted\ndata: {\"id\":\"n1\",\"status\":\"accepted\"}\n\n")
			})
			env := &testEnv{t: t, key: "slk_test"}
			var log strings.Builder
			c := env.newClient(client.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, url, other)
			waitConnected(c, 2)
			for event, err := range c.Events(t.Context(), "") {
				if err != nil {
					t.Fatal(err)
				}
				if event.ID != "n1" {
					t.Errorf("%+v", event)
				}
				if requests.Load() > 0 {
					break
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(log.String(), "not from a gateway") {
				t.Errorf("the log does not name the cause:\n%s", log.String())
			}
		})
	}
}
