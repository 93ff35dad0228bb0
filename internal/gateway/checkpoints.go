// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/webhooks"
)

const (
	// leaseTTL is how long a gateway of a cluster has the lease of a webhook without renewing it.
	// It renews it every leaseRenewInterval.
	leaseTTL           = 15 * time.Second
	leaseRenewInterval = 5 * time.Second
)

// checkpointStore stores the checkpoints of webhooks, and the leases that decide which gateway of a
// cluster runs each webhook.
type checkpointStore struct {
	log         *slog.Logger
	checkpoints *jetstream.Bucket
	leases      *jetstream.Bucket // nil with an embedded engine, which needs no leases
}

// open makes the store use an engine.
func (c *checkpointStore) open(e *jetstream.Engine, log *slog.Logger) {
	c.log, c.checkpoints = log, e.Bucket(natsjs.KeyValueConfig{Bucket: "SLUICE_WEBHOOKS", Storage: natsjs.FileStorage})
	if !e.Embedded() {
		c.leases = newLeaseBucket(e)
	}
}

func newLeaseBucket(e *jetstream.Engine) *jetstream.Bucket {
	return e.Bucket(natsjs.KeyValueConfig{Bucket: "SLUICE_WEBHOOK_LEASES", TTL: leaseTTL, Storage: natsjs.MemoryStorage})
}

// Load returns the checkpoint of a webhook, or a zero checkpoint for a new webhook.
func (c *checkpointStore) Load(ctx context.Context, name string) (checkpoint webhooks.Checkpoint, err error) {
	text, revision, err := c.checkpoints.Get(ctx, name)
	if err != nil || revision == 0 {
		return checkpoint, err
	}
	return checkpoint, json.Unmarshal(text, &checkpoint)
}

// Save returns when the checkpoint is on disk.
func (c *checkpointStore) Save(ctx context.Context, name string, checkpoint webhooks.Checkpoint) error {
	text, err := json.Marshal(checkpoint)
	if err != nil {
		return err
	}
	return c.checkpoints.Put(ctx, name, text)
}

// withLease runs work while this gateway has the lease of the webhook, or at once if it needs none.
func (c *checkpointStore) withLease(ctx context.Context, name string, work func(context.Context) error) error {
	if c.leases == nil {
		return work(ctx)
	}
	return c.runLeased(ctx, name, leaseRenewInterval, work)
}

// runLeased waits for the lease and runs work while it has it. It starts over when the lease is
// lost, until ctx ends.
func (c *checkpointStore) runLeased(ctx context.Context, name string, interval time.Duration, work func(context.Context) error) error {
	for ctx.Err() == nil {
		lease := c.leases.Lease(name, nil)
		if _, err := lease.Acquire(ctx); err == nil {
			if err := c.runWhileHeld(ctx, name, lease, interval, work); err != nil {
				return err
			}
			continue
		}
		select { // another gateway has the lease, or the cluster does not respond
		case <-time.After(interval):
		case <-ctx.Done():
		}
	}
	return nil
}

// runWhileHeld runs work until the lease is lost or ctx ends, and then releases the lease.
func (c *checkpointStore) runWhileHeld(
	ctx context.Context, name string, lease *jetstream.Lease, interval time.Duration, work func(context.Context) error,
) error {
	leased, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		defer cancel()
		_ = panics.Recover(c.log, "lease of "+name, func() error { lease.Keep(leased, interval); return nil }) // work ends, and runLeased starts over
	})
	err := work(leased)
	cancel()
	renewing.Wait()
	releaseCtx, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	_ = lease.Release(releaseCtx) // if it fails, the lease expires
	return err
}
