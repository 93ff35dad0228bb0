// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// fakeChannels records the calls that it gets.
type fakeChannels struct {
	outcome     push.Outcome
	calls       []push.ChannelCall
	hasDeadline bool
}

func (channels *fakeChannels) Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt) {
	_, channels.hasDeadline = ctx.Deadline()
	channels.calls = append(channels.calls, call)
	receipt := push.Receipt{ID: "id", Outcome: channels.outcome}
	if channels.outcome.HTTP != 0 || channels.outcome.Verdict == push.Unknown {
		receipt.Attempts = []push.Attempt{{Endpoint: "127.0.0.1:443", Outcome: channels.outcome}}
	}
	if call.Action == push.DeleteChannel || channels.outcome.Verdict != push.Accepted {
		return nil, receipt
	}
	return []push.Channel{{ID: "a/+b", Storage: call.Storage}}, receipt
}

var manageKey, manageHash = identity.NewKey()

const shopChannels = "/v1/apps/shop/channels"

// newChannelsAPI returns an API with channels and a key for them.
func newChannelsAPI(t testing.TB, channels *fakeChannels) *testAPI {
	return newTestAPI(t, func(cfg *testConfig) {
		cfg.Channels = channels
		shop := cfg.Apps["shop"]
		shop = append(shop, testKey{Name: "stadium", Hash: manageHash, Scopes: []string{"channels"}})
		cfg.Apps["shop"] = shop
	})
}

var acceptedOutcome = push.Outcome{Verdict: push.Accepted, HTTP: 200}

func TestChannelCalls(t *testing.T) {
	for _, c := range []struct {
		method, path, body, key string
		status                  int
		want                    push.ChannelCall
		answer                  string
	}{
		{"GET", "", "", readKey, 200, push.ChannelCall{Action: push.ListChannels}, `{"channels":[{"id":"a/+b"}]}`},
		{"GET", "?environment=sandbox", "", readKey, 200, push.ChannelCall{Action: push.ListChannels, Environment: push.Sandbox}, `{"channels":[{"id":"a/+b"}]}`},
		{"POST", "", `{"storage":"none"}`, manageKey, 201, push.ChannelCall{Action: push.CreateChannel, Channel: push.Channel{Storage: push.StoreNone}}, `{"id":"a/+b","storage":"none"}`},
		{"GET", "/a%2F+b", "", readKey, 200, push.ChannelCall{Action: push.ReadChannel, Channel: push.Channel{ID: "a/+b"}}, `{"id":"a/+b"}`},
		{"DELETE", "/a%2F%2Bb?environment=production", "", manageKey, 204,
			push.ChannelCall{Action: push.DeleteChannel, Environment: push.Production, Channel: push.Channel{ID: "a/+b"}}, ""},
	} {
		channels := &fakeChannels{outcome: acceptedOutcome}
		w := newChannelsAPI(t, channels).request(c.method, shopChannels+c.path, c.body, "Authorization: Bearer "+c.key)
		c.want.App = "shop"
		if w.Code != c.status || len(channels.calls) != 1 || !channels.hasDeadline {
			t.Fatalf("%s %s: %d %s, calls %+v", c.method, c.path, w.Code, w.Body, channels.calls)
		}
		if diff := cmp.Diff(c.want, channels.calls[0]); diff != "" {
			t.Errorf("%s %s: want (-) and got (+):\n%s", c.method, c.path, diff)
		}
		if got := compact(w); got != c.answer {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, got, c.answer)
		}
	}
}

func compact(w *httptest.ResponseRecorder) string {
	var v json.RawMessage
	if json.Unmarshal(w.Body.Bytes(), &v) != nil {
		return w.Body.String()
	}
	return string(v)
}

