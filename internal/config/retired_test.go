// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRenamedKeysSuggestTheNewName(t *testing.T) {
	inFCM := strings.Replace(shopConfig, "apns: {", "fcm: {OLD}\n    apns: {", 1)
	for _, c := range []struct{ file, want string }{
		{shopConfig + "pool: {breaker: {trial: 10s}}\n", "gateway.yaml:5:18: pool.breaker.trial: unknown key (did you mean probe_timeout?)"},
		{strings.Replace(inFCM, "OLD", "service_account_file: a.json, pool: {breaker: {trial: 10s}}", 1),
			"gateway.yaml:4:58: apps.shop.fcm.pool.breaker.trial: unknown key (did you mean probe_timeout?)"},
		{shopConfig + "retry: {rules: [{least: 10s}]}\n", "gateway.yaml:5:18: retry.rules[0].least: unknown key (did you mean min_wait?)"},
		{shopConfig + "quota: {shared: {apart: 2%}}\n", "gateway.yaml:5:18: quota.shared.apart: unknown key (did you mean fallback_share?)"},
		{shopConfig + "history: {keep_keys: 24h}\n", "gateway.yaml:5:11: history.keep_keys: unknown key (did you mean idempotency_ttl?)"},
		{shopConfig + "limits: {send_time: 25s}\n", "gateway.yaml:5:10: limits.send_time: unknown key (did you mean send_timeout?)"},
		{shopConfig + "limits: {target_time: 1s}\n", "gateway.yaml:5:10: limits.target_time: unknown key (did you mean target_latency?)"},
		{shopConfig + "limits: {body_time: 15s}\n", "gateway.yaml:5:10: limits.body_time: unknown key (did you mean body_timeout?)"},
		{shopConfig + "limits: {dead_tokens: 24h}\n", "gateway.yaml:5:10: limits.dead_tokens: unknown key (did you mean unregistered_ttl?)"},
	} {
		if diff := cmp.Diff(c.want, parseErrors(t, c.file)); diff != "" {
			t.Errorf("%s-want +got:\n%s", c.file, diff)
		}
	}
}

func TestVariablesOfRenamedKeysSuggestTheNewName(t *testing.T) {
	for old, replacement := range map[string]string{
		"SLUICE_POOL_BREAKER_TRIAL":                "SLUICE_POOL_BREAKER_PROBE_TIMEOUT",
		"SLUICE_APPS_SHOP_APNS_POOL_BREAKER_TRIAL": "SLUICE_APPS_SHOP_APNS_POOL_BREAKER_PROBE_TIMEOUT",
		"SLUICE_APPS_SHOP_FCM_POOL_BREAKER_TRIAL":  "SLUICE_APPS_SHOP_FCM_POOL_BREAKER_PROBE_TIMEOUT", // a block that the file does not contain
		"SLUICE_RETRY_RULES_0_LEAST":               "SLUICE_RETRY_RULES_0_MIN_WAIT",
		"SLUICE_QUOTA_SHARED_APART":                "SLUICE_QUOTA_SHARED_FALLBACK_SHARE",
		"SLUICE_HISTORY_KEEP_KEYS":                 "SLUICE_HISTORY_IDEMPOTENCY_TTL",
		"SLUICE_LIMITS_SEND_TIME":                  "SLUICE_LIMITS_SEND_TIMEOUT",
		"SLUICE_LIMITS_TARGET_TIME":                "SLUICE_LIMITS_TARGET_LATENCY",
		"SLUICE_LIMITS_BODY_TIME":                  "SLUICE_LIMITS_BODY_TIMEOUT",
		"SLUICE_LIMITS_DEAD_TOKENS":                "SLUICE_LIMITS_UNREGISTERED_TTL",
	} {
		want := old + ": no key is overridden by this variable (did you mean " + replacement + "?)"
		if diff := cmp.Diff(want, parseErrors(t, shopConfig+"retry: {rules: [{reason: x}]}\n", old+"=1s")); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}
