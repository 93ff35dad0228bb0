// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/config"
)

// testValues contains two values, both different from the default, for every key that is allowed at
// the top level and in a provider block.
var testValues = map[string][2]string{
	"pool.size":                  {"3", "4"},
	"pool.max_age":               {"1m", "2m"},
	"pool.idle_timeout":          {"3m", "4m"},
	"pool.in_flight":             {"7", "9"},
	"pool.connections":           {"2", "3"},
	"pool.fail_fast":             {"true", "true"},
	"pool.picker":                {"least_loaded", "least_loaded"},
	"pool.max_ejected":           {"20%", "30%"},
	"pool.breaker.consecutive":   {"6", "7"},
	"pool.breaker.failure_rate":  {"20%", "30%"},
	"pool.breaker.min_outcomes":  {"20", "30"},
	"pool.breaker.window":        {"6s", "7s"},
	"pool.breaker.ejection":      {"11s", "12s"},
	"pool.breaker.max_ejection":  {"1m", "2m"},
	"pool.breaker.probe_timeout": {"15s", "20s"},
	"pool.outlier.off":           {"true", "true"},
	"pool.outlier.min_endpoints": {"6", "7"},
	"pool.outlier.min_outcomes":  {"50", "60"},
	"pool.outlier.min_failures":  {"20%", "30%"},
	"pool.outlier.slow_factor":   {"5", "6"},
	"pool.outlier.slow_by":       {"200ms", "300ms"},
	"retry.attempts":             {"4", "2"},
	"retry.attempt_timeout":      {"2s", "3s"},
	"retry.backoff":              {"10ms", "20ms"},
	"retry.throttled_backoff":    {"2s", "3s"},
	"retry.max_backoff":          {"8s", "9s"},
	"retry.retry_after":          {"stop", "ignore"},
	"retry.max_retry_after":      {"30s", "6s"},
	"retry.budget":               {"20%", "5%"},
	"retry.budget_floor":         {"4/s", "2/s"},
	"retry.rules":                {"[{stop: true}]", "[{verdict: unknown, stop: true}]"},
	"quota.rate":                 {"100/s", "200/s"},
	"quota.device_rate":          {"240/min", "1/s"},
	"quota.topic_rate":           {"1000/s", "2000/s"},
	"quota.device_sustained":     {"5000/h", "4000/h"},
	"quota.collapsible_rate":     {"20/h", "10/h"},
	"quota.topics_rate":          {"50/s", "60/s"},
	"quota.subscription_rate":    {"1000/s", "2000/s"},
	"quota.scopes":               {"[{name: night, lanes: [bulk], rate: 5/s}]", "[{name: shop, apps: [shop], rate: 6/s}]"},
}

// inheritConfig returns a file that sets the keys of top to their first value at the top level, and
// the keys of under to their second value in the FCM block. The apps come before the top-level
// blocks, because the order in a file must not matter.
func inheritConfig(top, under map[string]bool) string {
	var b strings.Builder
	b.WriteString(shopConfig + "    fcm:\n      service_account_file: shop.json\n")
	for _, block := range []string{"pool", "retry", "quota"} {
		fmt.Fprintf(&b, "      %s: %s\n", block, flowMapping(block, under, 1))
	}
	for _, block := range []string{"pool", "retry"} {
		fmt.Fprintf(&b, "%s: %s\n", block, flowMapping(block, top, 0))
	}
	fmt.Fprintf(&b, "quota: {fcm: %s}\n", flowMapping("quota", top, 0))
	return b.String()
}

// flowMapping returns the chosen keys of a block as {key: value, block: {key: value}}.
func flowMapping(block string, chosen map[string]bool, which int) string {
	var keys []string
	nested := map[string][]string{}
	for _, path := range slices.Sorted(maps.Keys(chosen)) {
		key, inside := strings.CutPrefix(path, block+".")
		if !inside || !chosen[path] {
			continue
		}
		if outer, inner, found := strings.Cut(key, "."); found {
			nested[outer] = append(nested[outer], inner+": "+testValues[path][which])
			continue
		}
		keys = append(keys, key+": "+testValues[path][which])
	}
	for outer, inner := range nested {
		keys = append(keys, outer+": {"+strings.Join(inner, ", ")+"}")
	}
	return "{" + strings.Join(keys, ", ") + "}"
}

// keyValues returns the value of every key of a block, by path.
func keyValues(path string, v reflect.Value, into map[string]any) map[string]any {
	for i := range v.NumField() {
		at := path + "." + v.Type().Field(i).Tag.Get("name")
		if field := v.Field(i); field.Kind() == reflect.Struct && field.Type() != reflect.TypeFor[config.Rate]() {
			keyValues(at, field, into)
		} else {
			into[at] = field.Interface()
		}
	}
	return into
}

