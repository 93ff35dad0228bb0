// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/sluice-push/sluice/engine/enginetest"
)

// TestAWebhookMissesNothingWhenAServerDiesAndThenItsGateway has two gateways at a cluster, of which the first tells the
// webhook, and the second accepts.
func TestAWebhookMissesNothingWhenAServerDiesAndThenItsGateway(t *testing.T) {
	servers, l := enginetest.NewCluster(t), listen(t)
	c := &cluster{street: newStreet(t), t: t}
	c.configure(servers.Account(t), "apps:\n"+c.app("shop", c.apns(), "webhooks: ["+l.block(t, "billing", "")+"]"))
	first := c.join(0)
	told := c.queued(first)
	until(func() bool { return l.heard(told) })
	second := c.join(0)
	var accepted []any
	for i := range 90 {
		switch i {
		case 30:
			servers.Kill(0)
		case 60:
			first.end(os.Kill)
		}
		accepted = append(accepted, c.queued(second))
	}
	for _, id := range accepted {
		until(func() bool { return l.heard(id) })
	}
	if len(l.bad) != 0 {
		t.Errorf("%v", l.bad)
	}
}

// queued has a gateway accept a notification for later. While it cannot, which it says, it is asked again.
func (c *cluster) queued(by *one) (id any) {
	c.t.Helper()
	for {
		status, answer := house{t: c.t, key: c.key, url: by.url}.ask("POST", "", apnsTo(device), "Prefer", "respond-async")
		switch status {
		case http.StatusAccepted:
			return answer["id"]
		case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			c.t.Log(answer)
		default:
			c.t.Fatal(fmt.Sprint(status, answer))
		}
	}
}
