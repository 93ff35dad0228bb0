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

// Bucket keeps the documents in the memory of a cluster's engine. When the cluster loses them they are made anew.
type Bucket struct {
	Engine *jetstream.Engine

	cached atomic.Pointer[natsjs.KeyValue] // nil until somebody asks, and after a trouble
}

var _ Store = (*Bucket)(nil)

const (
	bucketName  = "SLUICE_SHARES"
	documentTTL = time.Hour // documents that nobody writes any more
)

// Read returns the document under key, and 0 if there is none.
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

// Write puts text in the place of a revision.
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
	var refused natsjs.JetStreamError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, natsjs.ErrKeyExists),
		errors.As(err, &refused) && refused.APIError() != nil && refused.APIError().ErrorCode == natsjs.JSErrCodeStreamWrongLastSequence:
		return ErrChanged
	default:
		return b.reset(err)
	}
}

// reset has the bucket opened anew: it may be gone.
func (b *Bucket) reset(err error) error {
	b.cached.Store(nil)
	return fmt.Errorf("share: bucket %s: %w", bucketName, err)
}

func (b *Bucket) bucket(ctx context.Context) (natsjs.KeyValue, error) {
	if kv := b.cached.Load(); kv != nil {
		return *kv, nil
	}
	kv, err := b.Engine.JetStream().CreateOrUpdateKeyValue(ctx, natsjs.KeyValueConfig{
		Bucket: bucketName, TTL: documentTTL, Storage: natsjs.MemoryStorage, Replicas: b.Engine.Replicas(), History: 1,
	})
	if err != nil {
		return nil, b.reset(err)
	}
	b.cached.Store(&kv)
	return kv, nil
}
