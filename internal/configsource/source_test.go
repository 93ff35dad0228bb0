// SPDX-License-Identifier: Apache-2.0

package configsource_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/configsource"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

// testTimeout limits every wait; a test that reaches it fails.
const testTimeout = time.Minute

// port is outside the range of ephemeral ports, so that a server can use it again after a restart.
// It differs between test processes.
var port = 20_000 + os.Getpid()%10_000

// startServer starts a NATS server that runs until the test ends or stop is called.
func startServer(t *testing.T, folder string) (address string, stop func()) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: folder, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(testTimeout) {
		t.Fatal("the server did not start")
	}
	stop = sync.OnceFunc(func() { s.Shutdown(); s.WaitForShutdown() })
	t.Cleanup(stop)
	return s.Addr().String(), stop
}

// putConfig puts text in the key that all tests use.
func putConfig(t *testing.T, address, text string) {
	t.Helper()
	conn, err := nats.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.CreateOrUpdateKeyValue(t.Context(), natsjs.KeyValueConfig{Bucket: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.PutString(t.Context(), "gateway.yaml", text); err != nil {
		t.Fatal(err)
	}
}

// runSource runs a source until the test ends.
func runSource(t *testing.T, s configsource.Source) (changed <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, changes) }()
	t.Cleanup(func() {
		cancel()
		for range changes { // until it is closed
		}
		if err := testwait.For(t, done, "the end"); err != nil {
			t.Error(err)
		}
	})
	return changes
}

// expectText waits until the source reports a change and returns text.
func expectText(t *testing.T, s configsource.Source, changed <-chan struct{}, text string) {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		select {
		case <-changed:
			if got, err := s.Read(t.Context()); err == nil && string(got) == text {
				return
			}
		case <-timeout:
			t.Fatalf("the source did not return %q", text)
		}
	}
}

func openNATS(t *testing.T, address, snapshot string) *configsource.NATS {
	t.Helper()
	n, err := configsource.OpenNATS(configsource.NATSConfig{URL: fmt.Sprintf("nats://user:password@%s/sluice/gateway.yaml", address), Snapshot: snapshot, ReadTimeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNATSReportsEveryPut(t *testing.T) {
	address, _ := startServer(t, t.TempDir())
	n := openNATS(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := runSource(t, n)
	for i := range 3 { // the first one creates the bucket
		text := fmt.Sprint("text ", i)
		putConfig(t, address, text)
		expectText(t, n, changed, text)
	}
}

func TestNATSReconnects(t *testing.T) {
	folder := t.TempDir()
	address, stop := startServer(t, folder)
	putConfig(t, address, "before")
	n := openNATS(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := runSource(t, n)
	expectText(t, n, changed, "before")
	stop()
	startServer(t, folder)
	putConfig(t, address, "after")
	expectText(t, n, changed, "after")
}

func TestSnapshotIsReadWhileNATSIsDown(t *testing.T) {
	address, stop := startServer(t, t.TempDir())
	stop()
	snapshot := filepath.Join(t.TempDir(), "snapshot.yaml")
	n := openNATS(t, address, snapshot)
	runSource(t, n)
	if _, err := n.Read(t.Context()); err == nil || strings.Contains(err.Error(), "password") || !strings.Contains(err.Error(), "snapshot") {
		t.Errorf("without a snapshot: %v", err)
	}
	if err := n.Commit([]byte("good"), nil); err != nil {
		t.Fatal(err)
	}
	if text, err := n.Read(t.Context()); err != nil || string(text) != "good" || string(n.LastCommitted()) != "good" {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Stat(snapshot); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestFailedSnapshotWriteKeepsTheOldSnapshot(t *testing.T) {
	folder := t.TempDir()
	n := openNATS(t, "127.0.0.1:1", filepath.Join(folder, "snapshot.yaml"))
	if err := n.Commit([]byte("old"), nil); err != nil {
		t.Fatal(err)
	}
	broken := openNATS(t, "127.0.0.1:1", filepath.Join(folder, "nowhere", "snapshot.yaml"))
	if err := broken.Commit([]byte("new"), nil); err == nil {
		t.Error("the snapshot was written to a folder that does not exist")
	}
	if string(n.LastCommitted()) != "old" {
		t.Errorf("%q", n.LastCommitted())
	}
}

func TestInvalidURLErrorHidesThePassword(t *testing.T) {
	for _, url := range []string{"nats://user:password@host:4222", "nats://user:password@host/bucket", "nats://user:pass%zzword@host/b/k", "://"} {
		_, err := configsource.OpenNATS(configsource.NATSConfig{URL: url, Snapshot: "s"})
		if err == nil || strings.Contains(err.Error(), "word@") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := configsource.OpenNATS(configsource.NATSConfig{URL: "nats://host/b/k"}); err == nil || !strings.Contains(err.Error(), "--snapshot") {
		t.Errorf("without a snapshot: %v", err)
	}
}

func TestFileReportsReplacedFiles(t *testing.T) {
	folder, keys := t.TempDir(), t.TempDir()
	path := filepath.Join(folder, "gateway.yaml")
	replace := func(path, text string) {
		t.Helper()
		temp := path + ".new"
		if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temp, path); err != nil {
			t.Fatal(err)
		}
	}
	replace(path, "one")
	f := configsource.OpenFile(path)
	if err := f.Commit(nil, []string{filepath.Join(keys, "key.p8")}); err != nil {
		t.Fatal(err)
	}
	changed := runSource(t, f)
	expectText(t, f, changed, "one")
	replace(path, "two")
	expectText(t, f, changed, "two")
	replace(filepath.Join(keys, "key.p8"), "secret")
	expectText(t, f, changed, "two")
}
