// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/webhooks"
)

const (
	checkpointBucket = "SLUICE_WEBHOOKS"
	leaseBucket      = "SLUICE_WEBHOOK_LEASES"
	// leaseTTL is how long a gateway of a cluster has the lease of a webhook without renewing it.
	// It renews it every leaseRenewInterval.
	leaseTTL           = 15 * time.Second
	leaseRenewInterval = 5 * time.Second
)

// checkpointStore stores the checkpoints of webhooks, and the leases that decide which gateway of a
// cluster runs each webhook. It opens its buckets on first use.
type checkpointStore struct {
	engine *jetstream.Engine
	log    *slog.Logger

	mu          sync.Mutex
	checkpoints natsjs.KeyValue
	leases      natsjs.KeyValue
}

// bucket returns the bucket in *cached, which it opens if necessary.
func (c *checkpointStore) bucket(ctx context.Context, cached *natsjs.KeyValue, cfg natsjs.KeyValueConfig) (natsjs.KeyValue, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *cached != nil {
		return *cached, nil
	}
	cfg.History = 1
	bucket, err := c.engine.KeyValue(ctx, cfg)
	if err != nil {
		return nil, err
	}
	*cached = bucket
	return bucket, nil
}

func (c *checkpointStore) checkpointKV(ctx context.Context) (natsjs.KeyValue, error) {
	return c.bucket(ctx, &c.checkpoints, natsjs.KeyValueConfig{Bucket: checkpointBucket, Storage: natsjs.FileStorage})
}

// Load returns the checkpoint of a webhook, or a zero checkpoint for a new webhook.
func (c *checkpointStore) Load(ctx context.Context, name string) (checkpoint webhooks.Checkpoint, err error) {
	bucket, err := c.checkpointKV(ctx)
	if err != nil {
		return checkpoint, err
	}
	entry, err := bucket.Get(ctx, name)
	if errors.Is(err, natsjs.ErrKeyNotFound) {
		return checkpoint, nil
	}
	if err != nil {
		return checkpoint, err
	}
	return checkpoint, json.Unmarshal(entry.Value(), &checkpoint)
}

// Save returns when the checkpoint is on disk.
func (c *checkpointStore) Save(ctx context.Context, name string, checkpoint webhooks.Checkpoint) error {
	text, err := json.Marshal(checkpoint)
	if err != nil {
		return err
	}
	bucket, err := c.checkpointKV(ctx)
	if err != nil {
		return err
	}
	_, err = bucket.Put(ctx, name, text)
	return err
}

// withLease runs work while this gateway has the lease of the webhook. An embedded engine needs no
// lease.
func (c *checkpointStore) withLease(ctx context.Context, name string, work func(context.Context) error) error {
	if c.engine.Embedded() {
		return work(ctx)
	}
	return c.runLeased(ctx, name, leaseRenewInterval, work)
}

// runLeased waits for the lease and runs work while it has it. It starts over when the lease is
// lost, until ctx ends.
func (c *checkpointStore) runLeased(ctx context.Context, name string, interval time.Duration, work func(context.Context) error) error {
	for ctx.Err() == nil {
		bucket, err := c.bucket(ctx, &c.leases, natsjs.KeyValueConfig{Bucket: leaseBucket, TTL: leaseTTL, Storage: natsjs.MemoryStorage})
		if err == nil {
			var revision uint64
			if revision, err = bucket.Create(ctx, name, nil); err == nil {
				lease := webhookLease{log: c.log, bucket: bucket, name: name, renewInterval: interval, revision: revision}
				if err := lease.run(ctx, work); err != nil {
					return err
				}
				continue
			}
		}
		select { // another gateway has the lease, or the cluster does not respond
		case <-time.After(interval):
		case <-ctx.Done():
		}
	}
	return nil
}

// webhookLease is this gateway's lease of a webhook.
type webhookLease struct {
	log           *slog.Logger
	bucket        natsjs.KeyValue
	name          string
	renewInterval time.Duration
	revision      uint64 // 0 if the lease is lost
}

// run runs work until the lease is lost or ctx ends, and then releases the lease.
func (l *webhookLease) run(ctx context.Context, work func(context.Context) error) error {
	leased, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		defer cancel()
		_ = panics.Recover(l.log, "lease of webhook "+l.name, func() error { l.renew(leased); return nil }) // work ends, and run starts over
	})
	err := work(leased)
	cancel()
	renewing.Wait()
	if l.revision != 0 {
		deleteCtx, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		_ = l.bucket.Delete(deleteCtx, l.name, natsjs.LastRevision(l.revision)) // if it fails, the lease expires
	}
	return err
}

// renew renews the lease until ctx ends, or until the lease is lost or may have expired.
func (l *webhookLease) renew(ctx context.Context) {
	for renewed := time.Now(); ; {
		select {
		case <-time.After(l.renewInterval):
		case <-ctx.Done():
			return
		}
		updateCtx, done := context.WithTimeout(ctx, leaseRenewInterval)
		revision, err := l.bucket.Update(updateCtx, l.name, nil, l.revision)
		done()
		switch {
		case err == nil:
			l.revision, renewed = revision, time.Now()
		case errors.Is(err, natsjs.ErrKeyRevisionMismatch), time.Since(renewed) > leaseTTL-leaseRenewInterval:
			l.revision = 0
			return
		}
	}
}
