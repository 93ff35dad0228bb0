// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/config"
)

// withRetry returns a file with a retry block at the top level and another in the app's FCM block.
func withRetry(top, under string) string {
	return shopConfig + "    fcm:\n      service_account_file: shop.json\n      retry: {" + under + "}\nretry: {" + top + "}\n"
}

func TestAppCanOnlyLowerRetryLimits(t *testing.T) {
	for _, c := range []struct{ top, under, wrong string }{
		{"", "attempts: 2", ""},
		{"", "attempts: 6", ""},
		{"", "attempts: 7", "apps.shop.fcm.retry.attempts"},
		{"attempts: 8", "attempts: 7", ""},
		{"attempts: 1", "attempts: 2", "apps.shop.fcm.retry.attempts"},
		{"", "max_retry_after: 21s", "apps.shop.fcm.retry.max_retry_after"},
		{"", "budget: 16%", "apps.shop.fcm.retry.budget"},
		{"", "budget: 0%", ""},
		{"", "budget_floor: 11/s", "apps.shop.fcm.retry.budget_floor"},
		{"", "budget_floor: 601/min", "apps.shop.fcm.retry.budget_floor"},
		{"", "budget_floor: 60/min", ""},
	} {
		_, err := config.Parse("gateway.yaml", []byte(withRetry(c.top, c.under)), nil)
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("{%s} under {%s}: %v", c.under, c.top, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("{%s} under {%s}: %v, want an error about %s", c.under, c.top, err, c.wrong)
		}
	}
}

func TestRetryAttemptsDefault(t *testing.T) {
	for text, want := range map[string]int{withRetry("", ""): 6, withRetry("attempts: 1", ""): 1, withRetry("", "attempts: 1"): 1} {
		if got := parse(t, text).Apps["shop"].FCM.Retry; got.Attempts != want || got.Backoff != 50*time.Millisecond {
			t.Errorf("%+v, want %d attempts and otherwise the defaults", got, want)
		}
	}
	if _, err := config.Parse("gateway.yaml", []byte(withRetry("attempts: 0", "")), nil); err == nil {
		t.Error("attempts: 0 was accepted")
	}
}

func TestProviderRulesReplaceTopLevelRules(t *testing.T) {
	top := "rules: [{reason: TopLevel, stop: true}]"
	if got := parse(t, withRetry(top, "attempts: 2")).Apps["shop"].FCM.Retry.Rules; len(got) != 1 || got[0].Reason != "TopLevel" {
		t.Errorf("inherited %+v", got)
	}
	own := "rules: [{verdict: unavailable, min_wait: 10s, backoff: 10s, max_backoff: 1m}]"
	got := parse(t, withRetry(top, own)).Apps["shop"].FCM.Retry.Rules
	want := config.Rule{Verdict: "unavailable", MinWait: 10 * time.Second, Backoff: 10 * time.Second, MaxBackoff: time.Minute}
	if len(got) != 1 || got[0] != want {
		t.Errorf("own %+v", got)
	}
}
