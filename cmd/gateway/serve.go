// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/term"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/configsource"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/panics"
)

type serveCmd struct {
	Config   string `short:"c" required:"" placeholder:"FILE" help:"Configuration in YAML: a file, or nats://HOST:PORT/BUCKET/KEY."`
	Snapshot string `placeholder:"FILE" help:"File that keeps the last valid configuration. Required with nats://, not allowed otherwise."`
}

// Help returns the description and examples.
func (serveCmd) Help() string {
	return `Examples:

    gateway serve -c gateway.yaml
    gateway serve -c nats://nats.internal:4222/sluice/gateway.yaml --snapshot /var/lib/sluice/gateway.yaml

Environment variables override values of the file: SLUICE_POOL_SIZE sets pool.size. SIGTERM drains the gateway: requests in flight finish before it exits. A second SIGTERM ends the process immediately.

The gateway watches the contents of the configuration and its key files, through symbolic links, and reloads within a second of a change, or on SIGHUP. If a changed configuration is invalid, the gateway logs an error and keeps the previous one. To preview the effect of a change, run gateway check -c new.yaml --diff gateway.yaml. Several gateways can share a configuration under a key of a NATS cluster. While the cluster is down, a gateway starts from its snapshot. At its first start it has none, and waits for the cluster for up to a minute.`
}

// Run serves until p is canceled.
func (s serveCmd) Run(p process) error {
	tuneCollector()
	ctx, stop := context.WithCancel(p)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	source, err := s.openSource(p)
	if err != nil {
		return usageError{err}
	}
	changed := make(chan struct{})
	background.Go(func() { // after a panic outside of what Run restarts, there are no more reloads
		_ = panics.Recover(newLogger(p, config.Log{Level: "info", Format: "auto"}), "configuration source", func() error { return source.Run(ctx, changed) })
	})
	reader := &configReader{Source: source}
	cfg, err := reader.load(p)
	if err != nil && p.Err() != nil {
		return nil // SIGTERM while the source waited for its cluster
	}
	if err != nil && source.LastCommitted() != nil {
		newLogger(p, config.Log{Level: "info", Format: "auto"}).Error("starting with the last valid configuration", "err", err)
		cfg, err = reader.parse(source.LastCommitted())
	}
	if err != nil {
		return err
	}
	log := newLogger(p, cfg.Log)
	g, err := gateway.New(cfg, log)
	if err != nil {
		return usageError{err}
	}
	g.WatchLog(p.log.Dropped)
	g.WatchState(notifySystemd(log))
	commit := func(cfg *config.Config) {
		if err := reader.commit(cfg); err != nil {
			log.Error("configuration snapshot not written; the next start uses an older configuration", "err", err)
		}
	}
	commit(cfg)
	background.Go(func() {
		g.Follow(changed, func() (*config.Config, error) { return reader.load(ctx) }, commit)
	})
	return g.Run(p)
}

// notifySystemd returns a function that reports the state to systemd, for units with Type=notify or
// notify-reload. Without systemd it does nothing.
func notifySystemd(log *slog.Logger) func(gateway.State) {
	return func(state gateway.State) {
		message := map[gateway.State]string{
			gateway.Serving: daemon.SdNotifyReady, gateway.Draining: daemon.SdNotifyStopping,
			gateway.Reloading: daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec(),
		}[state]
		if _, err := daemon.SdNotify(false, message); err != nil {
			log.Warn("systemd was not notified", "state", string(state), "err", err)
		}
	}
}

// openSource returns the source of the configuration.
func (s serveCmd) openSource(p process) (configsource.Source, error) {
	if strings.Contains(s.Config, "://") {
		return configsource.OpenNATS(configsource.NATSConfig{
			URL: s.Config, Snapshot: s.Snapshot, Logger: newLogger(p, config.Log{Level: "info", Format: "auto"}),
		})
	}
	if s.Snapshot != "" {
		return nil, errors.New("gateway: --snapshot requires a configuration in NATS (-c nats://…)")
	}
	return configsource.OpenFile(s.Config, newLogger(p, config.Log{Level: "info", Format: "auto"})), nil
}

// configReader reads and parses the configuration of a source.
type configReader struct {
	configsource.Source
	text   []byte         // the last valid configuration
	cfg    *config.Config // parsed
	digest string         // of text and of the files that it refers to
	inUse  bool           // the last valid configuration is in use
}

// load returns the configuration. It returns nil if neither the configuration in use nor a file
// that it refers to has changed.
func (r *configReader) load(ctx context.Context) (*config.Config, error) {
	inUse := r.inUse
	r.inUse = false
	text, err := r.Read(ctx)
	if err != nil {
		return nil, usageError{err}
	}
	if inUse && bytes.Equal(text, r.text) && gateway.Digest(text, r.cfg) == r.digest {
		r.inUse = true
		return nil, nil
	}
	return r.parse(text)
}

func (r *configReader) parse(text []byte) (*config.Config, error) {
	cfg, err := config.Parse(r.Name(), text, os.Environ())
	if err != nil {
		return nil, usageError{err}
	}
	r.text, r.cfg, r.digest = text, cfg, gateway.Digest(text, cfg)
	return cfg, nil
}

// commit records that cfg, the last configuration that was parsed, is in use.
func (r *configReader) commit(cfg *config.Config) error {
	r.inUse = true
	return r.Commit(r.text, gateway.ReferencedFiles(cfg))
}

// loadConfig reads a configuration file and applies the overrides of the environment.
func loadConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path, os.Environ())
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

// newLogger returns a logger with the configured level and format, which never blocks.
func newLogger(p process, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		panic(fmt.Sprintf("config accepted the invalid level %q", c.Level))
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" || c.Format == "auto" && !isTerminal(p.stderr) {
		return slog.New(slog.NewJSONHandler(p.log, options))
	}
	return slog.New(slog.NewTextHandler(p.log, options))
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
