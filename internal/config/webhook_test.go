// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

const webhookSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// withWebhooks returns a file whose app has webhooks.
func withWebhooks(hooks string) string {
	return strings.Replace(shopConfig, "  shop:\n", "  shop:\n    webhooks: ["+hooks+"]\n", 1)
}

func TestWebhookNetworks(t *testing.T) {
	cfg, err := config.Parse("gateway.yaml", []byte("queue: {dir: data}\n"+withWebhooks(
		"{name: a, url: 'https://example.com/x', secret: "+webhookSecret+", events: [unregistered], networks: [10.1.2.3/8, 'fd00::/8']}")), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.Apps["shop"].Webhooks[0]
	if got.URL != "https://example.com/x" || got.Secret != webhookSecret || got.Events[0] != "unregistered" || got.Networks[0] != "10.0.0.0/8" || got.Networks[1] != "fd00::/8" {
		t.Errorf("%+v", got)
	}
}

func TestInvalidWebhookErrorsHideSecrets(t *testing.T) {
	for hooks, want := range map[string]string{
		"{name: a, url: 'https://example.com', secret: " + webhookSecret + "}":                               "apps.shop.webhooks: needs the queue, which keeps the events: set queue.dir or queue.nats.url",
		"{name: a, url: 'https://example.com'}":                                                              "apps.shop.webhooks[0]: signs with one secret: set secret_file or secret",
		"{name: a, url: 'https://example.com', secret_file: f, secret: " + webhookSecret + "}":               "apps.shop.webhooks[0]: signs with one secret",
		"{name: a, url: 'http://CANARY.example.com', secret_file: f}":                                        "webhooks[0].url: must be an https URL",
		"{name: a, url: 'https://example.com', secret: CANARY}":                                              "webhooks[0].secret: must be whsec_ and 24 to 64 bytes in base64",
		"{name: a, url: 'https://example.com', secret_file: f, networks: [10.0.0.1]}":                        `networks[0]: "10.0.0.1": must be a network as address/length, such as "10.0.0.0/8"`,
		"{name: a, url: 'https://e.com', secret_file: f}, {name: a, url: 'https://e.com/b', secret_file: f}": `webhooks[1].name: "a" is the name of another webhook of this app`,
	} {
		if got := parseErrors(t, withWebhooks(hooks)); !strings.Contains(got, want) || strings.Contains(got, "CANARY") || strings.Contains(got, webhookSecret) {
			t.Errorf("%s:\n%s\nwant %s", hooks, got, want)
		}
	}
}
