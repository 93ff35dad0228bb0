// SPDX-License-Identifier: Apache-2.0

// Package jetstream runs an embedded NATS JetStream server or connects to an external one, and
// writes to its streams in batches. It defines no streams and does not interpret items.
package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/panics"
)

// Errors of Open and Writer.
var (
	// ErrFull means that nothing was written: the stream has reached its size limit, or the free
	// space on the disk is below Config.Reserve.
	ErrFull = errors.New("jetstream: no space left")
	// ErrUnwritable means that nothing can be stored now: the disk failed, or the cluster has no
	// majority. A write in progress may or may not have been stored.
	ErrUnwritable = errors.New("jetstream: storage is not writable")
	// ErrTooLarge means that an item exceeds the maximum size.
	ErrTooLarge = errors.New("jetstream: item is too large")
	// ErrClosed means that the writer has stopped.
	ErrClosed = errors.New("jetstream: writer is closed")
	// ErrLocked means that another process uses the directory.
	ErrLocked = errors.New("jetstream: directory is in use by another process")
)

// Config selects the server: set either Dir or URL.
type Config struct {
	// Dir is the directory of the embedded server. One process at a time can use it.
	Dir string
	// URL is the address of an external server or cluster. A password in it is never logged.
	URL string
	// Auth is for an external server.
	Auth Auth
	// Replicas is the number of replicas of each stream in a cluster; zero means one. The embedded
	// server always has one.
	Replicas int
	// Reserve is the number of bytes of the embedded server's disk that are kept for notifications
	// that are already accepted: Admit fails when less is available. On Linux a file holds them, which
	// shrinks when the disk is nearly full. Zero means 64 MiB; a negative value reserves nothing.
	Reserve int64
	// SetupTimeout is how long Open, Stream and Bucket.Open are retried on an external server,
	// counted from Open. Zero means a minute.
	SetupTimeout time.Duration
	// Keys encrypt and decrypt the records of logs; nil stores them in clear.
	Keys *keyring.Ring
	// Logger receives log records; nil discards them.
	Logger *slog.Logger
}

const (
	defaultReserve = 64 << 20
	apiTimeout     = 5 * time.Second
	writeTimeout   = 15 * time.Second // for the embedded server; a slower disk counts as failed
	ackTimeout     = 2 * time.Second  // for a cluster; after it the batch is published again
	reconnectWait  = 100 * time.Millisecond
)

// Engine is a connection to an embedded or external JetStream server.
type Engine struct {
	cfg    Config
	server *server // nil with an external server
	conn   *nats.Conn
	js     natsjs.JetStream
	keys   atomic.Pointer[keyring.Ring]

	setupDeadline time.Time
}

// Open starts the embedded server in cfg.Dir or connects to cfg.URL, and returns when the server
// responds. The embedded server has repaired and loaded its files by then. The error is ErrLocked
// if another process uses the directory.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if (cfg.Dir == "") == (cfg.URL == "") {
		return nil, errors.New("jetstream: set either a directory or a URL")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Reserve = cmp.Or(cfg.Reserve, defaultReserve)
	cfg.SetupTimeout = cmp.Or(cfg.SetupTimeout, defaultSetupTimeout)
	e := &Engine{cfg: cfg, setupDeadline: time.Now().Add(cfg.SetupTimeout)}
	e.keys.Store(cfg.Keys)
	if cfg.Dir != "" {
		s, err := start(cfg)
		if err != nil {
			return nil, err
		}
		e.server = s
	}
	if err := e.connect(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) connect(ctx context.Context) error {
	auth, err := e.cfg.Auth.options()
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	err = e.Setup(ctx, "connect", func(context.Context) (err error) {
		e.conn, err = nats.Connect(e.cfg.URL, append(auth, e.options()...)...)
		return err
	})
	if err != nil {
		return err
	}
	timeout := ackTimeout
	if e.Embedded() {
		timeout = writeTimeout
	}
	if e.js, err = natsjs.New(e.conn, natsjs.WithPublishAsyncTimeout(timeout), natsjs.WithDefaultTimeout(apiTimeout)); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	return e.Setup(ctx, "JetStream (is it enabled?)", func(ctx context.Context) error {
		_, err := e.js.AccountInfo(ctx)
		return err
	})
}

// options returns the options of the connection, which reconnects without limit.
func (e *Engine) options() []nats.Option {
	options := []nats.Option{
		nats.Name("sluice"), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.RetryOnFailedConnect(false), nats.Timeout(apiTimeout), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				e.cfg.Logger.Warn("NATS connection lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { e.cfg.Logger.Info("NATS connection restored") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			e.cfg.Logger.Warn("NATS connection error", "err", err)
		}),
	}
	if e.server != nil {
		options = append(options, nats.InProcessServer(e.server))
	}
	return options
}

// Run supervises the embedded server until ctx ends. After a failed write the server stops writing,
// and Run restarts it as soon as the disk is writable. With an external server Run only waits for
// ctx.
func (e *Engine) Run(ctx context.Context) error {
	if e.server == nil {
		<-ctx.Done()
		return nil
	}
	var group errgroup.Group
	group.Go(func() error { return panics.Restart(ctx, e.cfg.Logger, "disk reserve", e.server.keepFree) })
	group.Go(func() error { return panics.Restart(ctx, e.cfg.Logger, "embedded server", e.server.supervise) })
	return group.Wait()
}

// Close closes the connection and stops the embedded server. Every acknowledged write is on disk by
// then.
func (e *Engine) Close() error {
	if e.conn != nil {
		e.conn.Close()
	}
	if e.server != nil {
		return e.server.close()
	}
	return nil
}

// JetStream returns the JetStream API, for consumers.
func (e *Engine) JetStream() natsjs.JetStream { return e.js }

// Embedded reports whether the server runs in this process, so that no other process uses its
// streams.
func (e *Engine) Embedded() bool { return e.server != nil }

// UsesReserve reports whether the disk is so full that the reserve is in use.
func (e *Engine) UsesReserve() bool {
	return e.server != nil && e.server.reserve.used()
}

// Damage returns how many damaged records and truncated blocks the embedded server has found since
// Open, plus one if an earlier process has found some and ForgetDamage was not called afterwards. It is
// zero for an external server.
func (e *Engine) Damage() uint64 {
	if e.server == nil {
		return 0
	}
	return e.server.damage.Load()
}

// ForgetDamage makes later processes not report the damage that was found so far. Call it when nothing
// more must be done about it.
func (e *Engine) ForgetDamage() error {
	if e.server == nil {
		return nil
	}
	if err := os.Remove(e.server.damageMark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("jetstream: %w", err)
	}
	return nil
}

// Replicas returns the number of replicas of each stream.
func (e *Engine) Replicas() int {
	if e.Embedded() {
		return 1
	}
	return max(1, e.cfg.Replicas)
}

// Connected reports whether the gateway is connected to the server.
func (e *Engine) Connected() bool { return e.conn.IsConnected() }

// Writable returns nil, or ErrUnwritable with the reason why nothing can be stored now.
func (e *Engine) Writable() error {
	if !e.conn.IsConnected() {
		return fmt.Errorf("%w: not connected", ErrUnwritable)
	}
	if e.server == nil {
		return nil
	}
	return e.server.writable()
}

// Admit returns nil if new notifications can be stored, although those that are already accepted will
// still write the given number of bytes. Otherwise it returns ErrUnwritable, or ErrFull if less than
// Config.Reserve would stay free, with the reason.
func (e *Engine) Admit(committed int64) error {
	if err := e.Writable(); err != nil || e.server == nil {
		return err
	}
	return e.server.admit(committed)
}
