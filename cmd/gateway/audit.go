// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

type auditCmd struct {
	Config string `short:"c" xor:"where" required:"" placeholder:"FILE" help:"Configuration of the gateway in YAML."`
	Dir    string `xor:"where" required:"" placeholder:"DIR" help:"Directory of a queue (queue.dir) that no gateway uses."`
	JSON   bool   `help:"Print the report as JSON."`

	Broadcast string `placeholder:"ID" help:"Audit only this broadcast: prove that its counts add up to its audience."`
}

// Help returns the description and examples.
func (auditCmd) Help() string {
	return `Example:

    gateway audit -c gateway.yaml
    gateway audit -c gateway.yaml --broadcast 019b8e2f-6c1d-8a52-9d3e-5f0a1b2c3d4e

Reads the history and the queue and verifies that every queued notification has ended exactly once or is still waiting, and that no two notifications with the same Idempotency-Key were delivered. Lists the notifications for which that is not true. If a gateway uses the directory, the command requests the audit from its admin listener.

With --broadcast, compares the audience of a broadcast with the history and with the counts of the API, and lists the first lines that differ: each valid line has one notification or is pending, each notification has at most one end, the counts are those of the history, and the recall reaches exactly the lines that are accepted or unknown.

Exits with 0 if the audit is clean and with 1 otherwise.`
}

// Run audits and prints the report.
func (a auditCmd) Run(p process) error {
	if a.Broadcast != "" {
		return runAudit(p, a, printBroadcastAudit, func(cfg *config.Config) (*broadcast.Audit, error) { return gateway.AuditBroadcast(p, cfg, a.Broadcast) })
	}
	return runAudit(p, a, printReport, func(cfg *config.Config) (*audit.Report, error) { return gateway.Audit(p, cfg) })
}

// runAudit gets a report from the files or the gateway that uses them, and prints it.
func runAudit[R any, P interface {
	*R
	Clean() bool
}](p process, a auditCmd, print func(io.Writer, P) error, run func(*config.Config) (P, error)) error {
	report, err := auditReport(p, a, run)
	if err != nil {
		return err
	}
	if a.JSON {
		err = json.NewEncoder(p.stdout).Encode(report)
	} else {
		err = print(p.stdout, report)
	}
	if err == nil && !report.Clean() {
		err = errReported
	}
	return err
}

func auditReport[R any, P interface{ *R }](p process, a auditCmd, run func(*config.Config) (P, error)) (P, error) {
	if a.Dir != "" {
		return run(&config.Config{Queue: config.Queue{Dir: config.File(a.Dir)}})
	}
	cfg, err := loadConfig(a.Config)
	if err != nil {
		return nil, err
	}
	report, err := run(cfg)
	if errors.Is(err, jetstream.ErrLocked) {
		report = new(R)
		return report, fetchAudit(p, &cfg.Admin, a.Broadcast, report)
	}
	return report, err
}

// adminClient returns a client for the admin listener, and the base of its URLs. With TLS, it accepts
// the certificate of the configuration.
func adminClient(admin *config.Admin) (client *http.Client, base string, err error) {
	network, address := admin.Listen.Split()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	client = &http.Client{Transport: transport}
	if network == "systemd" {
		return nil, "", fmt.Errorf("gateway: the address of the running gateway is not known, because admin.listen is %s (stop it first)", admin.Listen)
	}
	if admin.TLS.CertFile == "" {
		return client, "http://admin", nil
	}
	pair, err := tls.LoadX509KeyPair(string(admin.TLS.CertFile), string(admin.TLS.KeyFile))
	if err != nil {
		return nil, "", fmt.Errorf("gateway: admin.tls: %w", err)
	}
	trusted := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	trusted.RootCAs.AddCert(pair.Leaf)
	if len(pair.Leaf.DNSNames) > 0 {
		trusted.ServerName = pair.Leaf.DNSNames[0]
	} else if len(pair.Leaf.IPAddresses) > 0 {
		trusted.ServerName = pair.Leaf.IPAddresses[0].String()
	}
	transport.TLSClientConfig = trusted
	return client, "https://admin", nil
}

// fetchAudit requests the audit of everything, or of a broadcast, from the gateway that uses the directory.
func fetchAudit(ctx context.Context, admin *config.Admin, id string, report any) error {
	client, base, err := adminClient(admin)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+gateway.AuditPath+"?"+url.Values{"broadcast": {id}}.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("gateway: another gateway uses the directory and does not respond at admin.listen (stop it or try again): %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return fmt.Errorf("gateway: the gateway that uses the directory responded %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(response.Body).Decode(report)
}

func printReport(w io.Writer, r *audit.Report) error {
	for _, f := range r.Findings {
		printf(w, "%-12s %s of app %s, first event at %s\n", f.Kind, f.ID, f.App, f.Cursor)
	}
	if listed, all := len(r.Findings), r.Lost+r.Twice+r.SameKey+r.NotStored+r.PossiblyLost+r.Unannounced+r.Interrupted; uint64(listed) < all {
		printf(w, "… and %d more\n", all-uint64(listed))
	}
	printf(w, "%d events of %d notifications. %d were queued; %d are waiting.\n", r.Events, r.Notifications, r.Accepted, r.Waiting)
	if r.Clean() {
		printf(w, "Every queued notification has ended exactly once or is waiting, and no Idempotency-Key was used twice.\n")
		return nil
	}
	printf(w, "%d are lost; %d have ended twice; %d have the Idempotency-Key of an earlier one that was or may have been delivered, or waits.\n",
		r.Lost, r.Twice, r.SameKey)
	return nil
}

func printBroadcastAudit(w io.Writer, r *broadcast.Audit) error {
	for _, f := range r.Findings {
		printf(w, "%s\n", f)
	}
	printf(w, "Broadcast %s of app %s is %s. Audience: %d lines: %d valid, %d invalid, %d duplicates.\n", r.Broadcast, r.App, r.State, r.Lines, r.Valid, r.Invalid, r.Duplicates)
	printf(w, "Message, from the history: %s.\n", countsText(r.Counts))
	if r.RecallCounts != nil {
		printf(w, "Recall, from the history: %s.\n", countsText(r.RecallCounts))
	}
	switch {
	case r.ComparedWith == "":
		printf(w, "The counts of the API were not compared: the results are not stored yet, and the gateways have them in memory.\n")
	case r.Clean():
		printf(w, "Equal for every line to %s, which the counts of the API are made from.\n", r.ComparedWith)
	default:
		printf(w, "Compared with %s, which the counts of the API are made from.\n", r.ComparedWith)
	}
	return nil
}

// countsText returns the counts as a sum.
func countsText(c *broadcast.Counts) string {
	by := map[push.Status]uint64{}
	for _, n := range c.By {
		by[n.Status] += n.Count
	}
	text := fmt.Sprintf("%d lines = %d pending", c.Total, c.Pending)
	for _, status := range slices.Sorted(maps.Keys(by)) {
		text += fmt.Sprintf(" + %d %s", by[status], status)
	}
	return text
}
