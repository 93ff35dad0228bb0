// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// storageConfig is a configuration with a queue that connects to no provider.
const storageConfig = `listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
%s
apps:
  shop:
    keys: [{name: backend, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", scopes: [send]}]
    webpush: {vapid_key_file: vapid.pem, subject: "mailto:ops@example.com", url: "https://127.0.0.1:1"}
`

// writeStorageConfig writes a configuration with these lines and a VAPID key, and returns its path.
func writeStorageConfig(t *testing.T, lines string) string {
	t.Helper()
	_, pair, _ := runGateway(t, nil, "key", "vapid")
	path := writeTemp(t, "gateway.yaml", fmt.Sprintf(storageConfig, lines))
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "vapid.pem"), []byte(pair[strings.Index(pair, "-----"):]), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkLines returns the lines of gateway check about a key, and its exit code.
func checkLines(t *testing.T, path, key string) (lines string, code int) {
	t.Helper()
	code, stdout, stderr := runGateway(t, nil, "check", "-c", path, "--timeout", "5s")
	if stderr != "" {
		t.Errorf("stderr: %s", stderr)
	}
	for line := range strings.Lines(stdout) {
		if _, rest, _ := strings.Cut(line, "  "); strings.HasPrefix(strings.TrimSpace(rest), key+":") {
			lines += line
		}
	}
	return lines, code
}

// startNATS starts a server with this much file storage, and with users if there are any.
func startNATS(t *testing.T, storage int64, users ...*server.User) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: storage > 0, JetStreamMaxStore: storage, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, Users: users,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("NATS does not start")
	}
	return s.ClientURL()
}

func TestCheckFindsWhatServeFailsOn(t *testing.T) {
	file := writeTemp(t, "file", "not a directory")
	small, withoutJetStream := startNATS(t, 64<<20), startNATS(t, 0)
	for _, c := range []struct{ lines, key, want string }{
		{fmt.Sprintf("queue: {dir: %q}", file), "queue.dir", "not a directory"},
		{fmt.Sprintf("queue: {dir: %q}", filepath.Join(file, "below")), "queue.dir", "not a directory"},
		{"queue: {dir: /proc/sluice}", "queue.dir", "/proc cannot be written"},
		{fmt.Sprintf("queue: {dir: %q, reserve: 1TiB}\n", t.TempDir()), "queue.dir", "bytes are reserved for accepted notifications"},
		{fmt.Sprintf("queue: {dir: %q}\nhistory: {dir: %q}", t.TempDir(), file), "history.dir", "is not a directory"},
		{"queue: {nats: {url: 'nats://user:hunter2@127.0.0.1:1', replicas: 1}}", "queue.nats.url", "cannot connect"},
		{fmt.Sprintf("queue: {nats: {url: %q, replicas: 1}}", withoutJetStream), "queue.nats.url", "is it enabled?"},
		{fmt.Sprintf("queue: {nats: {url: %q, replicas: 1}}", small), "queue.nats.url", "cannot store 12884901888 bytes with 1 replicas"},
		{fmt.Sprintf("queue: {nats: {url: %q, replicas: 3}, max_bytes: 1MiB}\nhistory: {max_bytes: 1MiB}", small), "queue.nats.url", "with 3 replicas"},
		{"limits: {send_timeout: 2s}", "retry.attempt_timeout", "5s exceeds limits.send_timeout (2s)"},
		{"drain: {grace: 1s}", "drain.grace", "1s is shorter than retry.attempt_timeout (5s)"},
	} {
		if lines, code := checkLines(t, writeStorageConfig(t, c.lines), c.key); code != 1 || !strings.HasPrefix(lines, "FAIL") || !strings.Contains(lines, c.want) || strings.Contains(lines, "hunter2") {
			t.Errorf("%s: exit code %d, %q, want %q", c.lines, code, lines, c.want)
		}
	}
}