func effectiveValues(fcm *config.FCM) map[string]any {
	all := keyValues("pool", reflect.ValueOf(fcm.Pool), map[string]any{})
	keyValues("retry", reflect.ValueOf(fcm.Retry), all)
	return keyValues("quota", reflect.ValueOf(fcm.Quota), all)
}

func TestProviderBlocksInheritTopLevelKeys(t *testing.T) {
	nowhere := effectiveValues(parse(t, inheritConfig(nil, nil)).Apps["shop"].FCM)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(nowhere)), slices.Sorted(maps.Keys(testValues))); diff != "" {
		t.Fatalf("testValues must contain every key (-keys +testValues):\n%s", diff)
	}
	all := map[string]bool{}
	for path := range testValues {
		all[path] = true
	}
	atTop := effectiveValues(parse(t, inheritConfig(all, nil)).Apps["shop"].FCM)
	below := effectiveValues(parse(t, inheritConfig(nil, all)).Apps["shop"].FCM)
	for path := range testValues {
		if cmp.Equal(atTop[path], nowhere[path]) || cmp.Equal(below[path], nowhere[path]) {
			t.Errorf("%s has no effect", path)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		top, under := drawKeys(r, "top"), drawKeys(r, "under")
		cfg, err := config.Parse("gateway.yaml", []byte(inheritConfig(top, under)), nil)
		if err != nil {
			r.Fatal(err)
		}
		want := map[string]any{}
		for path := range testValues {
			switch {
			case under[path]:
				want[path] = below[path]
			case top[path]:
				want[path] = atTop[path]
			default:
				want[path] = nowhere[path]
			}
		}
		if diff := cmp.Diff(want, effectiveValues(cfg.Apps["shop"].FCM)); diff != "" {
			r.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func drawKeys(r *rapid.T, label string) map[string]bool {
	chosen := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(testValues)) {
		chosen[path] = rapid.Bool().Draw(r, label+" "+path)
	}
	return chosen
}

func TestProviderOverridesAreIsolated(t *testing.T) {
	all := map[string]bool{}
	for path := range testValues {
		all[path] = true
	}
	cfg, bare := parse(t, inheritConfig(nil, all)), parse(t, shopConfig)
	if diff := cmp.Diff(bare.Apps["shop"].APNs, cfg.Apps["shop"].APNs); diff != "" {
		t.Errorf("-without +with the FCM block:\n%s", diff)
	}
	if diff := cmp.Diff(bare.Pool, cfg.Pool); diff != "" {
		t.Errorf("-without +with the FCM block:\n%s", diff)
	}
}

func TestEnvironmentOverridesAreInherited(t *testing.T) {
	cfg := parse(t, shopConfig, "SLUICE_POOL_SIZE=3", "SLUICE_POOL_IN_FLIGHT=5", "SLUICE_APPS_SHOP_APNS_POOL_IN_FLIGHT=6")
	if pool := cfg.Apps["shop"].APNs.Pool; pool.Size != 3 || pool.InFlight != 6 || pool.MaxAge == 0 {
		t.Errorf("got %+v", pool)
	}
}

func TestFCMRateDefault(t *testing.T) {
	const fcm = "apps: {shop: {keys: [{name: a, hash: \"" + hash + "\"}], fcm: {service_account_file: a.json%s}}}\n"
	for _, c := range []struct {
		top, app string
		want     config.Rate
	}{
		{"", "", config.Rate{Count: 600000, Per: time.Minute}},
		{"quota: {fcm: {device_rate: 240/min}}\n", "", config.Rate{Count: 600000, Per: time.Minute}},
		{"quota: {fcm: {rate: 100/s}}\n", "", config.Rate{Count: 100, Per: time.Second}},
		{"quota: {fcm: {rate: 100/s}}\n", ", quota: {rate: none}", config.Rate{}},
		{"quota: {fcm: {rate: none}}\n", "", config.Rate{}},
	} {
		cfg := parse(t, c.top+fmt.Sprintf(fcm, c.app))
		if got := cfg.Apps["shop"].FCM.Quota.Rate; got != c.want {
			t.Errorf("%q %q: %v, want %v", c.top, c.app, got, c.want)
		}
		if cfg.Quota.APNs.Rate != (config.Rate{}) {
			t.Errorf("the APNs rate is %v, want none", cfg.Quota.APNs.Rate)
		}
	}
}

func TestBudgetFloorMustBeAboveZero(t *testing.T) {
	_, err := config.Parse("gateway.yaml", []byte(shopConfig+"retry: {budget_floor: none}\n"), nil)
	if err == nil || !strings.Contains(err.Error(), "retry.budget_floor: must be above zero") {
		t.Errorf("%v", err)
	}
}
