// SPDX-License-Identifier: Apache-2.0

package quotalease_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/quotalease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// port is outside the range of ephemeral ports, so that a server can use it again after a restart.
// It differs between test processes.
var port = 20_000 + os.Getpid()%10_000

// startServer starts a NATS server that runs until the test ends or stop is called.
func startServer(t *testing.T, dir string) (server *nats.Server, stop func()) {
	t.Helper()
	server, err := nats.NewServer(&nats.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	stop = sync.OnceFunc(func() { server.Shutdown(); server.WaitForShutdown() })
	t.Cleanup(stop)
	if !server.ReadyForConnections(time.Minute) {
		t.Fatal("the server did not start")
	}
	return server, stop
}

// expectDocument fails the test unless the document has that text. It returns the revision.
func expectDocument(t *testing.T, b *quotalease.Bucket, want string) uint64 {
	t.Helper()
	text, revision, err := b.Read(t.Context(), "key")
	if err != nil || string(text) != want || (revision == 0) != (want == "") {
		t.Fatalf("document %q at revision %d, %v; want %q", text, revision, err, want)
	}
	return revision
}

func TestBucketCompareAndSet(t *testing.T) {
	dir := t.TempDir()
	server, stop := startServer(t, dir)
	e, err := jetstream.Open(t.Context(), jetstream.Config{URL: server.ClientURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	one, two := &quotalease.Bucket{Engine: e}, &quotalease.Bucket{Engine: e}
	write := func(b *quotalease.Bucket, text string, revision uint64, want error) {
		t.Helper()
		if err := b.Write(t.Context(), "key", []byte(text), revision); !errors.Is(err, want) {
			t.Fatalf("write %q at revision %d: %v, want %v", text, revision, err, want)
		}
	}
	expectDocument(t, one, "")
	write(one, "first", 0, nil)
	write(two, "also first", 0, quotalease.ErrChanged)
	first := expectDocument(t, two, "first")
	write(two, "second", first, nil)
	write(one, "too late", first, quotalease.ErrChanged)
	expectDocument(t, one, "second")

	stop()
	if err := one.Write(shortContext(t), "key", []byte("server is down"), first); err == nil || errors.Is(err, quotalease.ErrChanged) {
		t.Fatalf("without a server: %v", err)
	}
	startServer(t, dir)
	for {
		if _, _, err := one.Read(shortContext(t), "key"); err == nil {
			break
		}
	}
	expectDocument(t, one, "")
	write(one, "new", 0, nil)
	for {
		if _, _, err := two.Read(shortContext(t), "key"); err == nil {
			break
		}
	}
	expectDocument(t, two, "new")
}

// shortContext returns a context with a short timeout.
func shortContext(t *testing.T) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	t.Cleanup(stop)
	return ctx
}
