// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/mockprovider"
)

// TestEmbeddedUnitIsThatOfDeploy compares the copy that the binary contains.
func TestEmbeddedUnitIsThatOfDeploy(t *testing.T) {
	original, err := os.ReadFile("../../deploy/systemd/sluice.service")
	if err != nil {
		t.Fatal(err)
	}
	if unit, err := os.ReadFile("sluice.service"); err != nil || !bytes.Equal(unit, original) {
		t.Errorf("cmd/gateway/sluice.service differs from deploy/systemd/sluice.service: copy it (%v)", err)
	}
}

var printedKey = regexp.MustCompile(`(?m)^API key  (slk_\S+)$`)

func TestInitWritesAConfigurationThatPassesCheck(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Endpoints: 1})
	files, err := m.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	args := []string{"init", "--yes", "--dir", dir, "--app", "shop", "--listen", "127.0.0.1:0", "--fcm-service-account-file", files.ServiceAccount}
	more := []string{"--apns-key-file", files.APNsKey, "--apns-team-id", "MOCKTEAM01", "--apns-topic", "com.example.app", "--webpush-subject", "mailto:push@example.com", "--systemd", "--helm", "--queue-dir", filepath.Join(dir, "queue")}
	code, stdout, stderr := runGateway(t, nil, append(args, more...)...)
	key := printedKey.FindStringSubmatch(stdout)
	if code != 0 || key == nil {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	read := func(name string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Fatalf("%s: %v, %v, want mode %v", name, info, err, mode)
		}
		text, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(text), key[1]) {
			t.Errorf("%s contains the key, or cannot be read: %v", name, err)
		}
		return string(text)
	}
	config, vapid := read("gateway.yaml", 0o600), read("vapid.pem", 0o600)
	for _, want := range []string{"key_id: 'MOCKKEY001'", "environment: production", "vapid_key_file: 'vapid.pem'", "queue: { dir: 'queue' }"} {
		if !strings.Contains(config, want) {
			t.Errorf("%s is not in\n%s", want, config)
		}
	}
	if unit := read("sluice.service", 0o644); !strings.Contains(unit, "\nExecStart="+gatewayBinary+" serve -c "+filepath.Join(dir, "gateway.yaml")+"\n") || !strings.Contains(unit, "ProtectSystem=strict") {
		t.Errorf("unit\n%s", unit)
	}
	var values map[string]any
	if text := read("values.yaml", 0o644); yaml.Unmarshal([]byte(text), &values) != nil || !strings.Contains(text, "/etc/sluice/credentials/shop/AuthKey_MOCKKEY001.p8") ||
		!strings.Contains(text, "kubectl create secret generic shop-push --from-file="+files.APNsKey) {
		t.Errorf("values\n%s", text)
	}
	if code, _, stderr := runGateway(t, nil, args...); code != 2 || !strings.Contains(stderr, "gateway.yaml exists (use --force to overwrite it") {
		t.Errorf("again: exit code %d, %s", code, stderr)
	}
	if code, _, stderr := runGateway(t, nil, append(append(args, more...), "--force")...); code != 0 || read("vapid.pem", 0o600) != vapid {
		t.Errorf("with --force: exit code %d, or another key pair: %s", code, stderr)
	}
	if code, _, stderr := runGateway(t, nil, append(args, "--force", "--queue", "none")...); code != 0 {
		t.Errorf("with --force: exit code %d, %s", code, stderr)
	}
	ready := m.Ready(files)
	config = strings.NewReplacer("    fcm:\n", fmt.Sprintf("    fcm:\n      url: %s\n      ca_file: %s\n", ready.FCM, ready.CAFile), "127.0.0.1:9090", "127.0.0.1:0").Replace(read("gateway.yaml", 0o600))
	if err := os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := runGateway(t, nil, "check", "--deep", "-c", filepath.Join(dir, "gateway.yaml")); code != 0 || strings.Contains(stdout, "warn") {
		t.Errorf("check: exit code %d\n%s%s", code, stdout, stderr)
	}
}

