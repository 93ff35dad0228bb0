// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/pool"
)

// TestExampleNotificationsGetExpectedReceipts sends examples/notifications.ndjson in one batch
// call. It compares each receipt with the expectation of the generator, which implements the
// protocols independently of this code.
func TestExampleNotificationsGetExpectedReceipts(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, slowTimeouts)
	input, err := os.ReadFile("../../examples/notifications.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	expected, err := os.ReadFile("../../examples/notifications.expected.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(expected), []byte("\n"))
	if len(lines) < 2000 {
		t.Fatalf("only %d examples", len(lines))
	}
	receipts := r.batch(t, input)
	if len(receipts) != len(lines) {
		t.Errorf("%d receipts for %d notifications", len(receipts), len(lines))
	}
	notifications := bytes.Split(bytes.TrimSpace(input), []byte("\n"))
	sent := 0
	for _, line := range lines {
		var want struct {
			Index       int    `json:"index"`
			Status      string `json:"status"`
			Reason      string `json:"reason"`
			Field       string `json:"field"`
			ForgetToken bool   `json:"forget_token"`
			Attempts    int    `json:"attempts"`
		}
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
		sent += want.Attempts
		got := receipts[want.Index]
		for range 100 {
			if got.Reason != "TTL_EXPIRED" || got.Status == want.Status {
				break
			}
			got = r.send(t, string(notifications[want.Index])) // with a ttl of 0 it may expire on a busy machine
		}
		if got.Status != want.Status || got.Field != want.Field || got.ForgetToken != want.ForgetToken ||
			len(got.Attempts) != want.Attempts || want.Reason != "" && got.Reason != want.Reason {
			t.Errorf("line %d:\n got %+v\nwant %+v", want.Index+1, got, want)
		}
	}
	apns, fcm := r.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}), r.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.FCM})
	if apns+fcm != sent {
		t.Errorf("the providers got %d requests, want %d: one for each valid notification", apns+fcm, sent)
	}
}

// TestOneFailingEndpointOfEightLosesNoNotification sends 10,000 notifications from 200 callers
// while one endpoint responds with 500.
func TestOneFailingEndpointOfEightLosesNoNotification(t *testing.T) {
	notifications, callers := 10_000, 200
	if raceEnabled { // the race detector is too slow for more on two cores
		notifications, callers = 2000, 40
	}
	r := newShopGateway(t, mockprovider.Config{
		Script: mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.APNs, Endpoint: "3", Status: 500}}},
	}, strings.Replace(slowTimeouts, ", budget_floor: 1000/s", "", 1)+"pool: { size: 8, idle_timeout: 0s }") // so that retries use the budget
	bad := r.mock.APNsAddrs()[3].String()
	r.waitPoolSize(8)

	var mu sync.Mutex
	ids := map[string]bool{}
	forEachConcurrent(t, callers, notifications, func(i int) {
		got := r.send(t, fmt.Sprintf(`{"platform":"apns","token":"%064x","title":"n %d"}`, rand.Uint64()|1<<60, i))
		if got.Status != "accepted" {
			t.Errorf("notification %d: %+v", i, got)
		}
		visited := map[string]bool{}
		for _, a := range got.Attempts {
			if visited[a.Endpoint] {
				t.Errorf("notification %d used %s twice: %+v", i, a.Endpoint, got)
			}
			visited[a.Endpoint] = true
		}
		mu.Lock()
		defer mu.Unlock()
		ids[got.ID] = true
	})

	accepted := r.mock.Ledger().AcceptedByID()
	if len(ids) != notifications || len(accepted) != notifications {
		t.Errorf("%d receipts and %d notifications in the ledger, want %d of each", len(ids), len(accepted), notifications)
	}
	for id, times := range accepted {
		if times != 1 || !ids[id] {
			t.Errorf("the ledger has %s accepted %d times; it has a receipt: %v", id, times, ids[id])
		}
	}
	// The breaker counts responses. Requests that are in flight when it opens still arrive, but no
	// more than the limit of the endpoint.
	if hits := r.mock.Ledger().Count(mockprovider.Query{Endpoint: bad}); hits > 5+64 {
		t.Errorf("the bad endpoint got %d requests", hits)
	}
	if e := r.endpoint(t, bad); e.State == "closed" || e.Failures > 5 {
		t.Errorf("the bad endpoint is %+v, want it ejected after at most 5 consecutive failures", e)
	}
}

