// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

func quota(service string, q mockprovider.Quota) mockprovider.Fault {
	return mockprovider.Fault{Service: service, Quota: &q}
}

func TestAProjectsQuotaIsSharedByAllItsMessages(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	play(t, m, quota(mockprovider.FCM, mockprovider.Quota{Scope: "project", Limit: 3, Per: time.Hour, Tell: true}))
	for i, target := range []string{to(fcmToken), `{"message":{"topic":"news"}}`, to("a:dead"), to("b:other"), to("c:other")} {
		got := do(t, client(t, m), message(t, m, access, target))
		if i < 3 {
			if got.status == 429 {
				t.Errorf("message %d is refused: %s", i, got.body)
			}
			continue
		}
		wait, _ := strconv.Atoi(got.header.Get("retry-after")) // an hour, less what the messages before took
		if code, _ := verdict(got); got.status != 429 || code != "RATE_LIMIT_EXCEEDED" || wait < 3000 || wait > 3600 || strings.Contains(got.body, "FcmError") {
			t.Errorf("message %d: got %d %v %s", i, got.status, got.header, got.body)
		}
	}
	s := m.Ledger().Summary().Services[mockprovider.FCM]
	scope := s.Scopes["project"]
	if scope.Admitted != 3 || scope.Refused != 2 || scope.Early != 1 {
		t.Errorf("the project's scope: %+v", scope)
	}
	var inSeconds uint64
	for _, second := range scope.PerSecond {
		inSeconds += second.Requests - second.Accepted
	}
	if inSeconds != 2 {
		t.Errorf("by the second: %+v", scope.PerSecond)
	}
}

func TestADevicesQuotaIsItsOwn(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	play(t, m, quota(mockprovider.FCM, mockprovider.Quota{Scope: "device", Limit: 2, Per: time.Hour}))
	for range 3 {
		do(t, client(t, m), message(t, m, access, to("a:first")))
		do(t, client(t, m), message(t, m, access, `{"message":{"topic":"first"}}`))
	}
	last := do(t, client(t, m), message(t, m, access, to("a:first")))
	if code, _ := verdict(last); last.status != 429 || code != "QUOTA_EXCEEDED" || last.header.Get("retry-after") != "" {
		t.Errorf("got %d %s", last.status, last.body)
	}
	if got := do(t, client(t, m), message(t, m, access, to("a:second"))); got.status != 200 {
		t.Errorf("another device: got %d %s", got.status, got.body)
	}
	m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.FCM, Token: "a:first", Status: 429}, 2)
	m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.FCM, Token: "first", Status: 200}, 3)
}

func TestCollapsibleMessagesHaveAQuotaOfTheirOwn(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	play(t, m, mockprovider.DocumentedQuotas()...)
	collapsible := `{"message":{"token":"` + fcmToken + `","android":{"collapse_key":"score"}}}`
	for i := range 22 {
		got := do(t, client(t, m), message(t, m, access, collapsible))
		if want := i < 20; want != (got.status == 200) {
			t.Fatalf("message %d: got %d %s", i, got.status, got.body)
		}
	}
	if got := do(t, client(t, m), message(t, m, access, to(fcmToken))); got.status != 200 {
		t.Errorf("a message that does not collapse: got %d %s", got.status, got.body)
	}
}

func TestTopicsAndChannelsAreOneScope(t *testing.T) {
	m := mockprovider.Start(t)
	access, channel := accessToken(t, m), created(t, m, storing)
	play(t, m, quota("", mockprovider.Quota{Scope: "topic", Limit: 1, Per: time.Hour}))
	for _, want := range []int{200, 429} {
		if got := do(t, client(t, m), message(t, m, access, `{"message":{"topic":"news"}}`)); got.status != want {
			t.Errorf("topic: got %d %s, want %d", got.status, got.body, want)
		}
		if got := do(t, client(t, m), broadcast(t, m, channel, nil)); got.status != want {
			t.Errorf("channel: got %d %s, want %d", got.status, got.body, want)
		}
		if got := do(t, client(t, m), push(t, m, nil)); got.status != 200 {
			t.Errorf("a device is no topic: got %d %s", got.status, got.body)
		}
	}
}

func TestADeviceOfAPNsIsThrottledInItsWords(t *testing.T) {
	m := mockprovider.Start(t)
	play(t, m, mockprovider.Fault{Service: mockprovider.APNs, RetryAfter: 30 * time.Second,
		Quota: &mockprovider.Quota{Scope: "device", Limit: 1, Per: time.Hour}})
	do(t, client(t, m), push(t, m, nil))
	got := do(t, client(t, m), push(t, m, nil))
	if got.status != 429 || got.object["reason"] != "TooManyRequests" || got.header.Get("retry-after") != "30" {
		t.Errorf("got %d %s %v", got.status, got.body, got.header)
	}
}

func TestAKeyOfOneEnvironmentIsRefusedInTheOther(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Credentials: []mockprovider.Credential{{Environment: mockprovider.Sandbox}}})
	sandbox := func(r *http.Request) { r.Host = "api.sandbox.push.apple.com" }
	if got := do(t, client(t, m), push(t, m, nil)); got.status != 403 || got.object["reason"] != "BadEnvironmentKeyInToken" {
		t.Errorf("production: got %d %s", got.status, got.body)
	}
	if got := do(t, client(t, m), push(t, m, sandbox)); got.status != 200 {
		t.Errorf("sandbox: got %d %s", got.status, got.body)
	}
	if _, err := mockprovider.New(mockprovider.Config{Credentials: []mockprovider.Credential{{Environment: "test"}}}); err == nil {
		t.Error("an environment of test is taken")
	}
}

func TestATokenOfOneEnvironmentIsBadInTheOther(t *testing.T) {
	m := mockprovider.Start(t)
	for token, want := range map[string][2]int{"5a2db0c0" + goodToken[8:]: {400, 200}, "5a2db0c1" + goodToken[8:]: {200, 400}, goodToken: {200, 200}} {
		for i, host := range []string{"api.push.apple.com", "api.sandbox.push.apple.com"} {
			got := do(t, client(t, m), push(t, m, func(r *http.Request) { r.Host, r.URL.Path = host, "/3/device/"+token }))
			if got.status != want[i] || want[i] == 400 && got.object["reason"] != "BadDeviceToken" {
				t.Errorf("%s at %s: got %d %s", token[:8], host, got.status, got.body)
			}
		}
	}
}

func TestAConnectionThatWasIdleForTooLongAnswers500UntilItIsReplaced(t *testing.T) {
	m := mockprovider.Start(t)
	for after, want := range map[time.Duration]int{time.Nanosecond: 500, time.Hour: 200} {
		play(t, m, mockprovider.Fault{Service: mockprovider.APNs, AfterIdle: after, Status: 500})
		if got := do(t, client(t, m), push(t, m, nil)); got.status != want {
			t.Errorf("after %v: got %d %s", after, got.status, got.body)
		}
	}
}

func TestAQueueingConnectionAnswersEverything(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{Start: 100}})
	play(t, m, mockprovider.Fault{Service: mockprovider.APNs, ServiceRate: 5000})
	l := open(t, m, m.APNsAddrs()[0])
	for range 50 {
		l.push(goodToken)
	}
	for range 50 {
		if got := l.answer(); got.status != 200 {
			t.Fatalf("got %+v", got)
		}
	}
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if e.Fault != "service_rate" || !e.Accepted {
			t.Errorf("the ledger has %+v", e)
		}
	}
}
