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
	"net"
	"net/http"
	"strings"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/jetstream"
)

type auditCmd struct {
	Config string `short:"c" xor:"where" required:"" placeholder:"FILE" help:"Configuration of the gateway in YAML."`
	Dir    string `xor:"where" required:"" placeholder:"DIR" help:"Directory of a queue (queue.dir) that no gateway uses."`
	JSON   bool   `help:"Print the report as JSON."`
}

// Help returns the description and examples.
func (auditCmd) Help() string {
	return `Example:

    gateway audit -c gateway.yaml

Reads the history and the queue and verifies that every queued notification has ended exactly once or is still waiting, and that no two notifications with the same Idempotency-Key were delivered. Lists the notifications for which that is not true. If a gateway uses the directory, the command requests the audit from its admin listener. Exits with 0 if the audit is clean and with 1 otherwise.`
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

func (a auditCmd) report(p process) (*audit.Report, error) {
	if a.Dir != "" {
		return gateway.Audit(p, &config.Config{Queue: config.Queue{Dir: config.File(a.Dir)}})
	}
	cfg, err := loadConfig(a.Config)
	if err != nil {
		return nil, err
	}
	report, err := gateway.Audit(p, cfg)
	if errors.Is(err, jetstream.ErrLocked) {
		return fetchAudit(p, &cfg.Admin)
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

// fetchAudit requests the audit from the gateway that uses the directory.
func fetchAudit(ctx context.Context, admin *config.Admin) (*audit.Report, error) {
	client, base, err := adminClient(admin)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+gateway.AuditPath, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("gateway: another gateway uses the directory and does not respond at admin.listen (stop it or try again): %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return nil, fmt.Errorf("gateway: the gateway that uses the directory responded %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	report := new(audit.Report)
	return report, json.NewDecoder(response.Body).Decode(report)
}

func printJSON(w io.Writer, r *audit.Report) error { return json.NewEncoder(w).Encode(r) }

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
