// SPDX-License-Identifier: Apache-2.0

package quotalease

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// Bucket is a Store in a JetStream key-value bucket with memory storage. If the cluster loses the
// documents, the members create new ones.
type Bucket struct {
	Engine *jetstream.Engine

	cached atomic.Pointer[natsjs.KeyValue] // nil before the first use and after an error
}

var _ Store = (*Bucket)(nil)

const (
	bucketName  = "SLUICE_QUOTA_LEASES"
	documentTTL = time.Hour // after the last write
)

// Read returns the document and its revision, or revision 0 if there is none.
func (b *Bucket) Read(ctx context.Context, key string) (text []byte, revision uint64, err error) {
	kv, err := b.bucket(ctx)
	if err != nil {
		return nil, 0, err
	}
	entry, err := kv.Get(ctx, key)
	switch {
	case err == nil:
		return entry.Value(), entry.Revision(), nil
	case errors.Is(err, natsjs.ErrKeyNotFound):
		return nil, 0, nil
	default:
		return nil, 0, b.reset(err)
	}
}

// Write replaces the document at a revision, or creates it if revision is 0.
func (b *Bucket) Write(ctx context.Context, key string, text []byte, revision uint64) error {
	kv, err := b.bucket(ctx)
	if err != nil {
		return err
	}
	if revision == 0 {
		_, err = kv.Create(ctx, key, text)
	} else {
		_, err = kv.Update(ctx, key, text, revision)
	}
	var jsErr natsjs.JetStreamError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, natsjs.ErrKeyExists),
		errors.As(err, &jsErr) && jsErr.APIError() != nil && jsErr.APIError().ErrorCode == natsjs.JSErrCodeStreamWrongLastSequence:
		return ErrChanged
	default:
		return b.reset(err)
	}
}

// reset makes the next call open the bucket again, because it may no longer exist. It returns err
// with the bucket's name.
func (b *Bucket) reset(err error) error {
	b.cached.Store(nil)
	return fmt.Errorf("quotalease: bucket %s: %w", bucketName, err)
}

func (b *Bucket) bucket(ctx context.Context) (natsjs.KeyValue, error) {
	if kv := b.cached.Load(); kv != nil {
		return *kv, nil
	}
	kv, err := b.Engine.KeyValue(ctx, natsjs.KeyValueConfig{Bucket: bucketName, TTL: documentTTL, Storage: natsjs.MemoryStorage, History: 1})
	if err != nil {
		return nil, b.reset(err)
	}
	b.cached.Store(&kv)
	return kv, nil
}
