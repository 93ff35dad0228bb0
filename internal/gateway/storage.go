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

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/auditlog"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/loglimit"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/internal/panics"
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

	_ idempotency.Store   = (*storage)(nil)
	_ idempotency.History = keyHistory{}
)

// storage is the persistent state of a gateway: the queue, the history, and the engine that stores
// both. It is nil in a gateway without a queue; all methods except Queue's and History's accept a
// nil receiver.
type storage struct {
	*queue.Queue                        // nil before open
	*history.History                    // nil before open
	keys             *idempotency.Log   // nil before open
	broadcasts       *broadcast.Manager // nil before open
	engine           *jetstream.Engine
	eventLog         *jetstream.Log // nil before open
	log              *slog.Logger
	idempotencyTTL   time.Duration
	quotaLease       *quotalease.Member // nil before open, and without a cluster
	opened           atomic.Bool
	notRecorded      loglimit.Limit
	trims            atomic.Uint64 // times that trimHistory began to delete events

	audit   *auditlog.Log // nil if it is off
	auditMu sync.Mutex    // held while an audit of the notifications runs

	managing    *tasks // of the broadcasts
	sending     *tasks // of the queue
	delivering  *tasks // of the webhooks
	writing     *tasks // of the log
	backend     *tasks // of the engine, history, keys and quota leases
	checkpoints checkpointStore
}

func newStorage() *storage {
	return &storage{managing: newTasks(), sending: newTasks(), delivering: newTasks(), writing: newTasks(), backend: newTasks()}
}

// hasQueue reports whether the configuration has a queue.
func hasQueue(cfg *config.Config) bool { return cfg.Queue.Dir != "" || cfg.Queue.NATS.URL != "" }

// apiQueue returns the queue for the API, which uses it only while the gateway runs. It is nil
// without a queue.
func (st *storage) apiQueue() api.Queue {
	if st == nil {
		return nil
	}
	return st
}

// apiHistory returns the history for the API, in the same way.
func (st *storage) apiHistory() api.History {
	if st == nil {
		return nil
	}
	return st
}

// open opens the engine, the history, the queue and the keys. The queue sends due notifications with g.
func (st *storage) open(ctx context.Context, snap *snapshot, g *Gateway, log *slog.Logger) (err error) {
	if st == nil {
		return nil
	}
	cfg := snap.cfg
	engineConfig, index := storageConfig(cfg)
	engineConfig.Keys, engineConfig.Logger = snap.keys, log
	st.log, st.idempotencyTTL = log, cfg.History.IdempotencyTTL
	if st.engine, err = jetstream.Open(ctx, engineConfig); err != nil {
		return err
	}
	if st.eventLog, err = history.OpenLog(ctx, st.engine, index); err != nil {
		return errors.Join(missingKey(err, snap.keys), st.engine.Close())
	}
	st.History, err = history.Open(ctx, history.Config{
		Engine: st.engine, Log: st.eventLog, Dir: index, MaxAge: cfg.History.MaxAge, MaxBytes: int64(cfg.History.MaxBytes), IdempotencyTTL: cfg.History.IdempotencyTTL, Logger: log,
	})
	if err != nil {
		return errors.Join(err, st.eventLog.Close(), st.engine.Close())
	}
	settleTime := max(2*time.Minute, cfg.Limits.SendTimeout+time.Minute)
	st.Queue, err = queue.Open(ctx, queue.Config{
		Engine: st.engine, Log: st.eventLog, Checkpoint: checkpointFile(cfg), Journal: historyJournal{st.History}, Sender: g, MaxBytes: int64(cfg.Queue.MaxBytes), InFlight: cfg.Queue.InFlight,
		MaxDelay: cfg.History.MaxAge, RetryFor: cfg.Queue.RetryFor, SendTimeout: cfg.Limits.SendTimeout, SettleTime: settleTime, Grace: cfg.Drain.Grace, Logger: log,
	})
	if err == nil {
		st.keys, err = idempotency.NewLog(ctx, idempotency.LogConfig{Engine: st.engine, History: keyHistory{st.History}, Queue: st.Queue, ClaimTTL: 5 * settleTime / 2})
	}
	if err == nil {
		err = st.openBroadcasts(ctx, cfg, g)
	}
	if err == nil {
		err = st.audit.Open(ctx, st.engine)
	}
	if err != nil {
		return errors.Join(err, st.History.Close(), st.eventLog.Close(), st.engine.Close())
	}
	st.checkpoints.open(st.engine, log)
	st.quotaLease = newQuotaLease(st.engine, cfg.Quota.Shared, log)
	st.opened.Store(true)
	return nil
}

