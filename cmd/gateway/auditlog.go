// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluice-push/sluice/internal/auditlog"
)

type auditlogCmd struct {
	reader
	Key    string        `env:"SLUICE_KEY,GATEWAY_KEY" required:"" help:"API key with the scope admin. Prefer the environment variable: other users of the machine can see flags."`
	Limit  int           `default:"100" help:"How many records to print, the last ones. 0 prints all."`
	Since  time.Duration `placeholder:"DURATION" help:"Print only records of this time before now, such as 24h."`
	Action []string      `placeholder:"ACTION" help:"Print only this action, such as console.sign_in. Repeatable."`
	Caller string        `placeholder:"NAME" help:"Print only what this caller did."`
	JSON   bool          `name:"json" help:"Print a JSON object per line."`
}

// Help returns the description and examples.
func (auditlogCmd) Help() string {
	return `Examples:

    gateway auditlog --since 24h
    gateway auditlog --action config.reload --action console.sign_in --limit 0 --json

Prints the audit log of the gateway (GET /v1/audit): who did what and when, the newest record last. The gateway must have a queue and audit_log.enabled. In a cluster, the log has the records of all gateways. gateway audit is another command: it verifies the notifications.`
}

// auditPage is a page of GET /v1/audit.
type auditPage struct {
	Records []auditlog.Record `json:"records"` // newest first
	Next    string            `json:"next"`
}

// maxAuditPage is the largest page that the API returns.
const maxAuditPage = 1000

// Run prints the records.
func (a auditlogCmd) Run(p process) error {
	records, err := a.records(p)
	if err != nil {
		return err
	}
	slices.Reverse(records)
	if a.JSON {
		encoder := json.NewEncoder(p.stdout)
		for _, r := range records {
			if err := encoder.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, r := range records {
		more := slices.Concat([]string{r.App, r.Subject}, r.Details)
		if r.Count > 0 {
			more = append(more, "count "+strconv.FormatInt(r.Count, 10))
		}
		more = slices.DeleteFunc(more, func(s string) bool { return s == "" })
		printf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.At.UTC().Format(time.RFC3339), r.Action, cmp.Or(r.Caller, "-"), cmp.Or(r.Address, "-"), r.Result, strings.Join(more, " "))
	}
	return table.Flush()
}

// records returns the records that the flags select, newest first.
func (a auditlogCmd) records(p process) (records []auditlog.Record, err error) {
	oldest := time.Time{}
	if a.Since > 0 {
		oldest = time.Now().Add(-a.Since)
	}
	for before := ""; ; {
		query := url.Values{"limit": {strconv.Itoa(maxAuditPage)}}
		set(query, map[string]string{"before": before})
		var page auditPage
		if err := a.read(p, "auditlog", a.Key, "v1/audit", query, &page); err != nil {
			return nil, err
		}
		for _, r := range page.Records {
			switch {
			case r.At.Before(oldest):
				return records, nil
			case len(a.Action) > 0 && !slices.Contains(a.Action, r.Action), a.Caller != "" && a.Caller != r.Caller:
				continue
			}
			if records = append(records, r); len(records) == a.Limit {
				return records, nil
			}
		}
		if before = page.Next; before == "" {
			return records, nil
		}
	}
}
