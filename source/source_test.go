// SPDX-License-Identifier: Apache-2.0

package source_test

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
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/source"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

// patience bounds every wait: whoever reaches it has failed.
const patience = time.Minute

// port is one that the system gives to nobody who lets it choose, so that a server can come back to it, and that no other
// process that runs these tests takes.
var port = 20_000 + os.Getpid()%10_000

// cluster starts a NATS server of one, which ends with the test or with stop.
func cluster(t *testing.T, folder string) (address string, stop func()) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: folder, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("no server")
	}
	stop = sync.OnceFunc(func() { s.Shutdown(); s.WaitForShutdown() })
	t.Cleanup(stop)
	return s.Addr().String(), stop
}

// put writes a text under the key that all tests use.
func put(t *testing.T, address, text string) {
	t.Helper()
	conn, err := nats.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.PutString(t.Context(), "gateway.yaml", text); err != nil {
		t.Fatal(err)
	}
}

// run runs a source until the test ends.
func run(t *testing.T, s source.Source) (changed <-chan struct{}) {
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

// reads waits until the source tells of a change after which it reads as text.
func reads(t *testing.T, s source.Source, changed <-chan struct{}, text string) {
	t.Helper()
	late := time.After(patience)
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

func key(t *testing.T, address, snapshot string) *source.Key {
	t.Helper()
	k, err := source.OpenKey(source.KeyConfig{URL: fmt.Sprintf("nats://user:password@%s/sluice/gateway.yaml", address), Snapshot: snapshot, Patience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAKeyTellsOfEachTextThatIsPutThere(t *testing.T) {
	address, _ := cluster(t, t.TempDir())
	k := key(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := run(t, k)
	for i := range 3 { // the first puts the bucket there, too
		text := fmt.Sprint("text ", i)
		put(t, address, text)
		reads(t, k, changed, text)
	}
}

func TestAKeyFollowsAClusterThatComesBack(t *testing.T) {
	folder := t.TempDir()
	address, stop := cluster(t, folder)
	put(t, address, "before")
	k := key(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := run(t, k)
	reads(t, k, changed, "before")
	stop()
	cluster(t, folder)
	put(t, address, "after")
	reads(t, k, changed, "after")
}

func TestWhileTheClusterIsDownTheSnapshotCounts(t *testing.T) {
	address, stop := cluster(t, t.TempDir())
	stop()
	snapshot := filepath.Join(t.TempDir(), "snapshot.yaml")
	k := key(t, address, snapshot)
	run(t, k)
	if _, err := k.Read(t.Context()); err == nil || strings.Contains(err.Error(), "password") || !strings.Contains(err.Error(), "snapshot") {
		t.Errorf("without a snapshot: %v", err)
	}
	if err := k.Keep([]byte("good"), nil); err != nil {
		t.Fatal(err)
	}
	if text, err := k.Read(t.Context()); err != nil || string(text) != "good" || string(k.Last()) != "good" {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Stat(snapshot); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestASnapshotThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	folder := t.TempDir()
	k := key(t, "127.0.0.1:1", filepath.Join(folder, "snapshot.yaml"))
	if err := k.Keep([]byte("old"), nil); err != nil {
		t.Fatal(err)
	}
	gone := key(t, "127.0.0.1:1", filepath.Join(folder, "nowhere", "snapshot.yaml"))
	if err := gone.Keep([]byte("new"), nil); err == nil {
		t.Error("kept in a folder that is not there")
	}
	if string(k.Last()) != "old" {
		t.Errorf("%q", k.Last())
	}
}

func TestAURLWithoutAKeyIsRefusedWithoutItsPassword(t *testing.T) {
	for _, url := range []string{"nats://user:password@host:4222", "nats://user:password@host/bucket", "nats://user:pass%zzword@host/b/k", "://"} {
		_, err := source.OpenKey(source.KeyConfig{URL: url, Snapshot: "s"})
		if err == nil || strings.Contains(err.Error(), "word@") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := source.OpenKey(source.KeyConfig{URL: "nats://host/b/k"}); err == nil || !strings.Contains(err.Error(), "--snapshot") {
		t.Errorf("without a snapshot: %v", err)
	}
}

func TestAFileTellsWhenItOrOneThatBelongsToItIsReplaced(t *testing.T) {
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
	f := source.OpenFile(path)
	if err := f.Keep(nil, []string{filepath.Join(keys, "key.p8")}); err != nil {
		t.Fatal(err)
	}
	changed := run(t, f)
	reads(t, f, changed, "one")
	replace(path, "two")
	reads(t, f, changed, "two")
	replace(filepath.Join(keys, "key.p8"), "secret")
	reads(t, f, changed, "two")
}