// TestColdBurstDialsNoMoreThanPoolSize sends 500 notifications at once to a gateway that has just
// started. APNs allows one stream on a new connection until it has accepted a request.
func TestColdBurstDialsNoMoreThanPoolSize(t *testing.T) {
	const size, burst = 4, 500
	r := newShopGateway(t, mockprovider.Config{Streams: mockprovider.Streams{Start: 1, Max: 1000, Strict: true}}, slowTimeouts+fmt.Sprintf("pool: { size: %d, idle_timeout: 0s }", size))
	forEachConcurrent(t, burst, burst, func(i int) {
		if got := r.send(t, fmt.Sprintf(`{"platform":"apns","token":"5a%062x","title":"burst"}`, i)); got.Status != "accepted" {
			t.Errorf("notification %d: %+v", i, got)
		}
	})
	apns := r.mock.Ledger().Summary().Services[mockprovider.APNs]
	if apns.Dials > size {
		t.Errorf("%d connections were dialled, want at most %d", apns.Dials, size)
	}
	if apns.Refused != 0 {
		t.Errorf("%d streams were refused, want none", apns.Refused)
	}
	if apns.Accepted != burst {
		t.Errorf("%d accepted, want %d", apns.Accepted, burst)
	}
}

// forEachConcurrent calls do with 0 to n-1 from several goroutines.
func forEachConcurrent(t *testing.T, goroutines, n int, do func(i int)) {
	var group sync.WaitGroup
	next := make(chan int)
	for range goroutines {
		group.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	testwait.Call(t, group.Wait, "the end of all calls")
}

func TestInvalidInputNamesTheFieldAndSendsNothing(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, "limits: { body: 64KiB }")
	const token = `"token":"5a5a"`
	oversized := `{"platform":"apns",` + token + `,"apns":{"payload":{"aps":{},"pad":"` + strings.Repeat("x", 4096) + `"}}}`
	tests := []struct {
		name, key, body string
		status          int
		field, want     string
	}{
		{"unknown field", r.key, `{"platform":"apns",` + token + `,"titel":"Hi"}`, 400, "titel", "title"},
		{"wrong type", r.key, `{"platform":"apns",` + token + `,"badge":"one"}`, 400, "badge", "number"},
		{"path in the token", r.key, `{"platform":"apns","token":"../../4/broadcasts/apps/x"}`, 400, "token", "hex"},
		{"oversized payload", r.key, oversized, 413, "apns.payload", "4096"},
		{"body over the limit", r.key, `{"title":"` + strings.Repeat("x", 70_000) + `"}`, 413, "", "64 KiB"},
		{"no key", "", `{}`, 401, "Authorization", "gateway key"},
		{"another app's key", r.otherKey, `{"platform":"apns",` + token + `}`, 403, "", ""},
		{"not JSON", r.key, `title=Hi`, 400, "", "JSON"},
		{"platform without a block", r.key, `{"platform":"webpush","subscription":{"endpoint":"https://x.example","keys":{"p256dh":"","auth":""}}}`, 400, "platform", "apns"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			response := r.postTo(t, "", test.key, "application/json", strings.NewReader(test.body))
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			var problem struct{ Type, Title, Detail, Field string }
			if err := json.Unmarshal(text, &problem); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			if response.StatusCode != test.status || response.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("status %d, %s, want %d: %s", response.StatusCode, response.Header.Get("Content-Type"), test.status, text)
			}
			if problem.Type == "" || problem.Title == "" || problem.Field != test.field || !strings.Contains(problem.Detail, test.want) {
				t.Errorf("problem %s, want field %q and a detail with %q", text, test.field, test.want)
			}
			if strings.Contains(string(text), "broadcasts") || strings.Contains(string(text), r.otherKey) {
				t.Errorf("the problem repeats what the caller sent: %s", text)
			}
		})
	}
	if sent := r.mock.Ledger().Summary().Services[mockprovider.APNs].Requests; sent != 0 {
		t.Errorf("%d requests reached APNs, want none", sent)
	}
}

// endpoint returns the state of an endpoint or spare in GET /v1/status.
func (r shopGateway) endpoint(t *testing.T, address string) (found pool.EndpointStatus) {
	t.Helper()
	for _, s := range r.status(t).Services {
		all := slices.Concat(s.Pool.Endpoints, s.Pool.Spares)
		if i := slices.IndexFunc(all, func(e pool.EndpointStatus) bool { return e.Address == address }); i >= 0 {
			return all[i]
		}
	}
	t.Fatalf("the status has no endpoint %s", address)
	return found
}
