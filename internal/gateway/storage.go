// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/quotalease"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

var (
	_ api.Queue     = (*storage)(nil)
	_ api.History   = (*storage)(nil)
	_ queue.Sender  = (*Gateway)(nil)
	_ queue.Journal = historyJournal{}
)

// storage is what outlives the gateway: the queue, the history of everything, and the engine that keeps both. Nil is a
// gateway without a queue.
type storage struct {
	*queue.Queue     // nil before open
	*history.History // nil before open
	engine           *jetstream.Engine
	quotaLease       *quotalease.Member // nil before open, and where there is no cluster
	opened           atomic.Bool

	auditMu sync.Mutex // one audit at a time

	stopBackend, stopQueue context.CancelFunc
	backend, queueGroup    errgroup.Group // the engine's Run, the history's and the shares'; the queue's
	webhookRunner          webhookRunner
	checkpoints            checkpointStore // of the webhooks
}

// hasQueue reports whether the configuration has a queue.
func hasQueue(cfg *config.Config) bool { return cfg.Queue.Dir != "" || cfg.Queue.NATS.URL != "" }

// apiQueue and forHistory are what the API asks, which it does only once the gateway runs.
func (d *storage) apiQueue() api.Queue {
	if d == nil {
		return nil
	}
	return d
}

func (d *storage) apiHistory() api.History {
	if d == nil {
		return nil
	}
	return d
}

// open opens what cfg names. What is due will be handed to sender.
func (d *storage) open(ctx context.Context, cfg *config.Config, sender queue.Sender, log *slog.Logger) (err error) {
	if d == nil {
		return nil
	}
	where, index := storageConfig(cfg)
	where.Logger = log
	if d.engine, err = jetstream.Open(ctx, where); err != nil {
		return err
	}
	d.History, err = history.Open(ctx, history.Config{
		Engine: d.engine, Dir: index, MaxAge: cfg.History.MaxAge, MaxBytes: int64(cfg.History.MaxBytes), IdempotencyTTL: cfg.History.IdempotencyTTL, Logger: log,
	})
	if err != nil {
		return errors.Join(err, d.engine.Close())
	}
	d.Queue, err = queue.Open(ctx, queue.Config{
		Engine: d.engine, Journal: historyJournal{d.History}, Sender: sender, MaxBytes: int64(cfg.Queue.MaxBytes), InFlight: cfg.Queue.InFlight,
		MaxDelay: cfg.History.MaxAge, RetryFor: cfg.Queue.RetryFor, SendTimeout: cfg.Limits.SendTimeout, Grace: cfg.Drain.Grace, Logger: log,
	})
	if err != nil {
		return errors.Join(err, d.History.Close(), d.engine.Close())
	}
	d.checkpoints.engine = d.engine
	d.quotaLease = newQuotaLease(d.engine, cfg.Quota.Shared, log)
	d.opened.Store(true)
	return nil
}

// idempotencyDomain names what this gateway shares its Idempotency-Keys in, empty where it does not.
func (d *storage) idempotencyDomain() string {
	if d == nil || !d.opened.Load() {
		return ""
	}
	return d.KeyScope()
}

// storageConfig returns where the engine and the index are.
func storageConfig(cfg *config.Config) (where jetstream.Config, index string) {
	index = string(cfg.History.Dir)
	if cfg.Queue.Dir == "" {
		return jetstream.Config{URL: cfg.Queue.NATS.URL, Replicas: cfg.Queue.NATS.Replicas}, index
	}
	dir := string(cfg.Queue.Dir)
	if index == "" {
		index = filepath.Join(dir, "index")
	}
	return jetstream.Config{Dir: filepath.Join(dir, "engine"), Reserve: int64(cfg.Queue.Reserve)}, index
}

// run begins the work; end ends it.
func (d *storage) run() {
	if d == nil {
		return
	}
	keeping, stopKeeping := context.WithCancel(context.Background())
	working, stopWorking := context.WithCancel(context.Background())
	d.stopBackend, d.stopQueue = stopKeeping, stopWorking
	d.backend.Go(func() error { return d.engine.Run(keeping) })
	d.backend.Go(func() error { return d.History.Run(keeping) })
	if d.quotaLease != nil {
		d.backend.Go(func() error { return d.quotaLease.Run(keeping) })
	}
	d.queueGroup.Go(func() error { return d.Queue.Run(working) })
}

