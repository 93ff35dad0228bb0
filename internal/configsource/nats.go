// SPDX-License-Identifier: Apache-2.0

package configsource

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// NATSConfig says which key of which cluster.
type NATSConfig struct {
	// URL is nats://host:4222/BUCKET/KEY, or tls:// in its place. A user and a password in it are never printed.
	URL string
	// Snapshot is a file that keeps the last text that was in force, so that a gateway starts also while the cluster is
	// down. It holds all that the configuration does: keep it private.
	Snapshot string
	// Patience is how long Read waits for a cluster that does not answer before it takes the snapshot; default 5s.
	ReadTimeout time.Duration
	// Logger gets what becomes of the connection; nil discards it.
	Logger *slog.Logger
}

// NATS is a configuration under a key of a NATS cluster's key-value store, for many gateways at once. What stands there
// counts for all of them as soon as it is put.
type NATS struct {
	cfg         NATSConfig
	bucket, key string
	server      string // of the URL, without bucket and key

	mu       sync.Mutex
	text     []byte        // what stood there last; nil before it has been seen
	received chan struct{} // closed when there is a text
	saved    []byte        // what the snapshot holds
}

// OpenNATS reads the URL. It connects only in Run.
func OpenNATS(cfg NATSConfig) (*NATS, error) {
	const form = "config: the source must be nats://host:4222/BUCKET/KEY"
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New(form) // and not err, which quotes the password
	}
	bucket, key, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Host == "" || !ok || bucket == "" || key == "" {
		return nil, errors.New(form)
	}
	if cfg.Snapshot == "" {
		return nil, errors.New("config: a source in a cluster needs a file for its snapshot (--snapshot FILE)")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	u.Path = ""
	return &NATS{cfg: cfg, bucket: bucket, key: key, server: u.String(), received: make(chan struct{})}, nil
}

// Name is the snapshot's path.
func (k *NATS) Name() string { return k.cfg.Snapshot }

// Read returns what stood under the key last. Before anything was seen it waits for it, and takes the snapshot where
// that takes too long.
func (k *NATS) Read(ctx context.Context) ([]byte, error) {
	patience := time.NewTimer(cmp.Or(k.cfg.ReadTimeout, 5*time.Second))
	defer patience.Stop()
	select {
	case <-k.received:
	case <-ctx.Done():
	case <-patience.C:
	}
	if text, ok := k.latest(); ok { // be it in the last moment
		return text, nil
	}
	text, err := os.ReadFile(k.cfg.Snapshot)
	if err != nil {
		return nil, fmt.Errorf("config: the cluster holds no %s/%s or does not answer, and there is no snapshot yet: %w", k.bucket, k.key, err)
	}
	k.cfg.Logger.Warn("config: taken from the snapshot, for the cluster holds none or does not answer", "snapshot", k.cfg.Snapshot)
	return text, nil
}

// Last returns what the snapshot holds.
func (k *NATS) LastCommitted() []byte {
	text, err := os.ReadFile(k.cfg.Snapshot)
	if err != nil {
		return nil
	}
	return text
}

// Keep writes the snapshot: whole, or not at all.
func (k *NATS) Commit(text []byte, _ []string) error {
	if bytes.Equal(k.saved, text) {
		return nil
	}
	beside, err := os.CreateTemp(filepath.Dir(k.cfg.Snapshot), ".snapshot-*") // mode 0600
	if err != nil {
		return fmt.Errorf("config: snapshot: %w", err)
	}
	_, err = beside.Write(text)
	err = errors.Join(err, beside.Sync(), beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), k.cfg.Snapshot)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("config: snapshot: %w", err), os.Remove(beside.Name()))
	}
	k.saved = bytes.Clone(text)
	return nil
}

// Run follows the key, through every loss of the connection.
func (k *NATS) Run(ctx context.Context, changed chan<- struct{}) error {
	defer close(changed)
	again := make(chan struct{}, 1)
	conn, err := nats.Connect(k.server, nats.Name("sluice configuration"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(time.Second), nats.ReconnectHandler(func(*nats.Conn) {
			select {
			case again <- struct{}{}:
			default:
			}
		}), nats.DisconnectErrHandler(func(*nats.Conn, error) {
			k.cfg.Logger.Warn("config: the cluster is not to be reached; what is in force stays")
		}))
	if err != nil {
		return errors.New("config: the cluster's URL is not one (nats://host:4222/BUCKET/KEY)")
	}
	defer conn.Close()
	js, err := natsjs.New(conn)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	for ctx.Err() == nil {
		if err := k.watch(ctx, js, changed, again); err != nil && ctx.Err() == nil {
			k.cfg.Logger.Debug("config: the key cannot be followed yet", "bucket", k.bucket, "error", err)
		}
		waitRetry(ctx, again)
	}
	return nil
}

// watch tells of every new text until ctx or the watch ends, or there is a new connection: on that the old watch would
// be silent for twenty seconds before it notices.
func (k *NATS) watch(ctx context.Context, js natsjs.JetStream, changed chan<- struct{}, again <-chan struct{}) error {
	bucket, err := js.KeyValue(ctx, k.bucket)
	if err != nil {
		return err
	}
	updates, err := bucket.Watch(ctx, k.key, natsjs.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { _ = updates.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again:
			return nil
		case entry, open := <-updates.Updates():
			if !open {
				return errors.New("the watch ended")
			}
			if entry != nil { // nil after all that stood there at first
				k.setText(entry.Value())
				notify(ctx, changed)
			}
		}
	}
}

func (k *NATS) setText(text []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.text = text
	select {
	case <-k.received:
	default:
		close(k.received)
	}
}

// latest returns what was put last, if anything was.
func (k *NATS) latest() ([]byte, bool) {
	select {
	case <-k.received:
	default:
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text, true
}

// waitRetry waits a second before the next try, or until there is a new connection.
func waitRetry(ctx context.Context, again <-chan struct{}) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-again:
	case <-ctx.Done():
	}
}
