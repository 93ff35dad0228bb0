// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

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

Every value of the file can be overridden by the environment: pool.size is SLUICE_POOL_SIZE. SIGTERM drains: what is in flight ends first. A second one ends the process at once.`
}

// Run serves until a signal comes.
func (s serve) Run(p process) error {
	cfg, err := load(s.Config)
	if err != nil {
		return err
	}
	g, err := gateway.New(cfg, logger(p.stderr, cfg.Log))
	if err != nil {
		return wrong{err}
	}
	return g.Run(p)
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
