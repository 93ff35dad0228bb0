// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

const storing = `{"message-storage-policy":1,"push-type":"LiveActivity"}`

// manage makes a request to channel management, that change may spoil.
func manage(t testing.TB, m *mockprovider.Mock, method, channel, text string, change ...func(*http.Request)) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method,
		"https://"+m.APNsManageAddr().String()+"/1/apps/com.example.app/channels", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("authorization", "bearer "+providerToken(t, m.Credentials()[0], 0))
	if channel != "" {
		r.Header.Set("apns-channel-id", channel)
	}
	for _, spoil := range change {
		spoil(r)
	}
	return r
}

// created makes a channel.
func created(t testing.TB, m *mockprovider.Mock, text string, change ...func(*http.Request)) string {
	t.Helper()
	got := do(t, client(t, m), manage(t, m, "POST", "", text, change...))
	if got.status != 201 || got.header.Get("apns-channel-id") == "" {
		t.Fatalf("create answered %d %s", got.status, got.body)
	}
	return got.header.Get("apns-channel-id")
}

// broadcast makes a good send to a channel, that change may spoil.
func broadcast(t testing.TB, m *mockprovider.Mock, channel string, change func(*http.Request)) *http.Request {
	t.Helper()
	return push(t, m, func(r *http.Request) {
		r.URL.Path = "/4/broadcasts/apps/com.example.app"
		r.Header.Del("apns-topic")
		r.Header.Del("apns-id")
		r.Header.Set("apns-request-id", goodID)
		r.Header.Set("apns-push-type", "liveactivity")
		r.Header.Set("apns-channel-id", channel)
		body(r, `{"aps":{"timestamp":1,"event":"update","content-state":{}}}`)
		if change != nil {
			change(r)
		}
	})
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func inSandbox(r *http.Request) { r.Host = "api-manage-broadcast.sandbox.push.apple.com" }

func listing(r *http.Request) { r.URL.Path = "/1/apps/com.example.app/all-channels" }

func TestAChannelIsCreatedReadListedSentToAndDeleted(t *testing.T) {
	m := mockprovider.Start(t)
	c := client(t, m)
	ask := func(want int, r *http.Request) reply {
		t.Helper()
		got := do(t, c, r)
		if got.status != want || got.header.Get("apns-request-id") == "" {
			t.Fatalf("got %d %s %v, want %d", got.status, got.body, got.header, want)
		}
		return got
	}
	if got := ask(200, manage(t, m, "GET", "", "", listing)); got.body != `{"channels":[]}` {
		t.Errorf("the list begins as %s", got.body)
	}
	channel := created(t, m, storing)
	if got := ask(200, manage(t, m, "GET", channel, "")); got.body != storing {
		t.Errorf("the channel is %s", got.body)
	}
	if got := ask(200, manage(t, m, "GET", "", "", listing)); got.body != `{"channels":["`+channel+`"]}` {
		t.Errorf("the list is %s", got.body)
	}
	if got := ask(200, broadcast(t, m, channel, nil)); got.header.Get("apns-request-id") != goodID {
		t.Errorf("a broadcast answered %v", got.header)
	}
	ask(204, manage(t, m, "DELETE", channel, ""))
	ask(400, broadcast(t, m, channel, nil))
	ask(400, manage(t, m, "DELETE", channel, ""))

	accepted := true
	got := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs, Token: channel, ID: goodID, Accepted: &accepted})
	if len(got) != 1 || got[0].Path != "/4/broadcasts/apps/com.example.app" {
		t.Errorf("the ledger has %+v", got)
	}
	if sent := m.Ledger().AcceptedByToken(); len(sent) != 1 || sent[channel] != 1 {
		t.Errorf("management counts as a notification: %v", sent)
	}
}

func TestAChannelBelongsToOneEnvironment(t *testing.T) {
	m := mockprovider.Start(t)
	channel := created(t, m, storing, inSandbox)
	for host, want := range map[string]int{"api.push.apple.com": 400, "api-broadcast.sandbox.push.apple.com": 200, "api.sandbox.push.apple.com": 200} {
		got := do(t, client(t, m), broadcast(t, m, channel, func(r *http.Request) { r.Host = host }))
		if got.status != want {
			t.Errorf("%s: got %d %s, want %d", host, got.status, got.body, want)
		}
	}
}