// checkpointFile returns the file for the state of the queue, or nothing if there is no directory for it.
func checkpointFile(cfg *config.Config) string {
	const name = "queue.checkpoint"
	switch {
	case cfg.Queue.Dir != "":
		return filepath.Join(string(cfg.Queue.Dir), name)
	case cfg.History.Dir != "":
		return filepath.Join(string(cfg.History.Dir), name)
	default:
		return ""
	}
}

// idempotencyDomain identifies the gateways that share Idempotency-Keys with this one. It is empty
// if no gateway does.
func (st *storage) idempotencyDomain() string {
	if st == nil || !st.opened.Load() {
		return ""
	}
	return st.KeyScope()
}

// storageConfig returns the configuration of the engine, and the folder of the history's index.
func storageConfig(cfg *config.Config) (engine jetstream.Config, index string) {
	index = string(cfg.History.Dir)
	if cfg.Queue.Dir == "" {
		n := &cfg.Queue.NATS
		auth := jetstream.Auth{
			CredentialsFile: string(n.CredentialsFile), NKeyFile: string(n.NKeyFile), CAFile: string(n.CAFile), CertFile: string(n.CertFile), KeyFile: string(n.KeyFile),
		}
		return jetstream.Config{URL: n.URL, Auth: auth, Replicas: n.Replicas}, index
	}
	dir := string(cfg.Queue.Dir)
	if index == "" {
		index = filepath.Join(dir, "index")
	}
	return jetstream.Config{Dir: filepath.Join(dir, "engine"), Reserve: int64(cfg.Queue.Reserve)}, index
}

// run starts the background work; stop ends it.
func (st *storage) run() {
	if st == nil {
		return
	}
	historyEnded, endHistory := context.WithCancel(context.Background())
	st.backend.start(st.engine.Run)
	st.backend.start(func(ctx context.Context) error { defer endHistory(); return st.History.Run(ctx) })
	st.backend.start(func(context.Context) error {
		return panics.Restart(historyEnded, st.log, "release of Idempotency-Keys", st.keys.Run)
	})
	st.writing.start(st.eventLog.Run)
	if st.audit != nil {
		st.writing.start(func(ctx context.Context) error { return panics.Restart(ctx, st.log, "audit log", st.audit.Run) })
	}
	if st.engine.Embedded() {
		st.backend.start(func(ctx context.Context) error {
			return panics.Restart(ctx, st.log, "deletion of old events", st.trimHistory)
		})
	}
	if st.quotaLease != nil {
		st.backend.start(st.quotaLease.Run)
	}
	st.sending.start(st.Queue.Run)
	st.managing.start(func(ctx context.Context) error { return panics.Restart(ctx, st.log, "broadcasts", st.broadcasts.Run) })
}

// drain stops the queue from reading further notifications. Another gateway of a cluster takes over the
// broadcasts.
func (st *storage) drain() {
	if st != nil {
		st.managing.cancel()
		st.Queue.Drain()
	}
}

// stop stops the broadcasts, the queue and the webhooks first, then the history that they use, and the engine last.
func (st *storage) stop() error {
	if st == nil {
		return nil
	}
	err := errors.Join(st.managing.end(), st.sending.end(), st.delivering.end(), st.writing.end()) // writing uses the engine
	err = errors.Join(err, st.backend.end(), st.History.Close(), st.eventLog.Close(), st.engine.Close())
	return missingKey(err, st.engine.Keys())
}

// ready returns the reason why the queue cannot store notifications, or nil.
func (st *storage) ready() error {
	if st == nil || !st.opened.Load() {
		return nil
	}
	return missingKey(st.Queue.Ready(), st.engine.Keys())
}

// health returns the state for the metrics; nil while the storage is not open.
func (st *storage) health() *metrics.StorageHealth {
	if !st.opened.Load() {
		return nil
	}
	external := !st.engine.Embedded()
	return &metrics.StorageHealth{
		Writable: st.Queue.Ready() == nil, Trims: st.trims.Load(), External: external, Connected: external && st.engine.Connected(), Encrypted: st.encryptedMessages(),
	}
}

// QueueStatus is the state of the queue.
type QueueStatus struct {
	queue.Status
	// Writable is false while the queue cannot accept notifications; Reason says why.
	Writable bool   `json:"writable"`
	Reason   string `json:"reason,omitempty"`
	// Encryption is set if the configuration has keys for it.
	Encryption *EncryptionStatus `json:"encryption,omitempty"`
}

// statusTimeout is the timeout for reading the state of the queue.
const statusTimeout = time.Second

