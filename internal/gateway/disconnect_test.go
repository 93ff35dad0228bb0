// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
)

// startRequest sends a request for the app shop. disconnect closes its connection and returns when the
// client has returned.
func (h testGateway) startRequest(path, contentType, body string, headers ...string) (disconnect func()) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/apps/shop/notifications"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.key)
	r.Header.Set("Content-Type", contentType)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		if response, err := http.DefaultClient.Do(r); err == nil {
			_ = response.Body.Close()
		}
	}()
	return func() {
		cancel()
		testwait.For(h.t, returned, "the client")
	}
}

// ends returns the status with which the notifications in the history of shop have ended, by ID, as soon as
// all of want have ended.
func (h testGateway) ends(want map[string]int) (ends map[string]string) {
	h.t.Helper()
	ends = map[string]string{}
	missing := len(want)
	h.readFeed(func(data string) bool {
		var e struct {
			ID, Status string
			Receipt    json.RawMessage
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			h.t.Fatal(err)
		}
		if e.Receipt != nil {
			ends[e.ID] = e.Status
			missing -= min(want[e.ID], 1)
		}
		return missing > 0
	})
	return ends
}

// TestDisconnectRecordsWhatArrived disconnects after requests have reached APNs and before its responses.
// The history has the result of each notification that arrived.
func TestDisconnectRecordsWhatArrived(t *testing.T) {
	for name, c := range map[string]struct {
		path, contentType, body string
		headers                 []string
		arrive                  int
	}{
		"single":          {"", "application/json", apnsNotification(deviceToken), nil, 1},
		"single with key": {"", "application/json", apnsNotification(deviceToken), []string{"Idempotency-Key", "k"}, 1},
		"batch":           {"/batch", "application/x-ndjson", strings.Repeat(apnsNotification(deviceToken)+"\n", 300), nil, 50},
		"batch as array":  {"/batch", "application/json", "[" + strings.TrimSuffix(strings.Repeat(apnsNotification(deviceToken)+",", 300), ",") + "]", nil, 50},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newMockEnv(t, slowAPNs(time.Second)), t.TempDir()
			h := s.start(t, listenConfig+strings.Replace(slowTimeouts, "limits: {", "limits: { batch_in_flight: 128,", 1)+
				"queue: {dir: '"+dir+"'}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
			disconnect := h.startRequest(c.path, c.contentType, c.body, c.headers...)
			testwait.Until(t, func() bool { return h.inFlight() >= c.arrive }, "requests are in flight")
			disconnect()
			testwait.Until(t, func() bool { return h.inFlight() == 0 }, "the responses arrive")
			accepted := s.mock.Ledger().AcceptedByID()
			ends := h.ends(accepted)
			for id, status := range ends {
				if (status == "accepted") != (accepted[id] == 1) {
					t.Errorf("recorded as %s, and APNs accepted it %d times", status, accepted[id])
				}
			}
			if len(accepted) < c.arrive || len(accepted) > 2*128 {
				t.Errorf("%d arrived", len(accepted))
			}
		})
	}
}
