// SPDX-License-Identifier: Apache-2.0

// Package history stores the events of all notifications in a log, and answers queries with a local
// index that can be rebuilt from the log at any time. It makes no decisions about notifications.
package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Stream is the name of the stream that holds the events.
const Stream = "SLUICE_EVENTS"

// catchUpTimeout is how long calls wait for the log after the start, the time of two elections of a
// cluster.
const catchUpTimeout = 20 * time.Second

// retryInterval is the wait after a failure, and retentionInterval is how often old events are deleted.
const (
	retryInterval     = 250 * time.Millisecond
	retentionInterval = 10 * time.Second
)

// Config configures a history. Engine and Log are required.
type Config struct {
	Engine *jetstream.Engine
	// Log is the log of OpenLog. The caller runs it.
	Log *jetstream.Log
	// Dir is the directory of the index. It is created if it does not exist. If empty, the index is
	// in a temporary directory and is rebuilt at every start.
	Dir string
	// MaxAge is the retention of events; zero means seven days.
	MaxAge time.Duration
	// MaxBytes bounds the stream. Beyond it the oldest events are deleted, except for what the keeper
	// of Log needs. Zero means 8 GiB. The index needs about a fifth of it.
	MaxBytes int64
	// IdempotencyTTL is the retention of Idempotency-Keys; zero means 24 hours. MaxAge bounds it.
	IdempotencyTTL time.Duration
	// MaxWait bounds the wait of a call after the start for events that this gateway has not received
	// from a cluster; zero means 20 seconds.
	MaxWait time.Duration
	// Logger receives log records; nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxAge, 7*24*time.Hour)
	setDefault(&c.MaxBytes, 8<<30)
	setDefault(&c.IdempotencyTTL, 24*time.Hour)
	setDefault(&c.MaxWait, catchUpTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// History stores and finds the events of all apps. It is safe for concurrent use. Its methods block
// unless the log is running.
type History struct {
	cfg         Config
	ownsDir     bool // Close removes the directory
	stream      natsjs.Stream
	entries     *logIndex
	pendingKeys pendingKeys
	notifier    *notifier
	searches    *semaphore.Weighted
	caughtUp    atomic.Bool // the index has all events that were in the log when it was opened

	firstSeqMu sync.Mutex    // held while firstSeq changes
	firstSeq   atomic.Uint64 // the oldest message of the log

	received, indexRebuilds atomic.Uint64 // for Status
}

// Open opens the index of a log, and adds what is missing. It starts no goroutines. The caller must call
// Close.
func Open(ctx context.Context, cfg Config) (*History, error) {
	cfg = cfg.withDefaults()
	h := &History{cfg: cfg, stream: cfg.Log.Stream(), notifier: newNotifier(), pendingKeys: pendingKeys{byKey: map[string]*eventHeader{}}, searches: semaphore.NewWeighted(concurrentSearches)}
	h.caughtUp.Store(cfg.Engine.Embedded())
	err := h.createDir()
	if err == nil {
		h.entries, err = openLogIndex(ctx, h.cfg.Dir, cfg.Log, cfg.IdempotencyTTL, cfg.Logger)
	}
	if err == nil {
		err = h.updateFirstSeq(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	cfg.Log.Observe(h.observe)
	return h, nil
}

// Verify reports why the index in a directory, which need not exist yet, cannot be written.
func Verify(dir string) error { return jetstream.VerifyDir(dir) }

func (h *History) createDir() (err error) {
	if h.cfg.Dir == "" {
		h.cfg.Dir, err = os.MkdirTemp("", "sluice-history-")
		h.ownsDir = err == nil
	} else {
		err = os.MkdirAll(h.cfg.Dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("history: index directory: %w", err)
	}
	return nil
}

// KeyScope identifies the history in which Idempotency-Keys are claimed. Gateways with the same
// scope treat concurrent calls with the same key as one call. It is empty with an embedded server,
// whose history no other gateway shares.
func (h *History) KeyScope() string {
	if h.cfg.Engine.Embedded() {
		return ""
	}
	return h.cfg.Log.ID()
}

// Close closes the index. Call it after Run and the log have ended.
func (h *History) Close() error {
	var err error
	if h.entries != nil {
		err = h.entries.close()
	}
	if h.ownsDir {
		err = errors.Join(err, os.RemoveAll(h.cfg.Dir))
	}
	return err
}

// Run completes segments of the index, and deletes old events, until ctx ends.
func (h *History) Run(ctx context.Context) error {
	var background errgroup.Group
	background.Go(func() error { h.entries.run(ctx); return nil })
	ticker := time.NewTicker(retentionInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		err := h.waitCaughtUp(ctx) // so that Status.CaughtUp is set even without queries
		if err == nil {
			err = h.deleteOld(ctx)
		}
		if err != nil && ctx.Err() == nil {
			h.cfg.Logger.Warn("cannot delete old events", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	return background.Wait()
}

// Append appends events and returns the offset of the last one when all are on disk. After an error of
// the log they will be stored, unless it is jetstream.ErrNotAdded.
func (h *History) Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error) {
	records, keys, err := encodeRecords(events)
	if err != nil {
		return jetstream.Offset{}, err
	}
	h.pendingKeys.add(keys)
	offsets, err := h.cfg.Log.Append(ctx, records...)
	if errors.Is(err, jetstream.ErrNotAdded) {
		h.pendingKeys.remove(keys)
	}
	if err != nil || len(offsets) == 0 {
		return jetstream.Offset{}, wrap(err)
	}
	return offsets[len(offsets)-1], nil
}

// AppendAsync appends events without waiting for the disk. Find and States include them
// immediately, but a crash may lose them. It blocks while too many events wait. The error is that
// of ctx or of an invalid event.
func (h *History) AppendAsync(ctx context.Context, events ...push.Event) error {
	records, keys, err := encodeRecords(events)
	if err != nil {
		return err
	}
	h.pendingKeys.add(keys)
	if err := h.cfg.Log.AppendAsync(ctx, records...); err != nil {
		h.pendingKeys.remove(keys)
		return wrap(err)
	}
	return nil
}

// AfterWrites calls f when all events that were appended before are stored, or never if the log is closed
// before.
func (h *History) AfterWrites(f func()) { h.cfg.Log.AfterWrites(f) }

// WaitCaughtUp waits until this gateway has received all events that were in the log at the time of the
// call.
func (h *History) WaitCaughtUp(ctx context.Context) error { return wrap(h.cfg.Log.CatchUp(ctx)) }

// waitCaughtUp waits once after the start, until the index has the events of other gateways that were
// stored while it was opened. It fails after Config.MaxWait.
func (h *History) waitCaughtUp(ctx context.Context) error {
	if h.caughtUp.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.MaxWait)
	defer cancel()
	if err := h.WaitCaughtUp(ctx); err != nil {
		return err
	}
	h.caughtUp.Store(true)
	return nil
}

func wrap(err error) error {
	if err != nil {
		err = fmt.Errorf("history: %w", err)
	}
	return err
}

// pause waits for retryInterval and returns true, or returns false when ctx ends.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(retryInterval):
		return true
	case <-ctx.Done():
		return false
	}
}
