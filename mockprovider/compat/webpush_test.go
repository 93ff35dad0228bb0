// SPDX-License-Identifier: Apache-2.0

package compat_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	webpush "github.com/SherClockHolmes/webpush-go"

	"github.com/sluice-push/sluice/mockprovider"
)

// site is a web site that sends with SherClockHolmes/webpush-go.
type site struct {
	t      *testing.T
	mock   *mockprovider.Mock
	client *http.Client
	webpush.Options
}

func newSite(t *testing.T) *site {
	t.Helper()
	private, public, err := webpush.GenerateVAPIDKeys()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	t.Cleanup(client.CloseIdleConnections)
	return &site{t: t, mock: mockprovider.Start(t, mockprovider.Config{KeepContent: true}), client: client, Options: webpush.Options{
		HTTPClient: client, Subscriber: "ops@example.com", TTL: 60, VAPIDPrivateKey: private, VAPIDPublicKey: public,
	}}
}

// subscribe makes a subscription.
func (s *site) subscribe(flavour mockprovider.Flavour, serverKey string) *webpush.Subscription {
	s.t.Helper()
	subscription, err := s.mock.Subscribe(flavour, serverKey)
	if err != nil {
		s.t.Fatal(err)
	}
	return &webpush.Subscription{Endpoint: subscription.Endpoint, Keys: webpush.Keys{P256dh: subscription.Keys.P256DH, Auth: subscription.Keys.Auth}}
}

func (s *site) send(to *webpush.Subscription, text string, o webpush.Options) (status int, header http.Header, body string) {
	s.t.Helper()
	resp, err := webpush.SendNotificationWithContext(testContext(s.t), []byte(text), to, &o)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(read)
}

var flavours = []mockprovider.Flavour{mockprovider.Google, mockprovider.Mozilla, mockprovider.Apple}

func TestMessagesOfWebpushGoAreDecrypted(t *testing.T) {
	s := newSite(t)
	for _, flavour := range flavours {
		to := s.subscribe(flavour, s.VAPIDPublicKey)
		status, header, body := s.send(to, "Grüße aus "+string(flavour), s.Options)
		if status != 201 || !strings.Contains(header.Get("location"), "/message/") {
			t.Fatalf("%s: got %d %v %s", flavour, status, header, body)
		}
		last := s.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.WebPush, Limit: 1})[0]
		if last.Plaintext != "Grüße aus "+string(flavour) {
			t.Errorf("%s: the plaintext is %q (%s)", flavour, last.Plaintext, last.Undecryptable)
		}
	}
}

func TestWebpushGoGetsTheErrorsOfEachService(t *testing.T) {
	s := newSite(t)
	for _, flavour := range flavours {
		to := s.subscribe(flavour, s.VAPIDPublicKey)
		other, foreign, mixed := newSite(t), s.Options, s.Options
		mixed.VAPIDPrivateKey = other.VAPIDPrivateKey
		foreign.VAPIDPrivateKey, foreign.VAPIDPublicKey = other.VAPIDPrivateKey, other.VAPIDPublicKey
		urgent, long := s.Options, s.Options
		urgent.Urgency, long.Topic = "now", strings.Repeat("x", 33)
		wantMixed := map[mockprovider.Flavour]int{mockprovider.Google: 403, mockprovider.Mozilla: 401, mockprovider.Apple: 403}
		wantForeign := map[mockprovider.Flavour]int{mockprovider.Google: 403, mockprovider.Mozilla: 401, mockprovider.Apple: 400}
		for _, c := range []struct {
			name    string
			options webpush.Options
			want    int
		}{{"signature by another key", mixed, wantMixed[flavour]}, {"key of another site", foreign, wantForeign[flavour]},
			{"long topic", long, 400}} {
			if status, _, body := s.send(to, "Hello", c.options); status != c.want {
				t.Errorf("%s, %s: got %d %s, want %d", flavour, c.name, status, body, c.want)
			}
		}
		if status, _, body := s.send(to, "Hello", urgent); status != 201 { // the library omits an unknown urgency
			t.Errorf("%s: got %d %s", flavour, status, body)
		}
		s.mock.Unsubscribe(to.Endpoint)
		if status, _, body := s.send(to, "Hello", s.Options); status != 410 {
			t.Errorf("%s, unsubscribed: got %d %s", flavour, status, body)
		}
	}
}

func TestWebpushGoGetsScriptedResponses(t *testing.T) {
	s := newSite(t)
	for _, flavour := range flavours {
		to := s.subscribe(flavour, s.VAPIDPublicKey)
		for _, status := range []int{404, 410, 413, 429, 500, 502, 503} {
			setScript(t, s.mock, mockprovider.Fault{Service: mockprovider.WebPush, Status: status, RetryAfter: 30 * time.Second})
			if got, header, body := s.send(to, "Hello", s.Options); got != status || header.Get("retry-after") != "30" {
				t.Errorf("%s: got %d %s, want %d", flavour, got, body, status)
			}
		}
		setScript(t, s.mock)
	}
}

func TestWebpushGoReconnectsAfterEveryGoAway(t *testing.T) {
	s := newSite(t)
	setScript(t, s.mock, mockprovider.Fault{Service: mockprovider.WebPush, GoAway: &mockprovider.GoAway{Every: 3}})
	to := s.subscribe(mockprovider.Mozilla, s.VAPIDPublicKey)
	for range 15 {
		if status, _, body := s.send(to, "Hello", s.Options); status != 201 {
			t.Errorf("got %d %s", status, body)
		}
	}
	if n := s.mock.Ledger().Summary().Services[mockprovider.WebPush].Dials; n < 4 {
		t.Errorf("%d connections", n)
	}
}
