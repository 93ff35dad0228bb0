// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/configsource"
	"github.com/sluice-push/sluice/internal/gateway"
)

type serveCmd struct {
	Config   string `short:"c" required:"" placeholder:"FILE" help:"Configuration, in YAML: a file, or nats://HOST:PORT/BUCKET/KEY."`
	Snapshot string `placeholder:"FILE" help:"Where the last good configuration is kept; with nats:// only, and needed there."`
}

// Help shows an example.
func (serveCmd) Help() string {
	return `Examples:

    gateway serve -c gateway.yaml
    gateway serve -c nats://nats.internal:4222/sluice/gateway.yaml --snapshot /var/lib/sluice/gateway.yaml

Every value of the file can be overridden by the environment: pool.size is SLUICE_POOL_SIZE. SIGTERM drains: what is in flight ends first. A second one ends the process at once.

The configuration, and the key files that it names, are watched: a change counts within a second, as it does on SIGHUP. One with a mistake is refused as a whole, with a line in the log, and the one before it stays in force. What a change would do is told by gateway check -c new.yaml --diff gateway.yaml. Several gateways can share a configuration under a key of a NATS cluster; each starts from its snapshot while the cluster is down.`
}

// Run serves until a signal comes.
func (s serveCmd) Run(p process) error {
	defer runtime.KeepAlive(ballast())
	ctx, stop := context.WithCancel(p)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	from, err := s.openSource(p)
	if err != nil {
		return usageError{err}
	}
	changed := make(chan struct{})
	beside.Go(func() { _ = from.Run(ctx, changed) })
	last := &configReader{Source: from}
	cfg, err := last.load(p)
	if err != nil && from.LastCommitted() != nil {
		newLogger(p.stderr, config.Log{Level: "info", Format: "auto"}).Error("gateway: begins with the last good configuration", "error", err)
		cfg, err = last.parse(from.LastCommitted())
	}
	if err != nil {
		return err
	}
	log := newLogger(p.stderr, cfg.Log)
	g, err := gateway.New(cfg, log)
	if err != nil {
		return usageError{err}
	}
	keep := func(cfg *config.Config) {
		if err := from.Commit(last.text, gateway.ReferencedFiles(cfg)); err != nil {
			log.Error("gateway: this configuration is in force, and not kept for the next start", "error", err)
		}
	}
	keep(cfg)
	beside.Go(func() {
		g.Follow(changed, func() (*config.Config, error) { return last.load(ctx) }, keep)
	})
	return g.Run(p)
}

// openSource returns where the configuration stands.
func (s serveCmd) openSource(p process) (configsource.Source, error) {
	if strings.Contains(s.Config, "://") {
		return configsource.OpenNATS(configsource.NATSConfig{
			URL: s.Config, Snapshot: s.Snapshot, Logger: newLogger(p.stderr, config.Log{Level: "info", Format: "auto"}),
		})
	}
	if s.Snapshot != "" {
		return nil, errors.New("gateway: --snapshot is for a configuration in a cluster (-c nats://…)")
	}
	return configsource.OpenFile(s.Config), nil
}

// configReader is a source and what was read there last.
type configReader struct {
	configsource.Source
	text []byte
}

func (r *configReader) load(ctx context.Context) (*config.Config, error) {
	text, err := r.Read(ctx)
	if err != nil {
		return nil, usageError{err}
	}
	return r.parse(text)
}

func (r *configReader) parse(text []byte) (*config.Config, error) {
	cfg, err := config.Parse(r.Name(), text, os.Environ())
	if err != nil {
		return nil, usageError{err}
	}
	r.text = text
	return cfg, nil
}

// loadConfig reads a configuration with the overrides of the environment.
func loadConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path, os.Environ())
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

// newLogger writes what the configuration asks for.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		panic(fmt.Sprintf("config let the level %q through", c.Level))
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" || c.Format == "auto" && !isTerminal(w) {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// isTerminal reports whether people read what is written to w.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
