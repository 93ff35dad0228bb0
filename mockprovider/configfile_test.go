// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/mockprovider"
)

func TestConfigIsParsedFromYAML(t *testing.T) {
	got, err := mockprovider.ParseConfig([]byte(`
listen: 0.0.0.0
advertise: push.test
endpoints: 2
apns_listen: ["0.0.0.0:2197"]
apns_manage_listen: "0.0.0.0:2196"
fcm_listen: ["0.0.0.0:4430"]
oauth_listen: "0.0.0.0:4431"
webpush_listen: "0.0.0.0:4432"
ledger_listen: "0.0.0.0:4433"
project_id: shop
access_token_lifetime: 1m
token_update_every: 20m
streams: { start: 2, max: 500, unadvertised: true, strict: true, shrink_on_4xx: true }
latency: lan
seed: 7
ledger_size: 1000
keep_content: true
quotas: documented
faults: [{ service: apns, status: 503 }]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := mockprovider.Config{
		Listen: "0.0.0.0", Advertise: "push.test", Endpoints: 2, APNsListen: []string{"0.0.0.0:2197"}, APNsManageListen: "0.0.0.0:2196",
		FCMListen: []string{"0.0.0.0:4430"}, OAuthListen: "0.0.0.0:4431", WebPushListen: "0.0.0.0:4432", LedgerListen: "0.0.0.0:4433",
		ProjectID: "shop", AccessTokenLifetime: time.Minute, TokenUpdateEvery: 20 * time.Minute,
		Streams: mockprovider.Streams{Start: 2, Max: 500, Unadvertised: true, Strict: true, ShrinkOn4xx: true},
		Latency: "lan", Seed: 7, LedgerSize: 1000, KeepContent: true,
		Script: mockprovider.Script{Faults: append([]mockprovider.Fault{{Service: "apns", Status: 503}}, mockprovider.DocumentedQuotas()...)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if empty, err := mockprovider.ParseConfig([]byte("\n# only defaults\n")); err != nil || !cmp.Equal(empty, mockprovider.Config{}) {
		t.Errorf("an empty file: %+v, %v", empty, err)
	}
}

func TestParseConfigNamesLineAndKeyOfMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"listen: x\nendpoint: 8\n":                  "mock: line 2: endpoint: no such key",
		"seed: 1\nendpoints: 1001\n":                "mock: line 2: endpoints: 1001 is out of range (allowed: 1 to 1000)",
		"seed: 1\n\nlatency: slow\n":                `mock: line 3: latency: "slow" is unknown (allowed: none, lan, typical, far)`,
		"streams: {start: 9, max: 3}\n":             "mock: line 1: streams: start is 9 (allowed: 1 to max, 3)",
		"quotas: all\n":                             `mock: line 1: quotas: "all" is unknown (allowed: documented)`,
		"seed: x\n":                                 "mock: line 1",
		"access_token_lifetime: 5\n":                "mock: line 1: access_token_lifetime: must be a duration (write it as",
		"latency: lan\nfaults:\n- {status: 42}\n":   "mock: line 3: faults[0].status",
		"listen: \"not an address\"\n":              "mock: line 1: listen:",
		"token_update_every: -1s\nseed: 2\n":        "mock: line 1: token_update_every:",
		"[1, 2]\n":                                  "mock: line 1",
		"faults:\n- {status: 500, tokens: x}\n":     "mock: line 2: tokens: no such key",
		"endpoints: -1\nfaults:\n- {share: 3}\n":    "mock: line 1: endpoints:",
		"endpoints: -1\nfaults:\n- {share: 3.5}\n ": "mock: line 3: faults[0].share",
	} {
		_, err := mockprovider.ParseConfig([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", text, err, want)
		}
	}
}

func TestAdvertisedHostIsInAllAddresses(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Advertise: "localhost"})
	ready := m.Ready(mockprovider.Files{})
	subscription := subscribe(t, m, mockprovider.Apple).Endpoint
	for _, text := range append([]string{ready.APNs, ready.APNsManage, ready.FCM, ready.TokenURL, ready.WebPush, ready.Ledger, ready.Script, ready.Subscriptions, subscription}, append(ready.APNsEndpoints, ready.FCMEndpoints...)...) {
		if !strings.Contains(text, "localhost:") {
			t.Errorf("%s does not have the host", text)
		}
	}
}

// FuzzParseConfig checks that every error names the file.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("listen: 127.0.0.1\nquotas: documented\nfaults: [{ service: apns, status: 503 }]"))
	f.Add([]byte("streams: {start: 1}\nendpoints: 3\nlatency: far\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := mockprovider.ParseConfig(text); err != nil && !strings.HasPrefix(err.Error(), "mock: ") {
			t.Fatal(err)
		}
	})
}
