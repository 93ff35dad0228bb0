// SPDX-License-Identifier: Apache-2.0

// Package engine runs, or joins, the JetStream that keeps what must not be lost, and writes to it in chunks. It knows no
// stream of ours and nothing of what stands in them.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Errors of Open and of a Writer.
var (
	// ErrFull says that nothing was written: the stream has reached its bound, or the disk its reserve.
	ErrFull = errors.New("engine: no room")
	// ErrUnwritable says that nothing can be kept at the moment: a failed disk, or no majority of the cluster. What was
	// being written may be there or not.
	ErrUnwritable = errors.New("engine: nothing can be written")
	// ErrTooLarge says that one item is larger than the engine takes.
	ErrTooLarge = errors.New("engine: the item is too large")
	// ErrClosed says that the writer has been drained.
	ErrClosed = errors.New("engine: closed")
	// ErrLocked says that another process has the folder.
	ErrLocked = errors.New("engine: another process has this folder")
)

// Config says where the JetStream is: exactly one of Dir and URL is set.
type Config struct {
	// Dir is the folder of an engine in this process. Only one process at a time may have it.
	Dir string
	// URL is where a cluster answers. A password in it is never printed.
	URL string
	// Replicas is how many machines of a cluster keep each message; zero is one. In this process it is always one.
	Replicas int
	// Reserve is how many bytes of the disk stay free for what has been accepted already, in this process; zero is 64 MiB,
	// and a negative one reserves nothing. Writers that may wait (Writer.Yields) are refused below it.
	Reserve int64
	// Logger gets the engine's own log; nil discards it.
	Logger *slog.Logger
}

const (
	defaultReserve = 64 << 20
	apiTimeout     = 5 * time.Second
	writeTimeout   = 15 * time.Second // a disk that takes longer has failed
	ackTimeout     = 5 * time.Second  // a cluster's leader that takes longer has died, or can be asked once more
	reconnectWait  = 100 * time.Millisecond
)

// Engine is an open JetStream. Close ends it.
type Engine struct {
	cfg    Config
	server *server // nil where it is a cluster's
	conn   *nats.Conn
	js     natsjs.JetStream
}

// Open starts the engine in cfg.Dir, or connects to the one at cfg.URL, and returns when it answers. What stands in the
// folder has been read and checked by then. ErrTaken if another process has the folder.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if (cfg.Dir == "") == (cfg.URL == "") {
		return nil, errors.New("engine: give it a folder or a URL, and not both")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = defaultReserve
	}
	e := &Engine{cfg: cfg}
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

func (e *Engine) connect(ctx context.Context) (err error) {
	if e.conn, err = nats.Connect(e.cfg.URL, e.options()...); err != nil {
		return fmt.Errorf("engine: connect: %w", err)
	}
	timeout := ackTimeout
	if e.Embedded() {
		timeout = writeTimeout
	}
	if e.js, err = natsjs.New(e.conn, natsjs.WithPublishAsyncTimeout(timeout), natsjs.WithDefaultTimeout(apiTimeout)); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	if _, err := e.js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("engine: JetStream does not answer (is it enabled there?): %w", err)
	}
	return nil
}

// options are those of our one connection, which never gives up.
func (e *Engine) options() []nats.Option {
	options := []nats.Option{
		nats.Name("sluice"), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.RetryOnFailedConnect(false), nats.Timeout(apiTimeout), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				e.cfg.Logger.Warn("engine: connection lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { e.cfg.Logger.Info("engine: connected again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			e.cfg.Logger.Warn("engine: connection", "err", err)
		}),
	}
	if e.server != nil {
		options = append(options, nats.InProcessServer(e.server))
	}
	return options
}

// Run keeps the engine going until ctx ends: when the disk was full or failed, an engine in this process has stopped
// writing for good, and is opened anew once there is room. It does nothing for a cluster.
func (e *Engine) Run(ctx context.Context) error {
	if e.server == nil {
		<-ctx.Done()
		return nil
	}
	return e.server.supervise(ctx)
}

// Close ends the engine. Everything that a Writer has acknowledged is on disk before.
func (e *Engine) Close() error {
	if e.conn != nil {
		e.conn.Close()
	}
	if e.server != nil {
		return e.server.close()
	}
	return nil
}

// JetStream is the engine's API, for consumers.
func (e *Engine) JetStream() natsjs.JetStream { return e.js }

// Embedded reports whether the engine runs in this process, so that nobody else is at its streams.
func (e *Engine) Embedded() bool { return e.server != nil }

// Replicas is how many copies a stream of this engine has.
func (e *Engine) Replicas() int {
	if e.Embedded() {
		return 1
	}
	return max(1, e.cfg.Replicas)
}

// Ready returns nil if the engine can keep something new, or ErrFull or ErrUnwritable and why not.
func (e *Engine) Ready() error {
	if !e.conn.IsConnected() {
		return fmt.Errorf("%w: not connected", ErrUnwritable)
	}
	if e.server == nil {
		return nil
	}
	return e.server.ready()
}

// Stream makes the stream, or changes it to what cfg says. It has the engine's replicas, and is kept in files unless cfg
// says that memory will do. In a cluster its leader alone is asked what stands in it: another copy may lag.
func (e *Engine) Stream(ctx context.Context, cfg natsjs.StreamConfig) (natsjs.Stream, error) {
	cfg.Replicas = e.Replicas()
	cfg.AllowDirect = cfg.AllowDirect && e.Embedded()
	stream, err := e.js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("engine: stream %s: %w", cfg.Name, err)
	}
	return stream, nil
}
