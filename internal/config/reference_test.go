// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

// TestReferencePageIsUpToDate compares docs/reference/configuration.md with the code. After a change,
// make reference writes the page.
func TestReferencePageIsUpToDate(t *testing.T) {
	const page = "../../docs/reference/configuration.md"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(page, []byte(config.Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil || string(text) != config.Reference() {
		t.Errorf("%s does not match the code, update it with: make reference (%v)", page, err)
	}
}

var referenceRow = regexp.MustCompile("(?m)^\\| ([^|]*)\\|.*\\| `\\w+: ([^`]*)` \\| `(SLUICE_[A-Z0-9_]+)` \\|$")

// TestExamplesInReferenceAreValid sets each key to its example with its environment variable.
func TestExamplesInReferenceAreValid(t *testing.T) {
	rows := referenceRow.FindAllStringSubmatch(config.Reference(), -1)
	if len(rows) < 120 {
		t.Fatalf("only %d rows", len(rows))
	}
	for _, row := range rows {
		value, variable := strings.Trim(row[2], `[]"`), strings.Replace(row[3], "APPS_NAME_", "APPS_SHOP_", 1)
		if value == "" {
			t.Errorf("%s has no example", variable)
		}
		queue, signIn := "dir: queue", ""
		if strings.Contains(variable, "_SIGN_IN_") {
			signIn = ", sign_in: {client_id: sluice}"
		}
		if strings.HasPrefix(variable, "SLUICE_QUEUE_NATS") {
			queue = `nats: {url: "nats://nats.internal", cert_file: a.pem, key_file: a.key}`
		}
		_, err := config.Parse("gateway.yaml", []byte(`apps:
  shop:
    keys: [{name: backend, hash: "`+hash+`"}]
    apns: {key_file: AuthKey.p8, key_id: ABC123DEFG, team_id: DEF123GHIJ, topic: com.example.shop}
    fcm: {}
    webpush: {vapid_key_file: vapid.pem, subject: "mailto:ops@example.com"}
    webhooks: [{name: crm, url: "https://example.com/", secret_file: crm.secret}]
tls: {cert_file: a.pem, key_file: a.key, client_ca_file: ca.pem}
auth:
  keys: [{name: ops, hash: "`+strings.Replace(hash, "sha256:9", "sha256:1", 1)+`", apps: ["*"]}]
  certificates: [{name: orders, apps: [shop]}]
  oidc: [{issuer: "https://login.example.com", audience: [sluice], rules: [{claim: groups, value: ops, apps: [shop], scopes_claim: scope}]`+signIn+`}]
console: {url: "https://push.example.com/console/"}
proxy: {url: "https://proxy.internal:3128"}
tracing: {endpoint: "https://collector:4317", cert_file: a.pem, key_file: a.key}
queue: {`+queue+`}
retry: {rules: [{}]}
quota: {apns: {scopes: [{name: bulk, rate: 1/s}]}}
`), []string{variable + "=" + value})
		if err != nil && (strings.Contains(err.Error(), variable) || strings.Contains(err.Error(), "no key is overridden")) {
			t.Errorf("%s=%s: %v", variable, value, err)
		}
	}
}
