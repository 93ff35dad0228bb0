// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Bucket is a key-value bucket that all gateways of a cluster share. A key holds a document, which
// Get and CompareAndSet read and replace, or a Lease. The bucket is created on first use, and again
// if it is lost: a bucket in memory is, when a server restarts without replicas. A Bucket is safe
// for concurrent use.
type Bucket struct {
	engine *Engine
	cfg    natsjs.KeyValueConfig
	opened atomic.Pointer[natsjs.KeyValue] // nil before the first use
}

// ErrChanged means that a document is not at the expected revision.
var ErrChanged = errors.New("jetstream: the document has changed in the meantime")

// Bucket returns a bucket that keeps the last value of each key, with the engine's number of
// replicas. It does not contact the server.
func (e *Engine) Bucket(cfg natsjs.KeyValueConfig) *Bucket {
	cfg.History, cfg.Replicas = 1, e.Replicas()
	return &Bucket{engine: e, cfg: cfg}
}

// Open creates or updates the bucket before its first use, so that invalid settings are found early.
func (b *Bucket) Open(ctx context.Context) error {
	return b.engine.Setup(ctx, "bucket "+b.cfg.Bucket, func(ctx context.Context) error {
		kv, err := b.engine.js.CreateOrUpdateKeyValue(ctx, b.cfg)
		if err == nil {
			b.opened.Store(&kv)
		}
		return err
	})
}

// Get returns the value of a key and its revision, which is 0 if there is no value. The result may
// be stale.
func (b *Bucket) Get(ctx context.Context, key string) (value []byte, revision uint64, err error) {
	err = b.do(ctx, func(kv natsjs.KeyValue) error {
		entry, err := kv.Get(ctx, key)
		if errors.Is(err, natsjs.ErrKeyNotFound) {
			return nil
		}
		if err == nil {
			value, revision = entry.Value(), entry.Revision()
		}
		return err
	})
	return value, revision, err
}

// Entry is a value of a bucket.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// List returns the values of all keys. The result may be stale.
func (b *Bucket) List(ctx context.Context) (entries []Entry, err error) {
	err = b.do(ctx, func(kv natsjs.KeyValue) error {
		entries = nil
		watcher, err := kv.WatchAll(ctx, natsjs.IgnoreDeletes())
		if err != nil {
			return err
		}
		defer func() { _ = watcher.Stop() }()
		for {
			select {
			case e := <-watcher.Updates():
				if e == nil { // those that were there
					return nil
				}
				entries = append(entries, Entry{e.Key(), e.Value(), e.Revision()})
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return entries, err
}

// LastSeq returns the sequence of the last change. It costs less than List, which creates a consumer.
func (b *Bucket) LastSeq(ctx context.Context) (seq uint64, err error) {
	err = b.do(ctx, func(kv natsjs.KeyValue) error {
		status, err := kv.Status(ctx)
		if err != nil {
			return err
		}
		info := status.(*natsjs.KeyValueBucketStatus).StreamInfo()
		if !isFromLeader(info) {
			return ErrNoLeader
		}
		seq = info.State.LastSeq
		return nil
	})
	return seq, err
}

// Delete removes a key and its value.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.do(ctx, func(kv natsjs.KeyValue) error { return kv.Purge(ctx, key) })
}

// Put sets the value of a key.
func (b *Bucket) Put(ctx context.Context, key string, value []byte) error {
	return b.do(ctx, func(kv natsjs.KeyValue) error {
		_, err := kv.Put(ctx, key, value)
		return err
	})
}

// CompareAndSet replaces the value of a key at a revision, or creates it if revision is 0. It
// returns the new revision. If the value has another revision the error is ErrChanged. After any
// other error it is unknown whether the value was written.
func (b *Bucket) CompareAndSet(ctx context.Context, key string, value []byte, revision uint64) (written uint64, err error) {
	err = b.do(ctx, func(kv natsjs.KeyValue) (err error) {
		if revision == 0 {
			written, err = kv.Create(ctx, key, value)
		} else {
			written, err = kv.Update(ctx, key, value, revision)
		}
		return err
	})
	return written, err
}

// purge removes the value of a key at a revision. The error is ErrChanged if it has another
// revision.
func (b *Bucket) purge(ctx context.Context, key string, revision uint64) error {
	return b.do(ctx, func(kv natsjs.KeyValue) error { return kv.Purge(ctx, key, natsjs.LastRevision(revision)) })
}

// do calls request. If there is no bucket, it creates one and calls request again.
func (b *Bucket) do(ctx context.Context, request func(natsjs.KeyValue) error) error {
	kv := b.opened.Load()
	var err error
	if kv != nil {
		err = request(*kv)
	}
	if kv == nil || isMissing(err) {
		if err := b.Open(ctx); err != nil {
			return err
		}
		err = request(*b.opened.Load())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, natsjs.ErrKeyExists), errors.Is(err, natsjs.ErrKeyRevisionMismatch):
		return ErrChanged
	default:
		return fmt.Errorf("jetstream: bucket %s: %w", b.cfg.Bucket, err)
	}
}

// isMissing reports whether no stream received a request. A bucket that exists receives none while
// its servers elect a leader; to create it again then has no effect.
func isMissing(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, natsjs.ErrNoStreamResponse) || errors.Is(err, natsjs.ErrStreamNotFound)
}
