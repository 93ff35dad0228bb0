// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

func TestStuckProviderDoesNotUseUpAllConcurrency(t *testing.T) {
	silent := mockprovider.Fault{Service: mockprovider.FCM, DropResponse: true}
	r := newShopGateway(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{silent}}},
		"limits: {in_flight: 16, send_timeout: 10m}\nretry: {attempt_timeout: 2m}\n")
	ctx, leave := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer leave()
	hang := func(path, media, body string) {
		callers.Go(func() {
			request, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/apps/shop/notifications"+path, strings.NewReader(body))
			request.Header.Set("Content-Type", media)
			request.Header.Set("Authorization", "Bearer "+r.key)
			if answer, err := r.http.Do(request); err == nil {
				_, _ = io.Copy(io.Discard, answer.Body) // until it leaves
				answer.Body.Close()
			}
		})
	}
	hang("/batch", "application/x-ndjson", strings.Repeat(fcmNotification+"\n", 27))
	waitUntil(func() bool { s := r.gw.Status().Concurrency; return s.InFlight == 11 && s.Waiting == 16 })
	hang("", "application/json", fcmNotification)
	waitUntil(func() bool { return r.gw.Status().Concurrency.InFlight == 12 })

	answer := r.postTo(t, "", r.key, "application/json", strings.NewReader(fcmNotification))
	answer.Body.Close()
	if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") != "1" {
		t.Errorf("status %d, Retry-After %q", answer.StatusCode, answer.Header.Get("Retry-After"))
	}
	if got := r.send(t, apnsNotification(deviceToken)); got.Status != "accepted" {
		t.Errorf("the other provider: %+v", got)
	}
	leave()
	waitUntil(func() bool { s := r.gw.Status().Concurrency; return s.InFlight == 0 && s.Waiting == 0 })
}
