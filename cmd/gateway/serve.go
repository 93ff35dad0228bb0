// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/gateway"
)

type serve struct {
	Config string `short:"c" required:"" placeholder:"FILE" help:"Configuration, in YAML."`
}

// Help shows an example.
func (serve) Help() string {
	return `Example:

    gateway serve -c gateway.yaml

Every value of the file can be overridden by the environment: pool.size is SLUICE_POOL_SIZE. SIGTERM drains: what is in flight ends first. A second one ends the process at once.

The file, and the key files that it names, are watched: a change counts within a second, as it does on SIGHUP. A configuration with a mistake is refused as a whole, with a line in the log, and the one before it stays in force. What it would change is told by gateway check -c new.yaml --diff gateway.yaml.`
}

// Run serves until a signal comes.
func (s serve) Run(p process) error {
	cfg, err := load(s.Config)
	if err != nil {
		return err
	}
	log := logger(p.stderr, cfg.Log)
	g, err := gateway.New(cfg, log)
	if err != nil {
		return wrong{err}
	}
	ctx, stop := context.WithCancel(p)
	follow, err := s.follow(ctx, g, cfg)
	if err != nil {
		log.Warn("gateway: only a restart will bring a new configuration", "error", err)
	}
	err = g.Run(p)
	stop()
	follow.Wait()
	return err
}

// follow has g reload when the configuration changes, until ctx ends.
func (s serve) follow(ctx context.Context, g *gateway.Gateway, cfg *config.Config) (*sync.WaitGroup, error) {
	var all sync.WaitGroup
	w, err := newWatch()
	if err != nil {
		return &all, err
	}
	w.add(append(gateway.Files(cfg), s.Config)...)
	all.Go(func() { w.run(ctx) })
	all.Go(func() {
		g.Follow(w.changed, func() (*config.Config, error) {
			cfg, err := load(s.Config)
			if err == nil {
				w.add(gateway.Files(cfg)...)
			}
			return cfg, err
		})
	})
	return &all, nil
}

// load reads a configuration with the overrides of the environment.
func load(path string) (*config.Config, error) {
	cfg, err := config.Load(path, os.Environ())
	if err != nil {
		return nil, wrong{err}
	}
	return cfg, nil
}

// logger writes what the configuration asks for.
func logger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		panic(fmt.Sprintf("config let the level %q through", c.Level))
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" || c.Format == "auto" && !terminal(w) {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// terminal reports whether people read what is written to w.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