// TestInitEncrypts checks the key that it creates, that it never replaces it, and that another gateway can
// use it.
func TestInitEncrypts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	initIn := func(dir string, args ...string) (stdout string) {
		t.Helper()
		code, stdout, stderr := runGateway(t, nil, append([]string{"init", "--yes", "--dir", dir, "--app", "shop", "--listen", "127.0.0.1:0", "--webpush-subject", "mailto:a@example.com"}, args...)...)
		if code != 0 {
			t.Fatalf("%q: exit code %d, %s", args, code, stderr)
		}
		return stdout
	}
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	file := filepath.Join(dir, "sluice.key")
	stdout := initIn(dir, "--encrypt")
	text := read(file)
	key, err := keyring.ParseKey([]byte(text))
	if info, _ := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || strings.Contains(stdout, strings.Fields(text)[4]) || !strings.Contains(stdout, "a copy of "+file) {
		t.Errorf("key %v, %v, mode %v, printed\n%s", key, err, info.Mode(), stdout)
	}
	config := filepath.Join(dir, "gateway.yaml")
	if got := read(config); !strings.Contains(got, "encryption: { key_files: ['sluice.key'] }") || !strings.Contains(got, "dir: 'queue'") {
		t.Error(got)
	}
	if lines, _ := checkLines(t, config, "queue.encryption"); lines != "ok    queue.encryption: encrypts with the key "+key.ID().String()+"; 1 key decrypts\n" {
		t.Errorf("check: %q", lines)
	}
	if stdout := initIn(dir, "--encrypt", "--force", "--queue", "nats", "--nats-url", "nats://127.0.0.1"); read(file) != text || strings.Contains(stdout, "a copy of") {
		t.Errorf("the key was replaced\n%s", stdout)
	}
	other := filepath.Join(t.TempDir(), "other")
	initIn(other, "--encryption-key-file", file, "--queue", "nats", "--nats-url", "nats://127.0.0.1")
	if got := read(filepath.Join(other, "gateway.yaml")); !strings.Contains(got, "encryption: { key_files: ['"+file+"'] }") || !strings.Contains(got, "history: { dir: 'history' }") {
		t.Error(got)
	}
	if _, err := os.Stat(filepath.Join(other, "sluice.key")); err == nil {
		t.Error("a second key was created")
	}
}

// TestInitAdaptsUnit checks paths with characters that systemd and a shell replace, and a queue that the
// unit would not be allowed to write to.
func TestInitAdaptsUnit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "100% new")
	code, stdout, stderr := runGateway(t, nil, "init", "--yes", "--dir", dir, "--app", "shop", "--webpush-subject", "mailto:a@example.com", "--systemd", "--queue-dir", "/srv/push queue")
	unit, err := os.ReadFile(filepath.Join(dir, "sluice.service"))
	if code != 0 || err != nil || !strings.Contains(string(unit), ` serve -c "`+strings.ReplaceAll(dir, "%", "%%")+"/gateway.yaml\"\n") || !strings.Contains(string(unit), "\nReadWritePaths=\"/srv/push queue\"\n") {
		t.Errorf("exit code %d, %v\n%s%s", code, err, unit, stderr)
	}
	for _, want := range []string{"sudo install -d -o sluice -g sluice -m 700 '/srv/push queue'\n", "move     " + dir + "\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
}

func TestInitNamesWhatIsMissingOrWrong(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Endpoints: 1})
	files, err := m.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	encryptionKey, apnsKeyName := keyring.NewKey().Text(), filepath.Base(files.APNsKey)
	webPush := []string{"--app", "shop", "--webpush-subject", "mailto:a@example.com"}
	p12 := writeTemp(t, "cert.p12", "\x30\x82\x00\x04\x02\x01\x03\x30")
	for want, args := range map[string][]string{
		"missing flags: --app, one of --apns-key-file": {},
		"missing flags: --apns-team-id, --apns-topic":  {"--app", "shop", "--apns-key-file", files.APNsKey},
		"missing flags: --nats-url":                    {"--app", "shop", "--webpush-subject", "mailto:a@example.com", "--queue", "nats"},
		"openssl pkcs12 -in FILE -clcerts -nokeys":     {"--app", "shop", "--apns-cert-file", p12, "--apns-cert-key-file", files.ClientKey},
		"but a private key in PKCS #8":                 {"--app", "shop", "--fcm-service-account-file", files.APNsKey},
		"an app's name must be":                        {"--app", "my app", "--webpush-subject", "mailto:a@example.com"},
		"need a queue, whose records they encrypt":     append(slices.Clone(webPush), "--encrypt", "--queue", "none"),
		"must be 32 random bytes in base64":            append(slices.Clone(webPush), "--encryption-key-file", files.APNsKey),
		"must have a name of letters, digits":          append(slices.Clone(webPush), "--helm", "--encryption-key-file", writeTemp(t, "my.key 2", encryptionKey)),
		"two credential files are named": append(slices.Clone(webPush), "--helm", "--apns-key-file", files.APNsKey, "--apns-team-id", "MOCKTEAM01", "--apns-topic", "com.example.app",
			"--encryption-key-file", writeTemp(t, apnsKeyName, encryptionKey)),
	} {
		dir := filepath.Join(t.TempDir(), "new")
		code, stdout, stderr := runGateway(t, nil, append([]string{"init", "--dir", dir}, args...)...)
		if _, err := os.Stat(dir); code != 2 || !strings.Contains(stderr, want) || err == nil {
			t.Errorf("%v: exit code %d, want %q, folder %v\n%s%s", args, code, want, err, stdout, stderr)
		}
	}
}
