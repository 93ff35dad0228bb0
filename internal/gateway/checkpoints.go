// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/webhooks"
)

const (
	checkpointBucket = "SLUICE_WEBHOOKS"
	leaseBucket      = "SLUICE_WEBHOOK_HOLDERS"
	// leaseTTL is how long a gateway of a cluster has a webhook without saying so again, which it does holdAgain.
	leaseTTL           = 15 * time.Second
	leaseRenewInterval = 5 * time.Second
)

// checkpointStore keep how far webhooks are, in the engine, and which gateway of a cluster runs each. Buckets are made when they
// are first needed.
type checkpointStore struct {
	engine *jetstream.Engine

	mu          sync.Mutex
	checkpoints natsjs.KeyValue
	leases      natsjs.KeyValue
}

// bucket returns one of the buckets, at *at once it is there.
func (p *checkpointStore) bucket(ctx context.Context, at *natsjs.KeyValue, cfg natsjs.KeyValueConfig) (natsjs.KeyValue, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *at != nil {
		return *at, nil
	}
	cfg.Replicas, cfg.History = p.engine.Replicas(), 1
	found, err := p.engine.JetStream().CreateOrUpdateKeyValue(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", cfg.Bucket, err)
	}
	*at = found
	return found, nil
}

func (p *checkpointStore) checkpointKV(ctx context.Context) (natsjs.KeyValue, error) {
	return p.bucket(ctx, &p.checkpoints, natsjs.KeyValueConfig{Bucket: checkpointBucket, Storage: natsjs.FileStorage})
}

// Load returns a webhook's position, zero for one that is new.
func (p *checkpointStore) Load(ctx context.Context, name string) (at webhooks.Checkpoint, err error) {
	bucket, err := p.checkpointKV(ctx)
	if err != nil {
		return at, err
	}
	entry, err := bucket.Get(ctx, name)
	if errors.Is(err, natsjs.ErrKeyNotFound) {
		return at, nil
	}
	if err != nil {
		return at, err
	}
	return at, json.Unmarshal(entry.Value(), &at)
}

// Save returns once the position is on disk.
func (p *checkpointStore) Save(ctx context.Context, name string, at webhooks.Checkpoint) error {
	text, err := json.Marshal(at)
	if err != nil {
		return err
	}
	bucket, err := p.checkpointKV(ctx)
	if err != nil {
		return err
	}
	_, err = bucket.Put(ctx, name, text)
	return err
}

// withLease runs work while this gateway has the webhook of that name, and so no other of its cluster has.
func (p *checkpointStore) withLease(ctx context.Context, name string, work func(context.Context) error) error {
	if p.engine.Embedded() {
		return work(ctx)
	}
	return p.runLeased(ctx, name, leaseRenewInterval, work)
}

// runLeased waits for the webhook, and begins again when it was lost, until ctx ends.
func (p *checkpointStore) runLeased(ctx context.Context, name string, again time.Duration, work func(context.Context) error) error {
	for ctx.Err() == nil {
		bucket, err := p.bucket(ctx, &p.leases, natsjs.KeyValueConfig{Bucket: leaseBucket, TTL: leaseTTL, Storage: natsjs.MemoryStorage})
		if err == nil {
			var revision uint64
			if revision, err = bucket.Create(ctx, name, nil); err == nil {
				h := webhookLease{bucket: bucket, name: name, renewInterval: again, revision: revision}
				if err := h.run(ctx, work); err != nil {
					return err
				}
				continue
			}
		}
		select { // another has it, or nobody can tell
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
	return nil
}

// webhookLease is a webhook that this gateway has.
type webhookLease struct {
	bucket        natsjs.KeyValue
	name          string
	renewInterval time.Duration
	revision      uint64 // 0 once it is lost
}

// run works until the webhook is lost or ctx ends, and then lets another have it.
func (h *webhookLease) run(ctx context.Context, work func(context.Context) error) error {
	held, lose := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		defer lose()
		h.renew(held)
	})
	err := work(held)
	lose()
	renewing.Wait()
	if h.revision != 0 {
		parting, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		_ = h.bucket.Delete(parting, h.name, natsjs.LastRevision(h.revision)) // or time does it
	}
	return err
}

// renew says again and again that the webhook is held, until ctx ends or it is lost, for sure or for all we know.
func (h *webhookLease) renew(ctx context.Context) {
	for renewed := time.Now(); ; {
		select {
		case <-time.After(h.renewInterval):
		case <-ctx.Done():
			return
		}
		asking, done := context.WithTimeout(ctx, leaseRenewInterval)
		next, err := h.bucket.Update(asking, h.name, nil, h.revision)
		done()
		switch {
		case err == nil:
			h.revision, renewed = next, time.Now()
		case errors.Is(err, natsjs.ErrKeyRevisionMismatch), time.Since(renewed) > leaseTTL-leaseRenewInterval:
			h.revision = 0
			return
		}
	}
}
