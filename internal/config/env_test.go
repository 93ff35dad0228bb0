// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sluice-push/sluice/internal/config"
)

func TestEnvironmentOverridesFile(t *testing.T) {
	cfg := parse(t, "listen: 127.0.0.1:1\n"+shopConfig,
		"SLUICE_LISTEN=0.0.0.0:80",
		"SLUICE_QUEUE_NATS_URL=nats://queue:4222",
		"SLUICE_APPS_SHOP_APNS_KEY_ID=ZZZZZZZZZZ",
		"SLUICE_APPS_SHOP_APNS_ENDPOINTS=127.0.0.1:1, [::1]:2",
		"SLUICE_APPS_SHOP_KEYS_0_SCOPES=send",
		"PATH=/bin")
	shop := cfg.Apps["shop"]
	got := []any{cfg.Listen, cfg.Queue.NATS.URL, shop.APNs.KeyID, shop.APNs.Endpoints[1].String(), shop.Keys[0].Scopes}
	want := []any{config.Address("0.0.0.0:80"), "nats://queue:4222", "ZZZZZZZZZZ", "[::1]:2", []string{"send"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestEnvironmentCanAddProviderToApp(t *testing.T) {
	cfg := parse(t, shopConfig, "SLUICE_APPS_SHOP_FCM_SERVICE_ACCOUNT_FILE=/run/secrets/shop.json")
	if fcm := cfg.Apps["shop"].FCM; fcm == nil || fcm.ServiceAccountFile != "/run/secrets/shop.json" || fcm.Pool.Size != 8 {
		t.Errorf("got %+v", fcm)
	}
}

func TestEmptyVariableIsIgnored(t *testing.T) {
	if cfg := parse(t, "zone: here\n"+shopConfig, "SLUICE_ZONE="); cfg.Zone != "here" {
		t.Errorf("zone %q", cfg.Zone)
	}
}

func TestUnknownVariableIsRejectedWithSuggestion(t *testing.T) {
	for env, want := range map[string]string{
		"SLUICE_LISTN=:1":                    `SLUICE_LISTN: no key is overridden by this variable (did you mean SLUICE_LISTEN?)`,
		"SLUICE_APPS_SHOP_FCM_PROJECT=x":     `SLUICE_APPS_SHOP_FCM_PROJECT: no key is overridden by this variable (did you mean SLUICE_APPS_SHOP_FCM_PROJECT_ID?)`,
		"SLUICE_APPS_SHIP_APNS_KEY_ID=x":     `SLUICE_APPS_SHIP_APNS_KEY_ID: no key is overridden by this variable (did you mean SLUICE_APPS_SHOP_APNS_KEY_ID?)`,
		"SLUICE_SOMETHING_ELSE_ALTOGETHER=1": `SLUICE_SOMETHING_ELSE_ALTOGETHER: no key is overridden by this variable`,
		"SLUICE_APPS_SHOP_APNS_KEY_ID=x":     `SLUICE_APPS_SHOP_APNS_KEY_ID: apps.shop.apns.key_id: "x": must be 10 capital letters and digits`,
	} {
		if diff := cmp.Diff(want, parseErrors(t, shopConfig, env)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// Kubernetes sets these variables in every pod for every Service of the namespace.
func TestKubernetesServiceLinksAreIgnored(t *testing.T) {
	parse(t, shopConfig, strings.Fields(`SLUICE_SERVICE_HOST=10.0.0.1 SLUICE_SERVICE_PORT=80 SLUICE_SERVICE_PORT_HTTP=80
		SLUICE_PORT=tcp://10.0.0.1:80 SLUICE_PORT_80_TCP=tcp://10.0.0.1:80 SLUICE_PORT_80_TCP_ADDR=10.0.0.1
		SLUICE_ADMIN_SERVICE_HOST=10.0.0.2 SLUICE_ADMIN_PORT_9090_TCP_PROTO=tcp`)...)
}

// The client and the commands that call a gateway read their API key from SLUICE_KEY.
func TestAPIKeyVariableIsNotAnOverride(t *testing.T) {
	parse(t, shopConfig, "SLUICE_KEY=secret")
	if got := parseErrors(t, shopConfig, "SLUICE_KEY=secret", "SLUICE_KEYS=x"); !strings.Contains(got, "SLUICE_KEYS: ") || strings.Contains(got, "SLUICE_KEY: ") {
		t.Errorf("got %s", got)
	}
}
