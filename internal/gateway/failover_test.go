// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// TestWebhookMissesNoEventWhenNATSServerAndGatewayDie runs two gateways with a NATS cluster. The
// first one runs the webhook, the second one accepts notifications.
func TestWebhookMissesNoEventWhenNATSServerAndGatewayDie(t *testing.T) {
	servers, l := jetstreamtest.NewCluster(t), newWebhookReceiver(t)
	c := &cluster{mockEnv: newMockEnv(t), t: t}
	c.writeConfig(servers.Account(t), "apps:\n"+c.appBlock("shop", c.apnsBlock(), "webhooks: ["+l.block(t, "billing", "")+"]"))
	first := c.startGateway(0)
	id := c.enqueue(first)
	testwait.Until(t, func() bool { return l.received(id) }, "the receiver has the event")
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
		testwait.Until(t, func() bool { return l.received(id) }, "the receiver has the event")
	}
	if len(l.invalid) != 0 {
		t.Errorf("%v", l.invalid)
	}
}

// enqueue sends an asynchronous notification to a gateway. It repeats the call while the gateway
// cannot accept it.
func (c *cluster) enqueue(to *gatewayProcess) (id any) {
	c.t.Helper()
	for {
		status, response := testGateway{t: c.t, key: c.key, url: to.url}.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
		switch status {
		case http.StatusAccepted:
			return response["id"]
		case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			c.t.Log(response)
		default:
			c.t.Fatal(fmt.Sprint(status, response))
		}
	}
}
