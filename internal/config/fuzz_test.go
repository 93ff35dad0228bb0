// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"os"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

// FuzzParse checks that Parse never panics, and that it returns either a configuration or a list of
// errors, never both.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../examples/gateway.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(example), shopConfig, "", "a: &a [*a]", "apps: &x {shop: *x}", "? [a]\n: b\n", "apps: {? : {}}", "<<: {a: b}", "pool: !!binary aGk=", "- a", "apps: [[", "\xff",
	} {
		f.Add([]byte(seed), "SLUICE_APPS_SHOP_APNS_POOL_SIZE", "3")
	}
	f.Fuzz(func(t *testing.T, data []byte, name, value string) {
		cfg, err := config.Parse("gateway.yaml", data, []string{name + "=" + value})
		errs, _ := errors.AsType[config.Errors](err)
		if (cfg == nil) == (err == nil) || (err != nil && len(errs) == 0) {
			t.Errorf("cfg %v, err %v", cfg, err)
		}
	})
}
