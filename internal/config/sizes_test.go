// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

func TestSizeUnits(t *testing.T) {
	for text, want := range map[string]config.Bytes{"1TiB": 1 << 40, "64MiB": 64 << 20, "1B": 1} {
		var got config.Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
}
