// SPDX-License-Identifier: Apache-2.0

package configsource

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/atomicfile"
	"github.com/sluice-push/sluice/internal/panics"
)

// NATSConfig configures a NATS source.
type NATSConfig struct {
	// URL is nats://host:4222/BUCKET/KEY, or the same with tls://. A user and a password in it are
	// never printed.
	URL string
	// Snapshot is a file for the last committed configuration, so that a gateway can start while
	// the cluster is down. It contains everything that the configuration does: keep it private.
	Snapshot string
	// ReadTimeout is how long Read waits for the cluster before it returns the snapshot. The
	// default is 5s.
	ReadTimeout time.Duration
	// SetupTimeout is how long Read waits if there is no snapshot, as at the first start of a gateway:
	// the cluster may be starting or electing a leader. The default is a minute.
	SetupTimeout time.Duration
	// Logger logs connection problems. Nil discards them.
	Logger *slog.Logger
}

// NATS is a configuration in a key of a NATS key-value bucket. Many gateways can use the same key,
// and get a new value as soon as it is put.
type NATS struct {
	cfg         NATSConfig
	bucket, key string
	server      string // the URL without bucket and key
	watcher     *watcher

	mu       sync.Mutex
	text     []byte        // the latest value; nil before the first
	watchErr error         // why the key could not be watched at the last try
	received chan struct{} // closed when text is set for the first time
	saved    []byte        // the contents of the snapshot
}

// OpenNATS parses the URL and starts catching SIGHUP, which would otherwise end the process. Run
// connects.
func OpenNATS(cfg NATSConfig) (*NATS, error) {
	const form = "config: the source must be nats://host:4222/BUCKET/KEY"
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New(form) // err contains the password
	}
	bucket, key, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Host == "" || !ok || bucket == "" || key == "" {
		return nil, errors.New(form)
	}
	if cfg.Snapshot == "" {
		return nil, errors.New("config: a configuration in a cluster needs a snapshot file (--snapshot FILE)")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	u.Path = ""
	return &NATS{cfg: cfg, bucket: bucket, key: key, server: u.String(), watcher: newWatcher(cfg.Logger), received: make(chan struct{})}, nil
}

// Name returns the path of the snapshot.
func (n *NATS) Name() string { return n.cfg.Snapshot }

// Read returns the latest value of the key. It waits for the first value, and returns the snapshot
// if that takes longer than the read timeout. Without a snapshot it waits longer.
func (n *NATS) Read(ctx context.Context) ([]byte, error) {
	readTimeout := cmp.Or(n.cfg.ReadTimeout, 5*time.Second)
	if text, ok := n.waitFirst(ctx, readTimeout); ok {
		return text, nil
	}
	text, err := os.ReadFile(n.cfg.Snapshot)
	if errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		left := cmp.Or(n.cfg.SetupTimeout, time.Minute) - readTimeout
		n.cfg.Logger.Warn("NATS has no configuration yet; retrying", "bucket", n.bucket, "key", n.key, "for", left.String(), "err", n.lastWatchErr())
		if text, ok := n.waitFirst(ctx, left); ok {
			n.cfg.Logger.Info("NATS has the configuration", "bucket", n.bucket, "key", n.key)
			return text, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("config: the cluster does not respond or has no %s/%s, and there is no snapshot yet: %w", n.bucket, n.key, err)
	}
	n.cfg.Logger.Warn("configuration read from the snapshot, because the cluster does not respond or has none", "snapshot", n.cfg.Snapshot)
	return text, nil
}

// LastCommitted returns the contents of the snapshot.
func (n *NATS) LastCommitted() []byte {
	text, err := os.ReadFile(n.cfg.Snapshot)
	if err != nil {
		return nil
	}
	return text
}

// Commit replaces the snapshot atomically, and watches files.
func (n *NATS) Commit(text []byte, files []string) error {
	n.watcher.setFiles(files)
	if bytes.Equal(n.saved, text) {
		return nil
	}
	if err := atomicfile.Write(n.cfg.Snapshot, text); err != nil {
		return fmt.Errorf("config: snapshot: %w", err)
	}
	n.saved = bytes.Clone(text)
	return nil
}

// Run watches the key and the files, and reconnects when the connection is lost. Its error means
// that it could not start.
func (n *NATS) Run(ctx context.Context, changed chan<- struct{}) error {
	defer close(changed)
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { n.watcher.run(ctx, func() { notify(ctx, changed) }) })
	defer watching.Wait()
	defer cancel()
	reconnected := make(chan struct{}, 1)
	conn, err := nats.Connect(n.server, nats.Name("sluice configuration"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(time.Second), nats.ReconnectHandler(func(*nats.Conn) {
			select {
			case reconnected <- struct{}{}:
			default:
			}
		}), nats.DisconnectErrHandler(func(*nats.Conn, error) {
			n.cfg.Logger.Warn("configuration cluster disconnected; the current configuration stays in use")
		}))
	if err != nil {
		return errors.New("config: the URL of the cluster is invalid (must be nats://host:4222/BUCKET/KEY)")
	}
	defer conn.Close()
	js, err := natsjs.New(conn)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	return panics.Restart(ctx, n.cfg.Logger, "configuration in NATS", func(ctx context.Context) error {
		for ctx.Err() == nil {
			err := n.watch(ctx, js, changed, reconnected)
			n.mu.Lock()
			n.watchErr = err
			n.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				n.cfg.Logger.Debug("configuration key cannot be watched yet", "bucket", n.bucket, "err", err)
			}
			waitRetry(ctx, reconnected)
		}
		return nil
	})
}

// watch reports every new value until ctx or the watch ends, or the connection has been replaced:
// an old watch needs twenty seconds to notice a new connection.
func (n *NATS) watch(ctx context.Context, js natsjs.JetStream, changed chan<- struct{}, reconnected <-chan struct{}) error {
	bucket, err := js.KeyValue(ctx, n.bucket)
	if err != nil {
		return err
	}
	updates, err := bucket.Watch(ctx, n.key, natsjs.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { _ = updates.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-reconnected:
			return nil
		case entry, open := <-updates.Updates():
			if !open {
				return errors.New("the watch ended")
			}
			if entry != nil { // nil marks the end of the initial values
				n.setText(entry.Value())
				notify(ctx, changed)
			}
		}
	}
}

func (n *NATS) setText(text []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = text
	select {
	case <-n.received:
	default:
		close(n.received)
	}
}

// waitFirst waits for the first value, and returns the latest one if there is one by then.
func (n *NATS) waitFirst(ctx context.Context, limit time.Duration) ([]byte, bool) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-n.received:
	case <-ctx.Done():
	case <-timeout.C:
	}
	return n.latest() // also if it arrived together with the timeout
}

func (n *NATS) lastWatchErr() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.watchErr
}

// latest returns the latest value, if there is one.
func (n *NATS) latest() ([]byte, bool) {
	select {
	case <-n.received:
	default:
		return nil, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text, true
}

// waitRetry waits a second before the next attempt, or until there is a new connection.
func waitRetry(ctx context.Context, reconnected <-chan struct{}) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-reconnected:
	case <-ctx.Done():
	}
}
