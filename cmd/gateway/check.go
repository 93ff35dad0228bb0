// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
)

type checkCmd struct {
	Config  string        `short:"c" required:"" placeholder:"FILE" help:"Configuration, in YAML."`
	Deep    bool          `help:"Also ask the providers whether they accept the credentials, topics and projects. Nothing is delivered."`
	Diff    string        `placeholder:"FILE" help:"Also print the changes from this configuration to the one of -c."`
	JSON    bool          `name:"json" help:"Print the result as JSON."`
	Timeout time.Duration `default:"15s" help:"How long each check may take."`
}

// Help returns the description and examples.
func (checkCmd) Help() string {
	return `Examples:

    gateway check -c gateway.yaml
    gateway check --deep -c gateway.yaml

Parses the configuration, reads its key files, briefly listens on its addresses, verifies that the queue and the history can be written (in a NATS cluster by creating and deleting a stream of the same size), that timeouts fit into each other, gets a token for each credential and connects to each proxy and provider. Sends no notification. Exits with 0 if all checks pass, with 2 if the configuration is invalid, and with 1 if another check fails.

With --deep, asks APNs to deliver to a device token that no device can have, asks FCM to validate a message, compares the keys of Web Push, connects to the push services of browsers and to webhooks, asks OpenID Connect providers whether they accept the console as a client, and compares the clock. Names the key to change and the fix for each mistake that the responses show, such as a swapped key_id and team_id, a topic of another team, the wrong environment, a revoked key or a missing permission. Apple allows one new token of a key in 20 minutes: run it less often than that.`
}

// checkParallel is how many apps are checked at the same time.
const checkParallel = 16

// checkResult is one line of the output.
type checkResult struct {
	Status string `json:"status"` // ok, warn or fail
	App    string `json:"app,omitempty"`
	Key    string `json:"key,omitempty"`
	Seen   string `json:"seen"`
	Fix    string `json:"fix,omitempty"`
}

// checkReport is the result of all checks.
type checkReport struct {
	OK      bool          `json:"ok"`
	Deep    bool          `json:"deep"`
	Changes []string      `json:"changes,omitempty"` // with --diff
	Checks  []checkResult `json:"checks"`
}

// Run runs all checks, even after one has failed, and prints a line for each.
func (c checkCmd) Run(p process) error {
	report := checkReport{Deep: c.Deep}
	err := c.check(p, &report)
	if !c.JSON {
		return err
	}
	report.OK = err == nil
	text, jsonErr := json.MarshalIndent(report, "", "  ")
	printf(p.stdout, "%s\n", text)
	if _, ok := errors.AsType[usageError](err); ok {
		return usageError{errReported}
	}
	return errors.Join(err, jsonErr)
}

// check adds all results to the report and, unless it will be printed as JSON, prints them. The error
// is errReported if a check has failed.
func (c checkCmd) check(p process, report *checkReport) error {
	add := func(r checkResult) {
		report.Checks = append(report.Checks, r)
		if !c.JSON {
			r.print(p)
		}
	}
	cfg, err := loadConfig(c.Config)
	if err != nil {
		report.addErrors(err)
		return err
	}
	g, err := gateway.New(cfg, nil)
	if err != nil {
		report.addErrors(err)
		return usageError{err}
	}
	add(checkResult{Status: "ok", Seen: c.Config + ": " + configSummary(cfg)})
	if report.Changes, err = c.changes(p, cfg); err != nil {
		return err
	}
	for _, warning := range gateway.Warnings(cfg) {
		key, seen, _ := strings.Cut(warning, ": ")
		add(checkResult{Status: "warn", Key: key, Seen: seen})
	}
	checks := g.Checks
	if c.Deep {
		checks = g.DeepChecks
	}
	c.verifyAll(p, checks(), func(r checkResult) {
		add(r)
		if r.Status == "fail" {
			err = errReported
		}
	})
	return err
}

// addErrors adds the errors of an invalid configuration.
func (r *checkReport) addErrors(err error) {
	if found, ok := errors.AsType[config.Errors](err); ok {
		for _, e := range found {
			r.Checks = append(r.Checks, checkResult{Status: "fail", Key: e.Path, Seen: e.Position + ": " + e.Text})
		}
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") { // of gateway.New: one for each key
		key, seen, _ := strings.Cut(strings.TrimPrefix(line, "config: "), ": ")
		if strings.Contains(key, " ") || seen == "" {
			key, seen = "", line
		}
		r.Checks = append(r.Checks, checkResult{Status: "fail", Key: key, Seen: seen})
	}
}

// changes returns the changes from the configuration of --diff to cfg and, unless the result is JSON,
// prints them.
func (c checkCmd) changes(p process, cfg *config.Config) (changes []string, err error) {
	if c.Diff == "" {
		return nil, nil
	}
	from, err := loadConfig(c.Diff)
	if err != nil {
		return nil, err
	}
	for _, change := range config.Diff(from, cfg) {
		changes = append(changes, fmt.Sprint(change))
	}
	if c.JSON {
		return changes, nil
	}
	printf(p.stdout, "diff  from %s: %d changes\n", c.Diff, len(changes))
	for _, change := range changes {
		printf(p.stdout, "diff  %s\n", change)
	}
	return changes, nil
}

// verifyAll runs the checks: those of one app one after the other, several apps at the same time. It
// reports the results in the order of the checks.
func (c checkCmd) verifyAll(p process, checks []gateway.Check, report func(checkResult)) {
	results, byApp, apps := make([]chan checkResult, len(checks)), map[string][]int{}, []string(nil)
	for i, check := range checks {
		results[i] = make(chan checkResult, 1)
		if byApp[check.App] == nil {
			apps = append(apps, check.App)
		}
		byApp[check.App] = append(byApp[check.App], i)
	}
	var group errgroup.Group
	group.Go(func() error {
		var parallel errgroup.Group
		parallel.SetLimit(checkParallel)
		for _, app := range apps {
			parallel.Go(func() error {
				for _, i := range byApp[app] {
					results[i] <- c.verify(p, checks[i])
				}
				return nil
			})
		}
		return parallel.Wait()
	})
	for _, r := range results {
		report(<-r)
	}
	_ = group.Wait() // the functions return no error
}

func (c checkCmd) verify(p process, check gateway.Check) checkResult {
	ctx, cancel := context.WithTimeout(p, c.Timeout)
	defer cancel()
	found, err := check.Verify(ctx)
	r := checkResult{Status: "ok", App: check.App, Key: check.Key, Seen: found}
	if err == nil {
		return r
	}
	r.Status, r.Seen = "fail", err.Error()
	if problem, ok := errors.AsType[*gateway.Problem](err); ok {
		r.Key, r.Seen, r.Fix = problem.Key, problem.Seen, problem.Fix
	}
	return r
}

// print prints the result as a line, and the fix on a second one.
func (r checkResult) print(p process) {
	mark := map[string]string{"ok": "ok  ", "warn": "warn", "fail": "FAIL"}[r.Status]
	if r.Key != "" {
		mark += "  " + r.Key + ":"
		printf(p.stdout, "%s %s\n", mark, r.Seen)
	} else {
		printf(p.stdout, "%s  %s\n", mark, r.Seen)
	}
	if r.Fix != "" {
		printf(p.stdout, "      fix: %s\n", r.Fix)
	}
}

func configSummary(cfg *config.Config) string {
	keys := 0
	for _, app := range cfg.Apps {
		keys += len(app.Keys)
	}
	return fmt.Sprintf("valid; apps: %d, API keys: %d; all key files are readable", len(cfg.Apps), keys)
}
