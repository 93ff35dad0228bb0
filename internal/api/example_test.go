// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// echo accepts all notifications.
type echo struct{}

func (echo) Send(_ context.Context, c *push.Call) *push.Receipt {
	fmt.Println("sent:", c.App, c.Platform, c.Title)
	c.Receipt = push.Receipt{Outcome: push.Outcome{Verdict: push.Accepted}}
	return &c.Receipt
}

func (e echo) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, e.Send)
}

func Example() {
	key, hash := identity.NewKey() // the key is for the client, and the hash for the configuration
	auth, err := identity.New(identity.Config{
		Apps: []string{"shop"}, Keys: []identity.Key{{Name: "backend", Hash: hash, Apps: []string{"shop"}, Scopes: identity.Send}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler, err := api.New(api.Config{Sender: echo{}, Auth: auth})
	if err != nil {
		fmt.Println(err)
		return
	}
	post := func(body string) {
		r := httptest.NewRequest(http.MethodPost, "/v1/apps/shop/notifications", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("X-Request-ID", "example")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Print(w.Code, " ", w.Body)
	}
	post(`{"platform": "fcm", "topic": "news", "title": "Elections"}`)
	post(`{"platform": "fcm", "topic": "news", "priority": "urgent"}`)
	// Output:
	// sent: shop fcm Elections
	// 200 {"status":"accepted","attempts":[]}
	// 400 {"type":"https://sluice-push.github.io/problems/invalid-field","title":"A field is missing or not allowed","status":400,"detail":"priority: must be one of \"high\", \"normal\", \"low\"","field":"priority","request_id":"example"}
}
