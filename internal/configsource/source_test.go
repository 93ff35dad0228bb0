// SPDX-License-Identifier: Apache-2.0

package configsource_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/configsource"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

// testTimeout limits every wait; a test that reaches it fails.
const testTimeout = time.Minute

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

func openNATS(t *testing.T, server, snapshot string) *configsource.NATS {
	t.Helper()
	n, err := configsource.OpenNATS(configsource.NATSConfig{URL: strings.Replace(server, "//", "//user:password@", 1) + "/sluice/gateway.yaml", Snapshot: snapshot, ReadTimeout: time.Millisecond, SetupTimeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNATSReportsEveryPut(t *testing.T) {
	address := jetstreamtest.StartServer(t)
	n := openNATS(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := runSource(t, n)
	for i := range 3 { // the first one creates the bucket
		text := fmt.Sprint("text ", i)
		putConfig(t, address, text)
		expectText(t, n, changed, text)
	}
}

func TestNATSReconnects(t *testing.T) {
	server := jetstreamtest.NewServer(t, t.TempDir())
	putConfig(t, server.URL, "before")
	n := openNATS(t, server.URL, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := runSource(t, n)
	expectText(t, n, changed, "before")
	server.Stop()
	server.Start()
	putConfig(t, server.URL, "after")
	expectText(t, n, changed, "after")
}

func TestSnapshotIsReadWhileNATSIsDown(t *testing.T) {
	server := jetstreamtest.NewServer(t, t.TempDir())
	server.Stop()
	snapshot := filepath.Join(t.TempDir(), "snapshot.yaml")
	n := openNATS(t, server.URL, snapshot)
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
	n := openNATS(t, "nats://127.0.0.1:1", filepath.Join(folder, "snapshot.yaml"))
	if err := n.Commit([]byte("old"), nil); err != nil {
		t.Fatal(err)
	}
	broken := openNATS(t, "nats://127.0.0.1:1", filepath.Join(folder, "nowhere", "snapshot.yaml"))
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

// write writes a file as most programs do: under another name, which it then renames.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// link replaces a symbolic link as git-sync and Kubernetes do.
func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// release writes a folder with a configuration and a key of the same text.
func release(t *testing.T, folder, text string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "gateway.yaml"), text)
	write(t, filepath.Join(folder, "key.p8"), text)
}

func TestFileReportsReplacedFiles(t *testing.T) {
	folder, keys := t.TempDir(), t.TempDir()
	path, key := filepath.Join(folder, "gateway.yaml"), filepath.Join(keys, "key.p8")
	write(t, path, "one")
	f := configsource.OpenFile(path, slog.New(slog.DiscardHandler))
	if err := f.Commit(nil, []string{key}); err != nil {
		t.Fatal(err)
	}
	changed := runSource(t, f)
	expectText(t, f, changed, "one")
	write(t, path, "two")
	expectText(t, f, changed, "two")
	write(t, key, "secret")
	testwait.For(t, changed, "the new key file")
	if err := os.WriteFile(key, []byte("secrer"), 0o600); err != nil { // in place, with the same size
		t.Fatal(err)
	}
	testwait.For(t, changed, "the key file written in place")
	if err := os.Chmod(key, 0o400); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, changed, "the mode of the key file")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, changed, "the removed key file")
}

func TestFileFollowsSymbolicLinks(t *testing.T) {
	for name, c := range map[string]struct {
		// file returns the configured path of a file below the folder.
		file func(folder, name string) string
		// put makes the file have these contents.
		put func(folder, text string)
	}{
		"Kubernetes": {
			func(folder, name string) string { return filepath.Join(folder, name) },
			func(folder, text string) {
				release(t, filepath.Join(folder, "..", filepath.Base(folder), "..2026_"+text), text)
				link(t, "..2026_"+text, filepath.Join(folder, "..data"))
				for _, name := range []string{"gateway.yaml", "key.p8"} {
					link(t, filepath.Join("..data", name), filepath.Join(folder, name))
				}
			},
		},
		"git-sync": {
			func(folder, name string) string { return filepath.Join(folder, "repository", "conf", name) },
			func(folder, text string) {
				release(t, filepath.Join(folder, ".worktrees", text, "conf"), text)
				link(t, filepath.Join(".worktrees", text), filepath.Join(folder, "repository"))
			},
		},
		"current release through an absolute link": {
			func(folder, name string) string { return filepath.Join(folder, "etc", "current", name) },
			func(folder, text string) {
				release(t, filepath.Join(folder, "releases", text), text)
				if err := os.MkdirAll(filepath.Join(folder, "etc"), 0o700); err != nil {
					t.Fatal(err)
				}
				link(t, filepath.Join(folder, "releases", text), filepath.Join(folder, "etc", "current"))
			},
		},
		"a replaced folder": {
			func(folder, name string) string { return filepath.Join(folder, "conf", name) },
			func(folder, text string) {
				release(t, filepath.Join(folder, "new"), text)
				if err := os.RemoveAll(filepath.Join(folder, "conf")); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(filepath.Join(folder, "new"), filepath.Join(folder, "conf")); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder, keys := t.TempDir(), t.TempDir()
			c.put(folder, "one")
			c.put(keys, "one")
			f := configsource.OpenFile(c.file(folder, "gateway.yaml"), slog.New(slog.DiscardHandler))
			if err := f.Commit(nil, []string{c.file(keys, "key.p8")}); err != nil {
				t.Fatal(err)
			}
			changed := runSource(t, f)
			expectText(t, f, changed, "one")
			for _, text := range []string{"two", "three"} {
				c.put(folder, text)
				expectText(t, f, changed, text)
				c.put(keys, text)
				testwait.For(t, changed, "the new key file")
			}
		})
	}
}

// panickingHandler panics once for a record with this message, and counts them.
type panickingHandler struct {
	slog.Handler
	message string
	count   *atomic.Int64
}

func (h panickingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h panickingHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message && h.count.Add(1) == 1 {
		panic("SECRET")
	}
	return nil
}

// TestNATSContinuesAfterPanic panics while the key is watched. Its next value is reported.
func TestNATSContinuesAfterPanic(t *testing.T) {
	address := jetstreamtest.StartServer(t)
	var failures atomic.Int64
	n, err := configsource.OpenNATS(configsource.NATSConfig{
		URL: address + "/sluice/gateway.yaml", Snapshot: filepath.Join(t.TempDir(), "snapshot.yaml"), ReadTimeout: time.Millisecond,
		Logger: slog.New(panickingHandler{slog.DiscardHandler, "configuration key cannot be watched yet", &failures}),
	})
	if err != nil {
		t.Fatal(err)
	}
	changed := runSource(t, n)
	testwait.Until(t, func() bool { return failures.Load() > 0 }, "there is no bucket yet")
	putConfig(t, address, "text")
	expectText(t, n, changed, "text")
}

// TestFirstStartWaitsForNATS reads a configuration without a snapshot, before the cluster is up and before
// it has the key.
func TestFirstStartWaitsForNATS(t *testing.T) {
	server := jetstreamtest.NewServer(t, t.TempDir())
	server.Stop()
	var warned atomic.Int64
	n, err := configsource.OpenNATS(configsource.NATSConfig{
		URL: server.URL + "/sluice/gateway.yaml", Snapshot: filepath.Join(t.TempDir(), "snapshot.yaml"), ReadTimeout: time.Millisecond,
		Logger: slog.New(countingHandler{slog.DiscardHandler, "NATS has no configuration yet; retrying", &warned}),
	})
	if err != nil {
		t.Fatal(err)
	}
	runSource(t, n)
	read := make(chan string, 1)
	go func() {
		text, err := n.Read(t.Context())
		if err != nil {
			t.Error(err)
		}
		read <- string(text)
	}()
	testwait.Until(t, func() bool { return warned.Load() == 1 }, "the wait is logged")
	server.Start()
	putConfig(t, server.URL, "text")
	if text := testwait.For(t, read, "the configuration"); text != "text" {
		t.Errorf("%q", text)
	}
}

// TestReadEndsWithoutConfiguration reads a key that the cluster does not have, without a snapshot.
func TestReadEndsWithoutConfiguration(t *testing.T) {
	n := openNATS(t, jetstreamtest.StartServer(t), filepath.Join(t.TempDir(), "snapshot.yaml"))
	runSource(t, n)
	if _, err := n.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "sluice/gateway.yaml") {
		t.Error(err)
	}
}

// countingHandler counts the records with this message.
type countingHandler struct {
	slog.Handler
	message string
	count   *atomic.Int64
}

func (h countingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h countingHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		h.count.Add(1)
	}
	return nil
}
