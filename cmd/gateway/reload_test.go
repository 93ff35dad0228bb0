// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// webPushConfig is a configuration that connects to no provider at its start.
const webPushConfig = `listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
limits: {batch: %d}
log: {level: debug}
apps:
  shop:
    keys: [{name: backend, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", scopes: [send]}]
    webpush: {vapid_key_file: vapid.pem, subject: "mailto:ops@example.com"}
`

// waitForLog waits for a log line that contains all words.
func (p *gatewayProcess) waitForLog(words ...string) {
	p.t.Helper()
	p.eventually(strings.Join(words, ", "), func() bool {
		for line := range strings.SplitSeq(p.stderr.String(), "\n") {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				return true
			}
		}
		return false
	})
}

func TestServeReloadsAChangedConfiguration(t *testing.T) {
	_, pair, _ := runGateway(t, nil, "key", "vapid")
	path := writeTemp(t, "gateway.yaml", fmt.Sprintf(webPushConfig, 100))
	put := func(name, text string) { // with a rename, as most programs do
		t.Helper()
		temp := filepath.Join(filepath.Dir(path), "."+name)
		if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temp, filepath.Join(filepath.Dir(path), name)); err != nil {
			t.Fatal(err)
		}
	}
	put("vapid.pem", pair[strings.Index(pair, "-----"):])
	p := startGateway(t, nil, "serve", "-c", path)
	p.waitForLog(`"msg":"serving"`)
	put("gateway.yaml", fmt.Sprintf(webPushConfig, 200))
	p.waitForLog("configuration reloaded", "limits.batch: 100 → 200")
	put("gateway.yaml", fmt.Sprintf(webPushConfig, 0))
	p.waitForLog("configuration not reloaded", "limits.batch")
	_, pair, _ = runGateway(t, nil, "key", "vapid")
	put("vapid.pem", pair[strings.Index(pair, "-----"):])
	put("gateway.yaml", fmt.Sprintf(webPushConfig, 300))
	p.waitForLog("configuration reloaded", "limits.batch: 200 → 300", "apps.shop.webpush: reconnecting")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(fmt.Sprintf(webPushConfig, 400)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil { // hides the change until SIGHUP
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	p.waitForLog("configuration reloaded", "limits.batch: 300 → 400")
	p.terminate()
}

func TestFilesWithoutAChangeAreNotReloaded(t *testing.T) {
	_, pair, _ := runGateway(t, nil, "key", "vapid")
	path := writeTemp(t, "gateway.yaml", fmt.Sprintf(webPushConfig, 100))
	folder := filepath.Dir(path)
	put := func(name, text string) {
		t.Helper()
		temp := filepath.Join(folder, "."+name)
		if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temp, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	put("vapid.pem", pair[strings.Index(pair, "-----"):])
	p := startGateway(t, nil, "serve", "-c", path)
	p.waitForLog(`"msg":"serving"`)
	for range 3 {
		put("gateway.yaml", fmt.Sprintf(webPushConfig, 100))
		put("vapid.pem", pair[strings.Index(pair, "-----"):])
		put("gateway.log", "a log in the same folder")
		p.signal(syscall.SIGHUP)
	}
	put("gateway.yaml", fmt.Sprintf(webPushConfig, 200))
	p.waitForLog("configuration reloaded", "limits.batch: 100 → 200")
	put("gateway.yaml", "apps: {}")
	p.waitForLog("configuration not reloaded", "apps: required")
	put("gateway.yaml", fmt.Sprintf(webPushConfig, 200))
	p.waitForLog("configuration reloaded without changes")
	got := p.stderr.String()
	for text, want := range map[string]int{
		`"configuration reloaded"`: 1, `"configuration not reloaded`: 1, `"configuration reloaded without changes"`: 1, "reconnecting": 0,
	} {
		if n := strings.Count(got, text); n != want {
			t.Errorf("%d log lines contain %s, want %d:\n%s", n, text, want, got)
		}
	}
	_, admin, _ := strings.Cut(got, `"admin":"`)
	admin, _, _ = strings.Cut(admin, `"`)
	response, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	metrics, err := io.ReadAll(response.Body)
	for _, want := range []string{`sluice_config_reloads_total{result="ok"} 2`, `sluice_config_reloads_total{result="refused"} 1`, `sluice_config_last_reload_successful 1`} {
		if err != nil || !strings.Contains(string(metrics), want+"\n") {
			t.Errorf("no metric %s, %v", want, err)
		}
	}
	p.terminate()
}

func TestServeStartsFromSnapshotWithoutNATS(t *testing.T) {
	cluster, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Start()
	t.Cleanup(func() { cluster.Shutdown(); cluster.WaitForShutdown() })
	_, pair, _ := runGateway(t, nil, "key", "vapid")
	snapshot := filepath.Join(filepath.Dir(writeTemp(t, "vapid.pem", pair[strings.Index(pair, "-----"):])), "snapshot.yaml")
	conn, err := nats.Connect(cluster.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.CreateKeyValue(t.Context(), natsjs.KeyValueConfig{Bucket: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		t.Helper()
		if _, err := bucket.PutString(t.Context(), "gateway.yaml", text); err != nil {
			t.Fatal(err)
		}
	}
	put(fmt.Sprintf(webPushConfig, 100))
	serve := []string{"serve", "-c", "nats://" + cluster.Addr().String() + "/sluice/gateway.yaml", "--snapshot", snapshot}
	p := startGateway(t, nil, serve...)
	p.waitForLog(`"msg":"serving"`)
	put(fmt.Sprintf(webPushConfig, 200))
	p.waitForLog("configuration reloaded", "limits.batch: 100 → 200")
	put(fmt.Sprintf(webPushConfig, 0))
	p.waitForLog("configuration not reloaded", "limits.batch")
	p.terminate()
	p = startGateway(t, nil, serve...)
	p.waitForLog("starting with the last valid configuration", "limits.batch")
	p.waitForLog(`"msg":"serving"`)
	p.terminate()
	cluster.Shutdown()
	p = startGateway(t, nil, serve...)
	p.waitForLog("configuration read from the snapshot")
	p.waitForLog(`"msg":"serving"`)
	p.terminate()
}

func TestCheckDiff(t *testing.T) {
	_, pair, _ := runGateway(t, nil, "key", "vapid")
	from, to := writeTemp(t, "gateway.yaml", fmt.Sprintf(webPushConfig, 100)), writeTemp(t, "new.yaml", fmt.Sprintf(webPushConfig, 200))
	for _, path := range []string{from, to} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), "vapid.pem"), []byte(pair[strings.Index(pair, "-----"):]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, stdout, _ := runGateway(t, nil, "check", "-c", to, "--diff", from, "--timeout", "10ms")
	if want := "diff  limits.batch: 100 → 200\n"; !strings.Contains(stdout, want) {
		t.Errorf("%q is missing in\n%s", want, stdout)
	}
}
