// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/webhook"
)

const (
	positionBucket = "SLUICE_WEBHOOKS"
	holderBucket   = "SLUICE_WEBHOOK_HOLDERS"
	// holdFor is how long a gateway of a cluster has a webhook without saying so again, which it does holdAgain.
	holdFor   = 15 * time.Second
	holdAgain = 5 * time.Second
)

// positions keep how far webhooks are, in the engine, and which gateway of a cluster runs each. Buckets are made when they
// are first needed.
type positions struct {
	engine *engine.Engine

	mu      sync.Mutex
	kept    jetstream.KeyValue
	holders jetstream.KeyValue
}

// bucket returns one of the buckets, at *at once it is there.
func (p *positions) bucket(ctx context.Context, at *jetstream.KeyValue, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
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

func (p *positions) bucketOfPositions(ctx context.Context) (jetstream.KeyValue, error) {
	return p.bucket(ctx, &p.kept, jetstream.KeyValueConfig{Bucket: positionBucket, Storage: jetstream.FileStorage})
}

// Load returns a webhook's position, zero for one that is new.
func (p *positions) Load(ctx context.Context, name string) (at webhook.Checkpoint, err error) {
	bucket, err := p.bucketOfPositions(ctx)
	if err != nil {
		return at, err
	}
	entry, err := bucket.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return at, nil
	}
	if err != nil {
		return at, err
	}
	return at, json.Unmarshal(entry.Value(), &at)
}

// Save returns once the position is on disk.
func (p *positions) Save(ctx context.Context, name string, at webhook.Checkpoint) error {
	text, err := json.Marshal(at)
	if err != nil {
		return err
	}
	bucket, err := p.bucketOfPositions(ctx)
	if err != nil {
		return err
	}
	_, err = bucket.Put(ctx, name, text)
	return err
}

// hold runs work while this gateway has the webhook of that name, and so no other of its cluster has.
func (p *positions) hold(ctx context.Context, name string, work func(context.Context) error) error {
	if p.engine.Embedded() {
		return work(ctx)
	}
	return p.share(ctx, name, holdAgain, work)
}

// share waits for the webhook, and begins again when it was lost, until ctx ends.
func (p *positions) share(ctx context.Context, name string, again time.Duration, work func(context.Context) error) error {
	for ctx.Err() == nil {
		bucket, err := p.bucket(ctx, &p.holders, jetstream.KeyValueConfig{Bucket: holderBucket, TTL: holdFor, Storage: jetstream.MemoryStorage})
		if err == nil {
			var revision uint64
			if revision, err = bucket.Create(ctx, name, nil); err == nil {
				h := holding{bucket: bucket, name: name, again: again, revision: revision}
				if err := h.work(ctx, work); err != nil {
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

// holding is a webhook that this gateway has.
type holding struct {
	bucket   jetstream.KeyValue
	name     string
	again    time.Duration
	revision uint64 // 0 once it is lost
}

// work works until the webhook is lost or ctx ends, and then lets another have it.
func (h *holding) work(ctx context.Context, work func(context.Context) error) error {
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
		_ = h.bucket.Delete(parting, h.name, jetstream.LastRevision(h.revision)) // or time does it
	}
	return err
}

// renew says again and again that the webhook is held, until ctx ends or it is lost, for sure or for all we know.
func (h *holding) renew(ctx context.Context) {
	for renewed := time.Now(); ; {
		select {
		case <-time.After(h.again):
		case <-ctx.Done():
			return
		}
		asking, done := context.WithTimeout(ctx, holdAgain)
		next, err := h.bucket.Update(asking, h.name, nil, h.revision)
		done()
		switch {
		case err == nil:
			h.revision, renewed = next, time.Now()
		case errors.Is(err, jetstream.ErrKeyRevisionMismatch), time.Since(renewed) > holdFor-holdAgain:
			h.revision = 0
			return
		}
	}
}
