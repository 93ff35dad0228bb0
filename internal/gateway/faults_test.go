// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// newFaultyGateway starts a shopGateway whose mock plays one fault.
func newFaultyGateway(t *testing.T, fault mockprovider.Fault, settings string) shopGateway {
	t.Helper()
	return newShopGateway(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{fault}}}, settings)
}

// postNotification posts body with header fields of the form "Name: value". It returns the status,
// Retry-After and the receipt, which may be in a problem document.
func (r shopGateway) postNotification(t *testing.T, body string, headers ...string) (status int, retryAfter string, got receipt) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, r.url+"/v1/apps/shop/notifications", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+r.key)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := r.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var problem struct {
		Receipt *receipt `json:"receipt"`
	}
	problem.Receipt = &got
	if response.StatusCode == http.StatusOK {
		err = json.Unmarshal(text, &got)
	} else {
		err = json.Unmarshal(text, &problem)
	}
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return response.StatusCode, response.Header.Get("Retry-After"), got
}

func TestProviderThrottlingIsNotAnEndpointFailure(t *testing.T) {
	r := newFaultyGateway(t, mockprovider.Fault{Service: mockprovider.FCM, Status: 429, RetryAfter: 12 * time.Hour}, "")
	for i := range 20 {
		status, retryAfter, got := r.postNotification(t, fcmNotification)
		attempts := 0
		if i == 0 {
			attempts = 1 // its Retry-After holds back the others
		}
		if status != http.StatusTooManyRequests || retryAfter == "" || len(got.Attempts) != attempts {
			t.Fatalf("number %d: %d, Retry-After %q, %+v", i, status, retryAfter, got)
		}
	}
	for _, s := range r.gw.Status().Services {
		for _, e := range s.Pool.Endpoints {
			if e.Failures > 0 || e.State != "closed" {
				t.Errorf("%s has a failure: %+v", e.Address, e)
			}
		}
	}
}

func TestRetryKeepsNotificationID(t *testing.T) {
	r := newFaultyGateway(t, mockprovider.Fault{Service: mockprovider.APNs, Status: 503, Times: 1}, "")
	got := r.send(t, apnsNotification(deviceToken))
	seen := r.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs})
	if len(got.Attempts) != 2 || len(seen) != 2 || seen[0].ID != got.ID || seen[1].ID != got.ID {
		t.Errorf("%+v; seen %+v", got, seen)
	}
}

func TestProviderRefusalIsAReceipt(t *testing.T) {
	for reason, refusal := range map[string]int{"PayloadTooLarge": 413, "BadDeviceToken": 400} {
		r := newFaultyGateway(t, mockprovider.Fault{Service: mockprovider.APNs, Status: refusal, Reason: reason}, "")
		status, _, got := r.postNotification(t, apnsNotification(deviceToken))
		if status != http.StatusOK || got.Status != "refused" || got.Reason != reason || len(got.Attempts) != 1 {
			t.Errorf("%d %s: %d %+v", refusal, reason, status, got)
		}
	}
}

func TestCallersCanLowerAttemptsButNotRaiseThem(t *testing.T) {
	for block, attempts := range map[string]int{"": 3, ", retry: {attempts: 2}": 2} {
		s := newMockEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.FCM, Status: 503}}}})
		fcm := strings.TrimSuffix(s.fcmBlock(), "}") + block
		r := shopGateway{testGateway: s.start(t, listenConfig+"retry: {attempts: 3, backoff: 1ms}\napps:\n"+s.appBlock("shop", fcm+"}")), mock: s.mock, http: http.DefaultClient}
		with := func(field string) string { return strings.Replace(fcmNotification, "{", "{"+field+",", 1) }
		status, _, got := r.postNotification(t, fcmNotification, "X-Max-Attempts: 9", "X-Pushsphere-Retry-Max-Attempts: 9", "Retry-After: 1", "Prefer: wait=soon")
		if status != http.StatusServiceUnavailable || len(got.Attempts) != attempts {
			t.Errorf("%d %+v, want %d attempts", status, got, attempts)
		}
		if status, _, got := r.postNotification(t, with(`"retry":{"attempts":9}`)); status != http.StatusServiceUnavailable || len(got.Attempts) != attempts {
			t.Errorf("a call with 9 attempts: %d %+v, want %d", status, got, attempts)
		}
		if status, _, got := r.postNotification(t, with(`"retry":{"attempts":1}`)); status != http.StatusServiceUnavailable || len(got.Attempts) != 1 {
			t.Errorf("a call with 1 attempt: %d %+v", status, got)
		}
		for _, field := range []string{`"attempts":9`, `"retry":{"attempts":11}`, `"retry":{"budget":"100%"}`, `"timeout":"never"`} {
			if status, _, _ := r.postNotification(t, with(field)); status != http.StatusBadRequest {
				t.Errorf("%s: %d", field, status)
			}
		}
	}
}

func TestEndpointWithoutTLSGetsNoRequest(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	}()
	s := newMockEnv(t)
	fcm := strings.Replace(s.fcmBlock(), strings.Join(s.ready.FCMEndpoints, "', '"), plain.Addr().String(), 1)
	r := shopGateway{testGateway: s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", fcm)), mock: s.mock, http: http.DefaultClient}
	status, retryAfter, got := r.postNotification(t, fcmNotification)
	if status != http.StatusServiceUnavailable || retryAfter == "" || got.Reason != "ALPN_NOT_H2" || len(got.Attempts) != 0 {
		t.Errorf("%d, Retry-After %q, %+v", status, retryAfter, got)
	}
}
