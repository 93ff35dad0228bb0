// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
)

// TestWebhookMissesNoEventWhenNATSServerAndGatewayDie has two gateways at a cluster, of which the first tells the
// webhook, and the second accepts.
func TestWebhookMissesNoEventWhenNATSServerAndGatewayDie(t *testing.T) {
	servers, l := jetstreamtest.NewCluster(t), newWebhookReceiver(t)
	c := &cluster{mockEnv: newMockEnv(t), t: t}
	c.writeConfig(servers.Account(t), "apps:\n"+c.appBlock("shop", c.apnsBlock(), "webhooks: ["+l.block(t, "billing", "")+"]"))
	first := c.startGateway(0)
	told := c.enqueue(first)
	waitUntil(func() bool { return l.received(told) })
	second := c.startGateway(0)
	var accepted []any
	for i := range 90 {
		switch i {
		case 30:
			servers.Kill(0)
		case 60:
			first.stop(os.Kill)
		}
		accepted = append(accepted, c.enqueue(second))
	}
	for _, id := range accepted {
		waitUntil(func() bool { return l.received(id) })
	}
	if len(l.bad) != 0 {
		t.Errorf("%v", l.bad)
	}
}

// enqueue has a gateway accept a notification for later. While it cannot, which it says, it is asked again.
func (c *cluster) enqueue(by *gatewayProcess) (id any) {
	c.t.Helper()
	for {
		status, answer := testGateway{t: c.t, key: c.key, url: by.url}.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
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