func TestAChannelThatStoresNothingTakesNoExpiration(t *testing.T) {
	m := mockprovider.Start(t)
	stores, forgets := created(t, m, storing), created(t, m, strings.Replace(storing, "1", "0", 1))
	for _, c := range []struct {
		channel, expiration string
		want                int
	}{{stores, "0", 200}, {stores, "1900000000", 200}, {forgets, "0", 200}, {forgets, "1900000000", 400}} {
		got := do(t, client(t, m), broadcast(t, m, c.channel, header("apns-expiration", c.expiration)))
		if got.status != c.want || c.want == 400 && got.object["reason"] != "BadExpirationDate" {
			t.Errorf("%+v: got %d %s", c, got.status, got.body)
		}
	}
}

func TestEveryFaultOfABroadcastHasItsReason(t *testing.T) {
	m := mockprovider.Start(t)
	channel := created(t, m, storing)
	for _, c := range []struct {
		status int
		reason string
		change func(*http.Request)
	}{
		{400, "MissingChannelId", func(r *http.Request) { r.Header.Del("apns-channel-id") }},
		{400, "BadChannelId", header("apns-channel-id", "not base64!")},
		{400, "ChannelNotRegistered", header("apns-channel-id", "dW5rbm93bg==")},
		{400, "PayloadEmpty", func(r *http.Request) { body(r, "") }},
		{400, "BadRequestPayload", func(r *http.Request) { body(r, `[]`) }},
		{400, "BadRequestPayload", func(r *http.Request) { body(r, `{"aps":{"event":"start"}}`) }},
		{400, "BadMessageId", header("apns-request-id", "1")},
		{400, "MissingPushType", func(r *http.Request) { r.Header.Del("apns-push-type") }},
		{400, "InvalidPushType", header("apns-push-type", "alert")},
		{400, "BadExpirationDate", header("apns-expiration", "soon")},
		{400, "BadPriority", header("apns-priority", "7")},
		{400, "TopicDisallowed", func(r *http.Request) { r.URL.Path = "/4/broadcasts/apps/com.example.other" }},
		{403, "MissingProviderToken", func(r *http.Request) { r.Header.Del("authorization") }},
		{403, "InvalidProviderToken", header("authorization", "bearer a.b.c")},
		{403, "ExpiredProviderToken", header("authorization", "bearer "+providerToken(t, m.Credentials()[0], 61*60e9))},
		{404, "BadPath", func(r *http.Request) { r.URL.Path += "/more" }},
		{405, "MethodNotAllowed", func(r *http.Request) { r.Method = "PUT" }},
		{413, "PayloadTooLarge", func(r *http.Request) { body(r, sized(5121)) }},
		{200, "", func(r *http.Request) { body(r, sized(5120)) }},
	} {
		got := do(t, client(t, m), broadcast(t, m, channel, c.change))
		if reason, _ := got.object["reason"].(string); got.status != c.status || reason != c.reason {
			t.Errorf("got %d %s, want %d %s", got.status, got.body, c.status, c.reason)
		}
	}
}

