// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
)

// manyApps writes a configuration with n apps and their key files, and returns its path and its
// text. Seven apps of ten have an APNs key of their own, and seven of ten a service account of
// their own.
func manyApps(b *testing.B, n int) (path, text string) {
	b.Helper()
	dir := b.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	var file strings.Builder
	file.WriteString(listenConfig + "apps:\n")
	for i := range n {
		fmt.Fprintf(&file, "  app-%d:\n    keys: [{name: backend, hash: \"sha256:%x\"}]\n", i, sha256.Sum256([]byte{byte(i >> 8), byte(i)}))
		if i%10 < 7 {
			fmt.Fprintf(&file, "    apns: {key_file: %q, key_id: KEY%07d, team_id: DEF123GHIJ, topic: com.example.app}\n", ecKeyFile(b, dir, i), i)
		}
		if i%10 >= 3 {
			account, err := json.Marshal(map[string]string{
				"type": "service_account", "project_id": fmt.Sprintf("project-%d", i), "private_key_id": fmt.Sprintf("%040x", i), "private_key": private,
				"client_email": fmt.Sprintf("push@project-%d.iam.gserviceaccount.com", i), "token_uri": "https://oauth2.googleapis.com/token",
			})
			if err != nil {
				b.Fatal(err)
			}
			name := filepath.Join(dir, fmt.Sprintf("account%d.json", i))
			if err := os.WriteFile(name, account, 0o600); err != nil {
				b.Fatal(err)
			}
			fmt.Fprintf(&file, "    fcm: {service_account_file: %q}\n", name)
		}
	}
	return filepath.Join(dir, "gateway.yaml"), file.String()
}

const manyAppsCount = 10_000

// BenchmarkStartWithManyApps measures the parsing of a configuration with 10,000 apps and New, which
// reads the key files. It reports the memory that is in use afterwards.
func BenchmarkStartWithManyApps(b *testing.B) {
	path, text := manyApps(b, manyAppsCount)
	b.ReportAllocs()
	before := heapAlloc()
	var cfg *config.Config
	var g *gateway.Gateway
	for b.Loop() {
		cfg, g = parseNamed(b, path, text), nil
		var err error
		if g, err = gateway.New(cfg, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heapAlloc()-before)/manyAppsCount, "live-B/app")
	if changes, err := g.Reload(cfg); err != nil || len(changes) != 0 { // keeps both alive until here
		b.Error(changes, err)
	}
}

// BenchmarkReloadWithManyApps measures a reload that changes one of 10,000 apps.
func BenchmarkReloadWithManyApps(b *testing.B) {
	path, text := manyApps(b, manyAppsCount)
	g, err := gateway.New(parseNamed(b, path, text), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		changed := strings.Replace(text, "topic: com.example.app}", fmt.Sprintf("topic: com.example.app%d}", i), 1)
		if changes, err := g.Reload(parseNamed(b, path, changed)); err != nil || len(changes) != 1 {
			b.Fatal(changes, err)
		}
	}
}

// parseNamed parses the text of a file.
func parseNamed(b *testing.B, path, text string) *config.Config {
	b.Helper()
	cfg, err := config.Parse(path, []byte(text), nil)
	if err != nil {
		b.Fatal(err)
	}
	return cfg
}