// drain has the queue take nothing more from disk.
func (d *storage) drain() {
	if d != nil {
		d.Queue.Drain()
	}
}

// stop ends the queue, then the history that it writes to, then the engine below both.
func (d *storage) stop() error {
	if d == nil {
		return nil
	}
	d.stopQueue()
	err := errors.Join(d.queueGroup.Wait(), d.webhookRunner.stopAll())
	d.stopBackend()
	return errors.Join(err, d.backend.Wait(), d.History.Close(), d.engine.Close())
}

// ready returns why nothing can be kept, or nil.
func (d *storage) ready() error {
	if d == nil || !d.opened.Load() {
		return nil
	}
	return d.Queue.Ready()
}

// QueueStatus is how the queue stands.
type QueueStatus struct {
	queue.Status
	// Writable is false while nothing can be accepted, and Reason says why.
	Writable bool   `json:"writable"`
	Reason   string `json:"reason,omitempty"`
}

// statusTimeout is how long the engine may take to tell how it stands.
const statusTimeout = time.Second

// status returns how queue and history stand, nil without a queue.
func (d *storage) status() (*QueueStatus, *history.Status) {
	if d == nil || !d.opened.Load() {
		return nil, nil
	}
	ctx, stop := context.WithTimeout(context.Background(), statusTimeout)
	defer stop()
	status, err := d.Queue.Status(ctx)
	if err == nil {
		err = d.Queue.Ready()
	}
	q := &QueueStatus{Status: status, Writable: err == nil}
	if err != nil {
		q.Reason = err.Error()
	}
	h := d.History.Status()
	return q, &h
}

// metricsStatus is the same for the metrics, with the webhooks.
func (g *Gateway) metricsStatus() (*queue.Status, *history.Status, []webhooks.Status) {
	hooks := g.current.Load().webhookStatus()
	q, h := g.storage.status()
	if q == nil {
		return nil, h, hooks
	}
	return &q.Status, h, hooks
}

// historyJournal is the history in the queue's words.
type historyJournal struct{ *history.History }

func (j historyJournal) States(ctx context.Context, ids []string) (map[string]queue.State, error) {
	states, err := j.History.States(ctx, ids)
	out := make(map[string]queue.State, len(states))
	for id, s := range states {
		out[id] = queue.State{Status: s.Status, Attempt: s.Attempt, Offset: s.Offset}
	}
	return out, err
}

// recordingSender sends at once, and tells the history what came of it.
type recordingSender struct{ *Gateway }

// sender is what carries the notifications that are sent at once.
func (g *Gateway) sender() api.Sender {
	if g.storage == nil {
		return g
	}
	return recordingSender{g}
}

// Send sends n. One with an Idempotency-Key is on disk before it leaves: should the gateway die, its caller asks again with
// the same key, and must not be told that nothing has happened.
func (r recordingSender) Send(ctx context.Context, n *push.Notification) push.Receipt {
	if len(n.KeyHash) > 0 {
		n.BeforeAttempt = func(attempt int) error {
			e := newEvent(n, push.StatusSending)
			e.Attempt = attempt
			if _, err := r.storage.Append(ctx, e); err != nil {
				return fmt.Errorf("gateway: %w", err)
			}
			return nil
		}
	}
	receipt := r.Gateway.Send(ctx, n)
	e := newEvent(n, receipt.Status())
	e.Receipt = &receipt
	if receipt.Status() == push.StatusUnregistered {
		e.Target = &n.Target
	}
	if err := r.storage.AppendAsync(context.WithoutCancel(ctx), e); err != nil {
		r.log.Warn("gateway: an end is not in the history", "app", n.App, "err", err)
	}
	return receipt
}

// newEvent is the event that n has come to that status.
func newEvent(n *push.Notification, status push.Status) push.Event {
	return push.Event{
		ID: n.ID, App: n.App, At: time.Now().UTC(), Status: status, Platform: n.Platform, Lane: n.EffectiveLane(),
		KeyHash: n.KeyHash, BodyHash: n.BodyHash,
	}
}
