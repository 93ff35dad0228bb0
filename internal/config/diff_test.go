// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/config"
)

func TestDiffListsChangesWithoutSecrets(t *testing.T) {
	hash := func(digit string) string { return "sha256:" + strings.Repeat(digit, 64) }
	file := func(text string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("/etc/gateway.yaml", []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	from := file(`
pool: {size: 8}
apps:
  shop: {keys: [{name: a, hash: "` + hash("1") + `", scopes: [send]}], fcm: {service_account_file: a.json}}
  bank: {keys: [{name: a, hash: "` + hash("2") + `", scopes: [send]}], fcm: {service_account_file: a.json}}
`)
	to := file(`
pool: {size: 4}
limits: {body: 2MiB}
quota: {fcm: {topics_rate: 100/s}}
retry: {budget: 5%}
apps:
  shop: {keys: [{name: a, hash: "` + hash("3") + `", scopes: [send, read]}], fcm: {service_account_file: b.json, pool: {size: 8}, retry: {budget: 5%}}}
  news: {keys: [{name: a, hash: "` + hash("2") + `", scopes: [send]}], fcm: {service_account_file: a.json}}
`)
	var got []string
	for _, change := range config.Diff(from, to) {
		got = append(got, change.String())
	}
	want := []string{
		"apps.bank: (set) → (none)",
		"apps.news: (none) → (new)",
		"apps.shop.fcm.quota.topics_rate: (none) → 100/s",
		"apps.shop.fcm.retry.budget: 15% → 5%",
		"apps.shop.fcm.service_account_file: /etc/a.json → /etc/b.json",
		"apps.shop.keys[0].hash: (secret) → (secret)",
		"apps.shop.keys[0].scopes: [send] → [send read]",
		"limits.body: 1MiB → 2MiB",
		"pool.size: 8 → 4",
		"quota.fcm.topics_rate: (none) → 100/s",
		"retry.budget: 15% → 5%",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if same := config.Diff(from, from); len(same) != 0 {
		t.Error(same)
	}
}
