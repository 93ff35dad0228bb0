// SPDX-License-Identifier: Apache-2.0

package quotalease_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/quotalease"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	server := jetstreamtest.NewServer(t, t.TempDir())
	e, err := jetstream.Open(t.Context(), jetstream.Config{URL: server.URL})
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

	server.Stop()
	if err := one.Write(shortContext(t), "key", []byte("server is down"), first); err == nil || errors.Is(err, quotalease.ErrChanged) {
		t.Fatalf("without a server: %v", err)
	}
	server.Start()
	canRead := func(b *quotalease.Bucket) func() bool {
		return func() bool {
			_, _, err := b.Read(shortContext(t), "key")
			return err == nil
		}
	}
	testwait.Until(t, canRead(one), "the document can be read again")
	expectDocument(t, one, "")
	write(one, "new", 0, nil)
	testwait.Until(t, canRead(two), "the other member can read it too")
	expectDocument(t, two, "new")
}

// shortContext returns a context with a short timeout.
func shortContext(t *testing.T) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	t.Cleanup(stop)
	return ctx
}
