// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// openURL opens an engine on an external server.
func openURL(t *testing.T, url string) *jetstream.Engine {
	t.Helper()
	e, err := jetstream.Open(t.Context(), jetstream.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// memoryBucket is the configuration of the buckets in the tests.
var memoryBucket = natsjs.KeyValueConfig{Bucket: "TEST", TTL: time.Minute, Storage: natsjs.MemoryStorage}

// expectValue fails the test unless the key has that value. It returns the revision.
func expectValue(t *testing.T, b *jetstream.Bucket, want string) uint64 {
	t.Helper()
	value, revision, err := b.Get(t.Context(), "key")
	if err != nil || string(value) != want || (revision == 0) != (want == "") {
		t.Fatalf("value %q at revision %d, %v; want %q", value, revision, err, want)
	}
	return revision
}

func TestBucketCompareAndSet(t *testing.T) {
	server := jetstreamtest.NewServer(t, t.TempDir())
	e := openURL(t, server.URL)
	one, two := e.Bucket(memoryBucket), e.Bucket(memoryBucket)
	write := func(b *jetstream.Bucket, value string, revision uint64, want error) (written uint64) {
		t.Helper()
		written, err := b.CompareAndSet(t.Context(), "key", []byte(value), revision)
		if !errors.Is(err, want) {
			t.Fatalf("write %q at revision %d: %v, want %v", value, revision, err, want)
		}
		return written
	}
	expectValue(t, one, "")
	first := write(one, "first", 0, nil)
	write(two, "also first", 0, jetstream.ErrChanged)
	if found := expectValue(t, two, "first"); found != first {
		t.Errorf("written at revision %d, found at %d", first, found)
	}
	write(two, "second", first, nil)
	write(one, "too late", first, jetstream.ErrChanged)
	expectValue(t, one, "second")

	server.Stop()
	if _, err := one.CompareAndSet(shortContext(t), "key", []byte("server is down"), first); err == nil || errors.Is(err, jetstream.ErrChanged) {
		t.Fatalf("without a server: %v", err)
	}
	server.Start() // without the bucket, which was in memory
	canRead := func(b *jetstream.Bucket) func() bool {
		return func() bool {
			_, _, err := b.Get(shortContext(t), "key")
			return err == nil
		}
	}
	testwait.Until(t, canRead(one), "the key can be read again")
	expectValue(t, one, "")
	write(one, "new", 0, nil)
	testwait.Until(t, canRead(two), "the other gateway can read it too")
	expectValue(t, two, "new")
}

// shortContext returns a context with a short timeout.
func shortContext(t *testing.T) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	t.Cleanup(stop)
	return ctx
}

// TestLostBucketIsCreatedAgain deletes the bucket before each kind of request.
func TestLastSeqOfBucketChangesWithKeys(t *testing.T) {
	b := openURL(t, jetstreamtest.NewServer(t, t.TempDir()).URL).Bucket(memoryBucket)
	before := uint64(0)
	expect := func(what string, changed bool) {
		t.Helper()
		seq, err := b.LastSeq(t.Context())
		if err != nil || (seq > before) != changed {
			t.Fatalf("after %s: %d, before %d, %v", what, seq, before, err)
		}
		before = seq
	}
	expect("nothing", false)
	revision, err := b.CompareAndSet(t.Context(), "key", []byte("first"), 0)
	if err != nil {
		t.Fatal(err)
	}
	expect("a new key", true)
	if _, err := b.CompareAndSet(t.Context(), "key", []byte("second"), revision); err != nil {
		t.Fatal(err)
	}
	expect("a new value", true)
	expectValue(t, b, "second")
	expect("a read", false)
	if err := b.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	expect("a deletion", true)
}

func TestLostBucketIsCreatedAgain(t *testing.T) {
	e := openURL(t, jetstreamtest.StartServer(t))
	b := e.Bucket(memoryBucket)
	if err := b.Put(t.Context(), "key", []byte("value")); err != nil {
		t.Fatal(err)
	}
	expectValue(t, b, "value")
	for name, request := range map[string]func() error{
		"get":    func() error { expectValue(t, b, ""); return nil },
		"put":    func() error { return b.Put(t.Context(), "key", nil) },
		"create": func() error { _, err := b.CompareAndSet(t.Context(), "key", nil, 0); return err },
	} {
		if err := e.JetStream().DeleteKeyValue(t.Context(), "TEST"); err != nil {
			t.Fatal(err)
		}
		if err := request(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := e.JetStream().DeleteKeyValue(t.Context(), "TEST"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CompareAndSet(t.Context(), "key", nil, 1); !errors.Is(err, jetstream.ErrChanged) {
		t.Errorf("replaced a value that is lost: %v", err)
	}
}

// TestConflictsWithReplicas makes conflicting writes on a cluster with three replicas. It reports those
// that conflict with a write in progress with another error code.
func TestConflictsWithReplicas(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstreamtest.NewCluster(t).Account(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	b := e.Bucket(memoryBucket)
	first, err := b.CompareAndSet(t.Context(), "key", []byte("first"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, revision := range []uint64{0, first + 1} {
		if _, err := b.CompareAndSet(t.Context(), "key", nil, revision); !errors.Is(err, jetstream.ErrChanged) {
			t.Errorf("at revision %d: %v", revision, err)
		}
	}
	var written atomic.Int64
	var writers sync.WaitGroup
	for range 32 {
		writers.Go(func() {
			switch _, err := b.CompareAndSet(t.Context(), "key", nil, first); {
			case err == nil:
				written.Add(1)
			case !errors.Is(err, jetstream.ErrChanged):
				t.Error(err)
			}
		})
	}
	testwait.Call(t, writers.Wait, "the end of all writers")
	if written.Load() != 1 {
		t.Errorf("%d writers replaced the same value", written.Load())
	}
	lease := b.Lease("lease", nil)
	if _, err := lease.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "lease", nil); err != nil { // another holder has it
		t.Fatal(err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Errorf("release of a lost lease: %v", err)
	}
	if _, err := b.Lease("lease", nil).Acquire(t.Context()); !errors.Is(err, jetstream.ErrHeld) {
		t.Errorf("a lost lease was released for its new holder: %v", err)
	}
}