func TestEveryFaultOfChannelManagementHasItsReason(t *testing.T) {
	m := mockprovider.Start(t)
	for _, c := range []struct {
		method, channel, text string
		status                int
		reason                string
		change                func(*http.Request)
	}{
		{"GET", "", "", 400, "MissingChannelId", nil},
		{"GET", "?", "", 400, "BadChannelId", nil},
		{"DELETE", "dW5rbm93bg==", "", 400, "ChannelNotRegistered", nil},
		{"POST", "", "", 400, "PayloadEmpty", nil},
		{"POST", "", `{"message-storage-policy":1}`, 400, "MissingPushType", nil},
		{"POST", "", `{"message-storage-policy":1,"push-type":"liveactivity"}`, 400, "InvalidPushType", nil},
		{"POST", "", `{"message-storage-policy":2,"push-type":"LiveActivity"}`, 400, "BadRequestPayload", nil},
		{"POST", "", `{"push-type":"LiveActivity"}`, 400, "BadRequestPayload", nil},
		{"POST", "", storing + storing, 400, "BadRequestPayload", nil},
		{"POST", "", `{"message-storage-policy":1,"push-type":"LiveActivity","name":"x"}`, 400, "BadRequestPayload", nil},
		{"POST", "", storing, 400, "BadMessageId", header("apns-request-id", "1")},
		{"POST", "", storing, 400, "BadRequestParams", func(r *http.Request) { r.URL.RawQuery = "x=1" }},
		{"POST", "", storing, 400, "TopicDisallowed", func(r *http.Request) { r.URL.Path = "/1/apps/com.example.other/channels" }},
		{"PUT", "", storing, 405, "MethodNotAllowed", nil},
		{"POST", "", storing, 405, "MethodNotAllowed", listing},
		{"GET", "", "", 404, "BadPath", func(r *http.Request) { r.URL.Path = "/1/apps/com.example.app" }},
		{"GET", "", "", 403, "MissingProviderToken", func(r *http.Request) { r.Header.Del("authorization"); r.URL.Path = "/" }},
	} {
		var change []func(*http.Request)
		if c.change != nil {
			change = append(change, c.change)
		}
		got := do(t, client(t, m), manage(t, m, c.method, c.channel, c.text, change...))
		if got.status != c.status || got.object["reason"] != c.reason {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.text, got.status, got.body, c.status, c.reason)
		}
	}
	other := do(t, client(t, m, m.ClientCertificate()), manage(t, m, "GET", "", "", func(r *http.Request) { r.URL.Path = "/1/apps/com.example.other/all-channels" }))
	if other.status != 403 || other.object["reason"] != "TopicMismatch" {
		t.Errorf("a certificate for another app: got %d %s", other.status, other.body)
	}
}

// A capability that is switched off, a quota and trouble are for the script to play, in the shape of this API.
func TestAScriptAnswersAsTheChannelAPIDoes(t *testing.T) {
	m := mockprovider.Start(t)
	for _, want := range []mockprovider.Fault{
		{Status: 400, Reason: "FeatureNotEnabled"}, {Status: 403, Reason: "BadCertificate"}, {Status: 403, Reason: "BadCertificateEnvironment"},
		{Status: 429, Reason: "TooManyRequests", RetryAfter: 5e9}, {Status: 429, Reason: "TooManyProviderTokenUpdates"},
		{Status: 500, Reason: "InternalServerError"}, {Status: 503, Reason: "Service Unavailable"}, {Status: 503, Reason: "Shutdown"},
	} {
		if err := m.Play(mockprovider.Script{Faults: []mockprovider.Fault{want}}); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*http.Request{manage(t, m, "POST", "", storing), broadcast(t, m, "dW5rbm93bg==", nil)} {
			got := do(t, client(t, m), r)
			if got.status != want.Status || got.body != fmt.Sprintf(`{"reason":%q}`, want.Reason) || got.header.Get("apns-request-id") == "" {
				t.Errorf("%s %s: got %d %s", r.Method, r.URL.Path, got.status, got.body)
			}
		}
	}
}

func TestAnAppHasTenThousandChannelsAndNoMore(t *testing.T) {
	m := mockprovider.Start(t)
	c := client(t, m, m.ClientCertificate())
	blank := manage(t, m, "POST", "", storing)
	blank.Header.Del("authorization") // the certificate will do
	another := func(change ...func(*http.Request)) reply {
		r := blank.Clone(blank.Context())
		r.Body, _ = blank.GetBody()
		for _, spoil := range change {
			spoil(r)
		}
		return do(t, c, r)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 500 {
				if got := another(); got.status != 201 {
					t.Errorf("got %d %s", got.status, got.body)
					return
				}
			}
		})
	}
	wg.Wait()
	got := another()
	if got.status != 400 || got.object["reason"] != "CannotCreateChannelConfig" {
		t.Errorf("number 10,001: got %d %s", got.status, got.body)
	}
	if got := another(inSandbox); got.status != 201 {
		t.Errorf("the sandbox counts by itself, and answered %d %s", got.status, got.body)
	}
	all, _ := do(t, c, manage(t, m, "GET", "", "", listing)).object["channels"].([]any)
	slices.SortFunc(all, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	if n := len(slices.Compact(all)); n != 10_000 {
		t.Errorf("%d are listed", n)
	}
}
