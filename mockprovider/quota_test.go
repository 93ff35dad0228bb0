// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// quota returns a fault with a quota.
func quota(service string, q mockprovider.Quota) mockprovider.Fault {
	return mockprovider.Fault{Service: service, Quota: &q}
}

func TestProjectQuotaCountsAllMessages(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	setScript(t, m, quota(mockprovider.FCM, mockprovider.Quota{Scope: "project", Limit: 3, Per: time.Hour, Tell: true}))
	for i, target := range []string{to(registrationToken), `{"message":{"topic":"news"}}`, to("a:dead"), to("b:other"), to("c:other")} {
		got := do(t, newClient(t, m), message(t, m, access, target))
		if i < 3 {
			if got.status == 429 {
				t.Errorf("message %d is rejected: %s", i, got.body)
			}
			continue
		}
		wait, _ := strconv.Atoi(got.header.Get("retry-after")) // an hour, minus the time of the messages before
		if code := fcmCode(got); got.status != 429 || code != "RATE_LIMIT_EXCEEDED" || wait < 3000 || wait > 3600 || strings.Contains(got.body, "FcmError") {
			t.Errorf("message %d: got %d %v %s", i, got.status, got.header, got.body)
		}
	}
	s := m.Ledger().Summary().Services[mockprovider.FCM]
	scope := s.Scopes["project"]
	if scope.Admitted != 3 || scope.Refused != 2 || scope.Early != 1 {
		t.Errorf("scope of the project: %+v", scope)
	}
	var refused uint64
	for _, second := range scope.PerSecond {
		refused += second.Requests - second.Accepted
	}
	if refused != 2 {
		t.Errorf("per second: %+v", scope.PerSecond)
	}
}

func TestDeviceQuotaCountsPerDevice(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	setScript(t, m, quota(mockprovider.FCM, mockprovider.Quota{Scope: "device", Limit: 2, Per: time.Hour}))
	for range 3 {
		do(t, newClient(t, m), message(t, m, access, to("a:first")))
		do(t, newClient(t, m), message(t, m, access, `{"message":{"topic":"first"}}`))
	}
	last := do(t, newClient(t, m), message(t, m, access, to("a:first")))
	if code := fcmCode(last); last.status != 429 || code != "QUOTA_EXCEEDED" || last.header.Get("retry-after") != "" {
		t.Errorf("got %d %s", last.status, last.body)
	}
	if got := do(t, newClient(t, m), message(t, m, access, to("a:second"))); got.status != 200 {
		t.Errorf("another device: got %d %s", got.status, got.body)
	}
	m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.FCM, Token: "a:first", Status: 429}, 2)
	m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.FCM, Token: "first", Status: 200}, 3)
}

func TestCollapseQuotaCountsCollapsibleMessages(t *testing.T) {
	m := mockprovider.Start(t)
	access := accessToken(t, m)
	setScript(t, m, mockprovider.DocumentedQuotas()...)
	collapsible := `{"message":{"token":"` + registrationToken + `","android":{"collapse_key":"score"}}}`
	for i := range 22 {
		got := do(t, newClient(t, m), message(t, m, access, collapsible))
		if want := i < 20; want != (got.status == 200) {
			t.Fatalf("message %d: got %d %s", i, got.status, got.body)
		}
	}
	if got := do(t, newClient(t, m), message(t, m, access, to(registrationToken))); got.status != 200 {
		t.Errorf("a message without collapse_key: got %d %s", got.status, got.body)
	}
}

func TestTopicQuotaCountsTopicsAndChannels(t *testing.T) {
	m := mockprovider.Start(t)
	access, channel := accessToken(t, m), createChannel(t, m)
	setScript(t, m, quota("", mockprovider.Quota{Scope: "topic", Limit: 1, Per: time.Hour}))
	for _, want := range []int{200, 429} {
		if got := do(t, newClient(t, m), message(t, m, access, `{"message":{"topic":"news"}}`)); got.status != want {
			t.Errorf("topic: got %d %s, want %d", got.status, got.body, want)
		}
		if got := do(t, newClient(t, m), broadcast(t, m, channel)); got.status != want {
			t.Errorf("channel: got %d %s, want %d", got.status, got.body, want)
		}
		if got := do(t, newClient(t, m), push(t, m)); got.status != 200 {
			t.Errorf("push to a device: got %d %s", got.status, got.body)
		}
	}
}

func TestDeviceQuotaOfAPNsHasItsReason(t *testing.T) {
	m := mockprovider.Start(t)
	setScript(t, m, mockprovider.Fault{Service: mockprovider.APNs, RetryAfter: 30 * time.Second,
		Quota: &mockprovider.Quota{Scope: "device", Limit: 1, Per: time.Hour}})
	do(t, newClient(t, m), push(t, m))
	got := do(t, newClient(t, m), push(t, m))
	if got.status != 429 || got.object["reason"] != "TooManyRequests" || got.header.Get("retry-after") != "30" {
		t.Errorf("got %d %s %v", got.status, got.body, got.header)
	}
}

func TestConnectionFailsAfterIdleTime(t *testing.T) {
	m := mockprovider.Start(t)
	for after, want := range map[time.Duration]int{time.Nanosecond: 500, time.Hour: 200} {
		setScript(t, m, mockprovider.Fault{Service: mockprovider.APNs, AfterIdle: after, Status: 500})
		if got := do(t, newClient(t, m), push(t, m)); got.status != want {
			t.Errorf("after %v: got %d %s", after, got.status, got.body)
		}
	}
}

func TestServiceRateAnswersAllRequests(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{Start: 100}})
	setScript(t, m, mockprovider.Fault{Service: mockprovider.APNs, ServiceRate: 5000})
	c := open(t, m, m.APNsAddrs()[0])
	for range 50 {
		c.push(deviceToken)
	}
	for range 50 {
		if got := c.Response(); got.Status != 200 {
			t.Fatalf("got %+v", got)
		}
	}
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if e.Fault != "service_rate" || !e.Accepted {
			t.Errorf("the ledger has %+v", e)
		}
	}
}
