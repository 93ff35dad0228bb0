// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/mockprovider"
)

const statusKeyHash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" // of the key "test"

// secureFiles writes the CA of a mock, and certificates that it has issued for a server and a client.
type secureFiles struct{ ca, serverCert, serverKey, clientCert, clientKey string }

func newSecureFiles(t *testing.T, m *mockprovider.Mock) (f secureFiles) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	issue := func(name string, usage x509.ExtKeyUsage) (cert, key string) {
		pair, err := m.IssueCertificate(&x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".pem", "CERTIFICATE", pair.Certificate[0]), write(name+"-key.pem", "PRIVATE KEY", der)
	}
	f.ca = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(f.ca, m.CACertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	f.serverCert, f.serverKey = issue("server", x509.ExtKeyUsageServerAuth)
	f.clientCert, f.clientKey = issue("client", x509.ExtKeyUsageClientAuth)
	return f
}

// statusConfig writes a configuration for a mock.
func statusConfig(t *testing.T, m *mockprovider.Mock, listen, more string) string {
	t.Helper()
	files, err := m.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ready := m.Ready(files)
	return writeTemp(t, "gateway.yaml", fmt.Sprintf(`listen: %q
admin: {listen: "127.0.0.1:0"}
apps:
  shop:
    keys: [{name: test, hash: %q, scopes: [send, read]}]
    fcm: {url: %q, ca_file: %q, service_account_file: %q}
%s
`, listen, statusKeyHash, ready.FCM, ready.CAFile, ready.ServiceAccountFile, more))
}

func TestCommandsUseClientCertificates(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Endpoints: 1})
	f := newSecureFiles(t, m)
	p := startGateway(t, nil, "serve", "-c", statusConfig(t, m, "127.0.0.1:0", fmt.Sprintf("tls: {cert_file: %q, key_file: %q, client_ca_file: %q}", f.serverCert, f.serverKey, f.ca)))
	env := []string{"SLUICE_KEY=test", "GATEWAY_URL=https://" + p.servingAt()}
	flags := []string{"--ca-file", f.ca, "--cert-file", f.clientCert, "--cert-key-file", f.clientKey}
	mix := writeTemp(t, "mix.ndjson", `{"weight":1,"notification":{"platform":"fcm","topic":"news","title":"x"}}`+"\n")
	for name, command := range map[string][]string{
		"status": {"status"}, "top": {"top"},
		"send":        {"send", "--app", "shop", "--platform", "fcm", "--topic", "news", "--title", "Hi"},
		"bench":       {"bench", "--app", "shop", "--rate", "20/s", "--duration", "500ms", "--warm-up", "0s", "--mix", mix},
		"bench HTTP2": {"bench", "--app", "shop", "--rate", "20/s", "--duration", "500ms", "--warm-up", "0s", "--mix", mix, "--http2"},
	} {
		code, stdout, stderr := runGateway(t, env, append(command, flags...)...)
		if code != 0 || strings.Contains(stdout, "refused 1") {
			t.Errorf("%s: exit code %d\n%s%s", name, code, stdout, stderr)
		}
		if strings.HasPrefix(name, "bench") {
			continue // reports lost calls, and does not fail
		}
		if code, _, stderr := runGateway(t, env, append(command, "--ca-file", f.ca)...); code != 1 || !strings.Contains(stderr, "no response from https://") {
			t.Errorf("%s without a certificate: exit code %d, %s", name, code, stderr)
		}
		if name == "send" {
			continue // has no hints
		}
		for flag, args := range map[string][]string{"(set --ca-file to the authority": nil, "set --cert-file and --cert-key-file)": {"--ca-file", f.ca}} {
			if code, _, stderr := runGateway(t, env, append(slices.Clone(command), args...)...); code != 1 || !strings.Contains(stderr, flag) {
				t.Errorf("%s with %q: exit code %d, want %q in %s", name, args, code, flag, stderr)
			}
		}
	}
	if n := m.Ledger().Count(mockprovider.Query{Service: mockprovider.FCM}); n < 10 {
		t.Errorf("FCM got %d messages", n)
	}
	for want, wrong := range map[string][]string{
		"--ca-file: open nowhere.pem":                          {"--ca-file", "nowhere.pem"},
		"contains no certificate in PEM":                       {"--ca-file", f.clientKey},
		"--cert-file and --cert-key-file must be set together": {"--cert-file", f.clientCert},
		"--cert-file " + f.clientKey:                           {"--cert-file", f.clientKey, "--cert-key-file", f.clientCert},
	} {
		if code, _, stderr := runGateway(t, env, append([]string{"status"}, wrong...)...); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit code %d, %s", wrong, code, stderr)
		}
	}
}

func TestStatusShowsADegradedGateway(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Endpoints: 2})
	dir, err := os.MkdirTemp("", "sl") // the path of a socket is limited to about 100 characters
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket, key := filepath.Join(dir, "api.sock"), keyring.NewKey()
	p := startGateway(t, nil, "serve", "-c", statusConfig(t, m, "unix:"+socket, fmt.Sprintf("queue: {dir: %q, reserve: 1MiB, encryption: {key_files: [%q]}}\npool: {idle_timeout: 0s}\nretry: {attempts: 1}", t.TempDir(), writeTemp(t, "sluice.key", key.Text()))))
	p.waitForLog(`"msg":"serving"`)
	env := []string{"SLUICE_KEY=test", "GATEWAY_URL=unix:" + socket}
	send := func() (code int) {
		code, _, _ = runGateway(t, env, "send", "--app", "shop", "--platform", "fcm", "--topic", "news", "--title", "Hi")
		return code
	}
	if code := send(); code != 0 {
		t.Errorf("send: exit code %d", code)
	}
	code, stdout, stderr := runGateway(t, env, "status")
	for _, want := range []string{"gateway  unix:" + socket, "queue    waiting 0, 0 B of 4 GiB", "keys     " + key.ID().String() + " encrypts, needed: " + key.ID().String() + " (", "pool     fcm ", "  ready\n", "         apps.shop.fcm\n", "  ENDPOINT ", " ok "} {
		if code != 0 || !strings.Contains(stdout, want) || strings.Contains(stdout, "\x1b") {
			t.Errorf("exit code %d, want %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	if err := m.SetScript(mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.FCM, Status: 503}}}); err != nil {
		t.Fatal(err)
	}
	p.eventually("the outage", func() bool {
		send()
		code, stdout, _ = runGateway(t, env, "status")
		return code == 1 && strings.Contains(stdout, "unavailable since")
	})
	for _, want := range []string{"DEGRADED fcm ", ": unavailable since ", "  unavailable\n", " affected: "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("want %q in\n%s", want, stdout)
		}
	}
	code, stdout, _ = runGateway(t, env, "status", "--json")
	var status struct {
		Services []struct {
			Outage struct{ Cause string }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &status); err != nil || code != 1 || len(status.Services) != 1 || status.Services[0].Outage.Cause == "" {
		t.Errorf("exit code %d, %v\n%s", code, err, stdout)
	}
	for want, args := range map[string][]string{
		"requires an API key with the scope read": {"--key", "wrong"},
		"must be a URL such as":                   {"--url", "nonsense"},
		"no response from http://127.0.0.1:1":     {"--url", "http://127.0.0.1:1"},
	} {
		if code, _, stderr := runGateway(t, env, append([]string{"status"}, args...)...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit code %d, %s", args, code, stderr)
		}
	}
}