// TestCheckNamesFix compares what check advises for mistakes on this machine and in NATS.
func TestCheckNamesFix(t *testing.T) {
	users := []*server.User{
		{Username: "sluice", Password: "right"},
		{Username: "other", Password: "right", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"other"}}}},
	}
	address := strings.TrimPrefix(startNATS(t, 64<<20, users...), "nats://")
	for _, c := range []struct{ lines, seen, fix string }{
		{"queue: {nats: {url: 'nats://sluice:hunter2@" + address + "'}}", "Authorization Violation", "the servers refuse the user: correct the user and the password"},
		{"queue: {nats: {url: 'nats://" + address + "'}}", "Authorization Violation", "queue.nats.credentials_file, nkey_file"},
		{"queue: {nats: {url: 'nats://other:right@" + address + "'}}", `Permissions Violation for Publish to "$JS.API.INFO"`, "allow the user the subjects"},
		{"queue: {nats: {url: 'tls://sluice:right@" + address + "'}}", "secure connection not available", "use nats:// in the URL"},
		{"queue: {nats: {url: 'nats://sluice:right@" + address + "', replicas: 1}}", "cannot store", "raise max_file_store"},
		{"queue: {nats: {url: 'nats://sluice:right@" + address + "'}, max_bytes: 1MiB}\nhistory: {max_bytes: 1MiB}", "with 3 replicas", "at most the number of servers"},
		{"queue: {nats: {url: '" + startNATS(t, 0) + "'}}", "is it enabled?", "enable JetStream in the configuration of the servers"},
		{"zone: ''\nlisten: " + address, "address already in use", "stop the process that uses the address (ss -ltnp shows it)"},
		{"zone: ''\nlisten: 192.0.2.1:8080", "cannot assign requested address", "set an address of this machine"},
	} {
		path := writeStorageConfig(t, c.lines)
		text, err := os.ReadFile(path)
		if err == nil && strings.Count(string(text), "\nlisten: ") > 0 {
			err = os.WriteFile(path, []byte(strings.Replace(string(text), "listen: 127.0.0.1:0\n", "", 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, stdout, stderr := runGateway(t, nil, "check", "-c", path, "--timeout", "5s")
		if !strings.Contains(stdout, c.seen) || !strings.Contains(stdout, "      fix: ") || !strings.Contains(stdout, c.fix) || stderr != "" || strings.Contains(stdout, "hunter2") {
			t.Errorf("%s: want %q and %q in\n%s%s", c.lines, c.seen, c.fix, stdout, stderr)
		}
	}
}

func TestCheckAcceptsUsableStorage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "queue")
	path := writeStorageConfig(t, fmt.Sprintf("queue: {dir: %q, reserve: 1MiB}", dir))
	if lines, _ := checkLines(t, path, "queue.dir"); !strings.HasPrefix(lines, "ok") {
		t.Errorf("%q", lines)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("check has created the directory")
	}
	url := startNATS(t, 64<<20)
	path = writeStorageConfig(t, fmt.Sprintf("queue: {nats: {url: %q, replicas: 1}, max_bytes: 20MiB}\nhistory: {max_bytes: 20MiB}", url))
	for range 2 { // before and after serve has created its streams, which leave no room for a second set
		if lines, _ := checkLines(t, path, "queue.nats.url"); !strings.HasPrefix(lines, "ok") || !strings.Contains(lines, "has the storage") {
			t.Errorf("%q", lines)
		}
		p := startGateway(t, nil, "serve", "-c", path)
		p.waitForLog(`"msg":"serving"`)
		p.terminate()
	}
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Stream(context.Background(), "SLUICE_CHECK"); err == nil {
		t.Error("check has left its stream")
	}
}

func TestCheckFindsALockedQueueAndDoesNotDisturbIt(t *testing.T) {
	path := writeStorageConfig(t, fmt.Sprintf("queue: {dir: %q, reserve: 1MiB}", t.TempDir()))
	p := startGateway(t, nil, "serve", "-c", path)
	p.waitForLog(`"msg":"serving"`)
	if lines, code := checkLines(t, path, "queue.dir"); code != 1 || !strings.Contains(lines, "in use by another process") || !strings.Contains(lines, "is a gateway running here already?") {
		t.Errorf("exit code %d, %q", code, lines)
	}
	p.terminate()
	if lines, _ := checkLines(t, path, "queue.dir"); !strings.HasPrefix(lines, "ok") {
		t.Errorf("after the gateway has ended: %q", lines)
	}
}
