// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
)

type checkCmd struct {
	Config  string        `short:"c" required:"" placeholder:"FILE" help:"Configuration, in YAML."`
	Diff    string        `placeholder:"FILE" help:"Also print the changes from this configuration to the one of -c."`
	Timeout time.Duration `default:"15s" help:"How long each check may take."`
}

// Help returns the description and examples.
func (checkCmd) Help() string {
	return `Example:

    gateway check -c gateway.yaml

Parses the configuration, reads its key files, briefly listens on its addresses, verifies that the queue and the history can be written (in a NATS cluster by creating and deleting a stream of the same size), that timeouts fit into each other, gets a token for each credential and connects to each proxy and provider. Sends no notification. Exits with 0 if all checks pass, with 2 if the configuration is invalid, and with 1 if another check fails.`
}

// Run runs all checks, even after one has failed, and prints a line for each.
func (c checkCmd) Run(p process) error {
	cfg, err := loadConfig(c.Config)
	if err != nil {
		return err
	}
	g, err := gateway.New(cfg, nil)
	if err != nil {
		return usageError{err}
	}
	printf(p.stdout, "ok    %s: %s\n", c.Config, configSummary(cfg))
	if err := c.printDiff(p, cfg); err != nil {
		return err
	}
	for _, warning := range gateway.Warnings(cfg) {
		printf(p.stdout, "warn  %s\n", warning)
	}
	for _, check := range g.Checks() {
		if !c.verify(p, check) {
			err = errReported
		}
	}
	return err
}

// printDiff prints the changes from the configuration of --diff to cfg.
func (c checkCmd) printDiff(p process, cfg *config.Config) error {
	if c.Diff == "" {
		return nil
	}
	from, err := loadConfig(c.Diff)
	if err != nil {
		return err
	}
	changes := config.Diff(from, cfg)
	printf(p.stdout, "diff  from %s: %d changes\n", c.Diff, len(changes))
	for _, change := range changes {
		printf(p.stdout, "diff  %s\n", change)
	}
	return nil
}

func (c checkCmd) verify(p process, check gateway.Check) bool {
	ctx, cancel := context.WithTimeout(p, c.Timeout)
	defer cancel()
	result, err := check.Verify(ctx)
	if err != nil {
		printf(p.stdout, "FAIL  %s: %v\n", check.Key, err)
		return false
	}
	printf(p.stdout, "ok    %s: %s\n", check.Key, result)
	return true
}

func configSummary(cfg *config.Config) string {
	keys := 0
	for _, app := range cfg.Apps {
		keys += len(app.Keys)
	}
	return fmt.Sprintf("valid; apps: %d, API keys: %d; all key files are readable", len(cfg.Apps), keys)
}
