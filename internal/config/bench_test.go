// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

// BenchmarkParse parses a configuration with 1,000 apps, as every reload does.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	text.WriteString("apps:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "  app-%d:\n    keys: [ { name: k, hash: \"sha256:%064x\", scopes: [ send ] } ]\n", i, i)
		text.WriteString("    apns: { key_file: key.p8, key_id: ABC123DEFG, team_id: DEF123GHIJ, topic: com.example.app }\n")
		text.WriteString("    fcm: { service_account_file: account.json }\n")
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := config.Parse("gateway.yaml", []byte(text.String()), nil); err != nil {
			b.Fatal(err)
		}
	}
}