func TestNewChannelLocation(t *testing.T) {
	channels := &fakeChannels{outcome: acceptedOutcome}
	ts := newChannelsAPI(t, channels)
	location := ts.request("POST", shopChannels+"?environment=sandbox", `{"storage":"latest"}`, "Authorization: Bearer "+manageKey).Header().Get("Location")
	if location != shopChannels+"/a%2F+b?environment=sandbox" {
		t.Errorf("Location %s", location)
	}
	if w := ts.request("GET", location, "", "Authorization: Bearer "+readKey); w.Code != 200 || channels.calls[1].ID != "a/+b" || channels.calls[1].Environment != push.Sandbox {
		t.Errorf("%d, calls %+v", w.Code, channels.calls)
	}
}

func TestChannelScopes(t *testing.T) {
	channels := &fakeChannels{outcome: acceptedOutcome}
	ts := newChannelsAPI(t, channels)
	for _, key := range []string{sendKey, readKey} {
		ts.wantProblem(ts.request("POST", shopChannels, `{"storage":"none"}`, "Authorization: Bearer "+key), 403, "missing-scope")
		ts.wantProblem(ts.request("DELETE", shopChannels+"/AA==", "", "Authorization: Bearer "+key), 403, "missing-scope")
	}
	for _, key := range []string{sendKey, manageKey} {
		ts.wantProblem(ts.request("GET", shopChannels, "", "Authorization: Bearer "+key), 403, "missing-scope")
		ts.wantProblem(ts.request("GET", shopChannels+"/AA==", "", "Authorization: Bearer "+key), 403, "missing-scope")
	}
	if channels.calls != nil {
		t.Errorf("calls %+v", channels.calls)
	}
}

func TestChannelProblems(t *testing.T) {
	create, remove := []string{"POST", "", `{"storage":"none"}`}, []string{"DELETE", "/AA==", ""}
	for _, c := range []struct {
		outcome push.Outcome
		call    []string
		status  int
		slug    string
		field   string
		detail  string
	}{
		{push.Outcome{Verdict: push.Unregistered, Reason: "ChannelNotRegistered", HTTP: 400}, remove, 404, "not-found", "id",
			"id: ChannelNotRegistered: the app has no such channel in this environment"},
		{push.Outcome{Verdict: push.Refused, Reason: "FeatureNotEnabled", HTTP: 400, Detail: "switch it on"}, create, 422, "refused-by-provider", "", "FeatureNotEnabled: switch it on"},
		{push.Outcome{Verdict: push.Refused, Reason: "BadTopic", HTTP: 400}, create, 422, "refused-by-provider", "", "BadTopic: Apple does not accept this request"},
		{push.InvalidNotification(&push.FieldError{Field: "id", Reason: "InvalidTarget", Allowed: "base64"}), remove, 400, "invalid-field", "id", "id: must be base64"},
		{push.Outcome{Verdict: push.Throttled, Reason: "TooManyRequests", HTTP: 429, RetryAfter: 5 * time.Second}, create, 429, "throttled", "",
			"TooManyRequests: send it again after the time in Retry-After"},
		{push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT"}, create, 504, "unknown", "",
			"RESPONSE_TIMEOUT: list the channels before you create it again: it may exist"},
		{push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT"}, remove, 504, "unknown", "", "RESPONSE_TIMEOUT: it is safe to repeat the request"},
	} {
		ts := newChannelsAPI(t, &fakeChannels{outcome: c.outcome})
		p := ts.wantProblem(ts.request(c.call[0], shopChannels+c.call[1], c.call[2], "Authorization: Bearer "+manageKey), c.status, c.slug)
		if p.Field != c.field || p.Detail != c.detail {
			t.Errorf("field %q, detail %q", p.Field, p.Detail)
		}
	}
}

func TestChannelsNotConfigured(t *testing.T) {
	ts := newTestAPI(t)
	if p := ts.wantProblem(ts.request("GET", shopChannels, "", "Authorization: Bearer "+readKey), 400, "invalid-field"); p.Field != "app" {
		t.Errorf("%+v", p)
	}
}