// status returns the states of the queue and of the history, or nil without a queue.
func (st *storage) status() (*QueueStatus, *history.Status) {
	if st == nil || !st.opened.Load() {
		return nil, nil
	}
	ctx, stop := context.WithTimeout(context.Background(), statusTimeout)
	defer stop()
	status, err := st.Queue.Status(ctx)
	if err == nil {
		err = st.ready()
	}
	q := &QueueStatus{Status: status, Writable: err == nil, Encryption: st.encryption(ctx)}
	if err != nil {
		q.Reason = err.Error()
	}
	h := st.History.Status()
	return q, &h
}

// metricsStatus returns the states of the queue, of the history and of the webhooks, for the
// metrics.
func (g *Gateway) metricsStatus() (*queue.Status, *history.Status, []webhooks.Status) {
	hooks := g.current.Load().webhookStatus()
	q, h := g.storage.status()
	if q == nil {
		return nil, h, hooks
	}
	return &q.Status, h, hooks
}

// Claim claims the key of n. It implements idempotency.Store while the gateway runs.
func (st *storage) Claim(ctx context.Context, n *push.Notification) (release func(*push.Receipt), earlier push.Receipt, err error) {
	return st.keys.Claim(ctx, n)
}

// keyHistory adapts a history to idempotency.History.
type keyHistory struct{ *history.History }

func (h keyHistory) LastUse(ctx context.Context, keyHash []byte) (*idempotency.Use, error) {
	use, err := h.History.LastUse(ctx, keyHash)
	return (*idempotency.Use)(use), err
}

// historyJournal adapts a history to queue.Journal.
type historyJournal struct{ *history.History }

func (j historyJournal) States(ctx context.Context, ids []string) (map[string]queue.State, error) {
	states, err := j.History.States(ctx, ids)
	out := make(map[string]queue.State, len(states))
	for id, s := range states {
		out[id] = queue.State{Status: s.Status, Attempt: s.Attempt, Offset: s.Offset}
	}
	return out, err
}

// recordingSender sends synchronously and records the result in the history.
type recordingSender struct{ *Gateway }

// sender returns the sender for synchronous calls.
func (g *Gateway) sender() api.Sender {
	if g.storage == nil {
		return g
	}
	return recordingSender{g}
}

// Send sends c. If it has an Idempotency-Key, each attempt is recorded on disk before it is made:
// after a crash the caller repeats the call with the same key, and the gateway must know that the
// notification may have been sent.
func (r recordingSender) Send(ctx context.Context, c *push.Call) *push.Receipt {
	if len(c.KeyHash) > 0 {
		c.BeforeAttempt = func(attempt int) error {
			e := newEvent(c.Notification, push.StatusSending, time.Now().UTC())
			e.Attempt = attempt
			if _, err := r.storage.Append(ctx, e); err != nil {
				return fmt.Errorf("gateway: %w", err)
			}
			return nil
		}
	}
	receipt := r.Gateway.Send(ctx, c)
	r.record(ctx, []*push.Call{c})
	return receipt
}

// SendAll sends calls without an Idempotency-Key and records their results.
func (r recordingSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	r.Gateway.SendAll(ctx, calls, func(calls []*push.Call) {
		r.record(ctx, calls)
		ended(calls)
	})
}

// record records the results of calls in the history, except for dry runs.
func (r recordingSender) record(ctx context.Context, calls []*push.Call) {
	events, now := make([]push.Event, 0, len(calls)), time.Now().UTC()
	for _, c := range calls {
		if c.DryRun {
			continue
		}
		events = append(events, newEvent(c.Notification, c.Receipt.Status(), now))
		e := &events[len(events)-1]
		e.Receipt = &c.Receipt
		if e.Status == push.StatusUnregistered || c.Receipt.Replaced != nil {
			e.Target = &c.Target
		}
	}
	if len(events) == 0 {
		return
	}
	if err := r.storage.AppendAsync(context.WithoutCancel(ctx), events...); err != nil {
		if skipped, ok := r.storage.notRecorded.Allow(); ok {
			r.log.Warn("result not recorded in the history", "app", calls[0].App, "err", err, "not_logged", skipped)
		}
	}
}

// newEvent returns the event that n has reached a status.
func newEvent(n *push.Notification, status push.Status, at time.Time) push.Event {
	return push.Event{
		ID: n.ID, App: n.App, At: at, Status: status, Platform: n.Platform, Lane: n.EffectiveLane(),
		KeyHash: n.KeyHash, BodyHash: n.BodyHash, Tags: n.Tags, TraceContext: n.Trace,
	}
}
