// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
)

type auditCmd struct {
	Config string `short:"c" xor:"where" required:"" placeholder:"FILE" help:"Configuration of the gateway, in YAML."`
	Dir    string `xor:"where" required:"" placeholder:"DIR" help:"The folder of a queue that no gateway has, as queue.dir names it."`
	JSON   bool   `help:"Print the report as JSON."`
}

// Help shows an example.
func (auditCmd) Help() string {
	return `Example:

    gateway audit -c gateway.yaml

Reads the history and the queue, and proves that every accepted notification has exactly one end or still waits, or lists those that have not. A gateway that has the folder is asked at its admin listener. Exits with 0 if nothing was lost and nothing has ended twice, with 1 otherwise.`
}

// Run audits and prints the report.
func (a auditCmd) Run(p process) error {
	report, err := a.report(p)
	if err != nil {
		return err
	}
	print := printReport
	if a.JSON {
		print = printJSON
	}
	if err := print(p.stdout, report); err != nil {
		return err
	}
	if !report.Clean() {
		return errReported
	}
	return nil
}

func (a auditCmd) report(p process) (*history.Report, error) {
	if a.Dir != "" {
		return gateway.Audit(p, &config.Config{Queue: config.Queue{Dir: config.File(a.Dir)}})
	}
	cfg, err := loadConfig(a.Config)
	if err != nil {
		return nil, err
	}
	report, err := gateway.Audit(p, cfg)
	if errors.Is(err, jetstream.ErrLocked) {
		return fetchAudit(p, string(cfg.Admin.Listen))
	}
	return report, err
}

// fetchAudit has the gateway that has the folder audit it.
func fetchAudit(ctx context.Context, admin string) (*history.Report, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+gateway.AuditPath, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("gateway: a gateway has the folder, and does not answer at admin.listen (stop it, or try again): %w", err)
	}
	defer func() { _ = answer.Body.Close() }() // it has been read
	if answer.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10)) // as much as there is
		return nil, fmt.Errorf("gateway: the gateway that has the folder answers %s: %s", answer.Status, strings.TrimSpace(string(why)))
	}
	report := new(history.Report)
	return report, json.NewDecoder(answer.Body).Decode(report)
}

func printJSON(w io.Writer, r *history.Report) error { return json.NewEncoder(w).Encode(r) }

func printReport(w io.Writer, r *history.Report) error {
	for _, f := range r.Findings {
		printf(w, "%-12s %s of %s, first told at %s\n", f.Kind, f.ID, f.App, f.Cursor)
	}
	if named, all := len(r.Findings), r.Lost+r.Twice+r.Unannounced+r.Interrupted; uint64(named) < all {
		printf(w, "… and %d more\n", all-uint64(named))
	}
	printf(w, "%d events tell of %d notifications. %d were accepted for later; %d wait.\n", r.Events, r.Notifications, r.Accepted, r.Waiting)
	if r.Clean() {
		printf(w, "Every one has exactly one end, or waits.\n")
		return nil
	}
	printf(w, "%d have no end and wait nowhere; %d have two ends.\n", r.Lost, r.Twice)
	return nil
}
