// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// blockingSender blocks until its deadline.
type blockingSender struct{}

func (blockingSender) Send(ctx context.Context, c *push.Call) *push.Receipt {
	<-ctx.Done()
	c.Receipt = push.Receipt{ID: c.ID, Outcome: push.Outcome{Reason: "NO_ENDPOINT"}}
	return &c.Receipt
}

func (s blockingSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, s.Send)
}

func TestSendTimeoutAndPreferWait(t *testing.T) {
	for _, c := range []struct {
		prefer, key string
		want        time.Duration
	}{
		{"", "", 3 * time.Second},
		{"wait=2", "", 2 * time.Second},
		{"wait=2", "order-17", 2 * time.Second}, // a key keeps the send from being cancelled, but does not change its timeout
		{`handling=lenient, Wait="1"; x=y`, "", time.Second},
		{"wait=10", "", 3 * time.Second}, // never more than the gateway's timeout
		{"wait=0", "", 3 * time.Second},
		{"wait=-1", "", 3 * time.Second},
		{"wait=soon", "", 3 * time.Second},
		{"wait=9223372036854775807", "", 3 * time.Second},
	} {
		t.Run(c.prefer+" "+c.key, func(t *testing.T) { checkTimeout(t, c.prefer, c.key, c.want) })
	}
}

func checkTimeout(t *testing.T, prefer, idempotencyKey string, want time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		key, hash := identity.NewKey()
		handler, err := api.New(api.Config{
			Sender: blockingSender{}, Limits: api.Limits{SendTimeout: 3 * time.Second},
			Auth: newAuth(t, map[string][]testKey{"shop": {{Name: "test", Hash: hash, Scopes: []string{"send"}}}}),
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		request := httptest.NewRequest(http.MethodPost, "/v1/apps/shop/notifications", strings.NewReader(`{"platform":"fcm","token":"t"}`))
		request.Header.Set("Authorization", "Bearer "+key)
		if prefer != "" {
			request.Header.Set("Prefer", prefer)
		}
		if idempotencyKey != "" {
			request.Header.Set("Idempotency-Key", idempotencyKey)
		}
		res := httptest.NewRecorder()
		handler.ServeHTTP(res, request)
		if res.Code != http.StatusServiceUnavailable || res.Header().Get("Retry-After") == "" || time.Since(start) != want {
			t.Errorf("%d after %v: %s", res.Code, time.Since(start), res.Body)
		}
	})
}
