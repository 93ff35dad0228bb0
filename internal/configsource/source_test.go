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
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

// testTimeout bounds every wait: whoever reaches it has failed.
const testTimeout = time.Minute

// port is one that the system gives to nobody who lets it choose, so that a server can come back to it, and that no other
// process that runs these tests takes.
var port = 20_000 + os.Getpid()%10_000

// startServer starts a NATS server of one, which ends with the test or with stop.
func startServer(t *testing.T, folder string) (address string, stop func()) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: folder, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(testTimeout) {
		t.Fatal("no server")
	}
	stop = sync.OnceFunc(func() { s.Shutdown(); s.WaitForShutdown() })
	t.Cleanup(stop)
	return s.Addr().String(), stop
}

// putConfig writes a text under the key that all tests use.
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
	told, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, told) }()
	t.Cleanup(func() {
		cancel()
		for range told { // until it is closed
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return told
}

// expectText waits until the source tells of a change after which it reads as text.
func expectText(t *testing.T, s configsource.Source, changed <-chan struct{}, text string) {
	t.Helper()
	late := time.After(testTimeout)
	for {
		select {
		case <-changed:
			if got, err := s.Read(t.Context()); err == nil && string(got) == text {
				return
			}
		case <-late:
			t.Fatalf("never read as %q", text)
		}
	}
}

func openNATS(t *testing.T, address, snapshot string) *configsource.NATS {
	t.Helper()
	k, err := configsource.OpenNATS(configsource.NATSConfig{URL: fmt.Sprintf("nats://user:password@%s/sluice/gateway.yaml", address), Snapshot: snapshot, ReadTimeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNATSReportsEveryPut(t *testing.T) {
	address, _ := startServer(t, t.TempDir())
	k := openNATS(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := runSource(t, k)
	for i := range 3 { // the first puts the bucket there, too
		text := fmt.Sprint("text ", i)
		putConfig(t, address, text)
		expectText(t, k, changed, text)
	}
}

func TestNATSReconnects(t *testing.T) {
	folder := t.TempDir()
	address, stop := startServer(t, folder)
	putConfig(t, address, "before")
	k := openNATS(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := runSource(t, k)
	expectText(t, k, changed, "before")
	stop()
	startServer(t, folder)
	putConfig(t, address, "after")
	expectText(t, k, changed, "after")
}

func TestSnapshotIsReadWhileNATSIsDown(t *testing.T) {
	address, stop := startServer(t, t.TempDir())
	stop()
	snapshot := filepath.Join(t.TempDir(), "snapshot.yaml")
	k := openNATS(t, address, snapshot)
	runSource(t, k)
	if _, err := k.Read(t.Context()); err == nil || strings.Contains(err.Error(), "password") || !strings.Contains(err.Error(), "snapshot") {
		t.Errorf("without a snapshot: %v", err)
	}
	if err := k.Commit([]byte("good"), nil); err != nil {
		t.Fatal(err)
	}
	if text, err := k.Read(t.Context()); err != nil || string(text) != "good" || string(k.LastCommitted()) != "good" {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Stat(snapshot); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestFailedSnapshotWriteKeepsTheOldSnapshot(t *testing.T) {
	folder := t.TempDir()
	k := openNATS(t, "127.0.0.1:1", filepath.Join(folder, "snapshot.yaml"))
	if err := k.Commit([]byte("old"), nil); err != nil {
		t.Fatal(err)
	}
	gone := openNATS(t, "127.0.0.1:1", filepath.Join(folder, "nowhere", "snapshot.yaml"))
	if err := gone.Commit([]byte("new"), nil); err == nil {
		t.Error("kept in a folder that is not there")
	}
	if string(k.LastCommitted()) != "old" {
		t.Errorf("%q", k.LastCommitted())
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
		beside := path + ".new"
		if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(beside, path); err != nil {
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
