// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"math"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

func TestSizeUnits(t *testing.T) {
	for text, want := range map[string]config.Bytes{"1TiB": 1 << 40, "64MiB": 64 << 20, "1B": 1, "5000000000B": 5e9, "4294967296 B": 1 << 32, "9223372036854775807B": math.MaxInt64, "8388607TiB": 8388607 << 40} {
		var got config.Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"9223372036854775808B", "8388608TiB", "9007199254740992KiB", "-1B", "1", "B", "1.5GiB"} {
		var got config.Bytes
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%s is %d", text, got)
		}
	}
}
