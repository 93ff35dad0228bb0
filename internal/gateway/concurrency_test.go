// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

func TestStuckProviderDoesNotUseUpAllConcurrency(t *testing.T) {
	unresponsive := mockprovider.Fault{Service: mockprovider.FCM, DropResponse: true}
	r := newShopGateway(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{unresponsive}}},
		"limits: {in_flight: 16, send_timeout: 10m}\nretry: {attempt_timeout: 2m}\n")
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	startCall := func(path, contentType, body string) {
		callers.Go(func() {
			request, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/apps/shop/notifications"+path, strings.NewReader(body))
			request.Header.Set("Content-Type", contentType)
			request.Header.Set("Authorization", "Bearer "+r.key)
			if response, err := r.http.Do(request); err == nil {
				_, _ = io.Copy(io.Discard, response.Body) // until ctx ends
				response.Body.Close()
			}
		})
	}
	startCall("/batch", "application/x-ndjson", strings.Repeat(fcmNotification+"\n", 27))
	testwait.Until(t, func() bool { s := r.gw.Status().Concurrency; return s.InFlight == 11 && s.Waiting == 16 }, "11 are in flight and 16 wait")
	startCall("", "application/json", fcmNotification)
	testwait.Until(t, func() bool { return r.gw.Status().Concurrency.InFlight == 12 }, "12 are in flight")

	response := r.postTo(t, "", r.key, "application/json", strings.NewReader(fcmNotification))
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" {
		t.Errorf("status %d, Retry-After %q", response.StatusCode, response.Header.Get("Retry-After"))
	}
	if got := r.send(t, apnsNotification(deviceToken)); got.Status != "accepted" {
		t.Errorf("a notification to the other provider: %+v", got)
	}
	testwait.Until(t, func() bool {
		attempts := 0
		for _, s := range r.gw.Status().Services {
			attempts += s.Pool.InFlight
		}
		return attempts == 12
	}, "12 attempts have begun")
	cancel()
	testwait.Until(t, func() bool { s := r.gw.Status().Concurrency; return s.InFlight == 12 && s.Waiting == 0 }, "only attempts in flight go on without their callers")
	if err := r.mock.SetScript(mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.FCM, Reset: &mockprovider.Reset{}}}}); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, func() bool { return r.gw.Status().Concurrency.InFlight == 0 }, "none is in flight after the connections have ended")
}
