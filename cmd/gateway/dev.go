// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/providers/webpush"
)

type devCmd struct {
	Listen    string `default:"127.0.0.1:8080" help:"Address of the API. Port 0 picks a free port."`
	Fault     string `placeholder:"FILE" help:"Fault script of the mock providers in YAML (the list faults, as for mock -c)."`
	ReadyFile string `placeholder:"FILE" help:"Write all addresses and the API key to this file as JSON once everything listens."`
}

// Help returns the description and examples.
func (devCmd) Help() string {
	return `Example:

    gateway dev

Runs mocks of APNs and FCM with eight endpoints each and a mock Web Push service, and a gateway with a ready-made configuration and a new API key. Prints a curl command that sends a notification. All files are in a temporary directory that is removed at the end. To see an endpoint fail and be replaced, put

    faults: [ { service: apns, endpoint: "0", status: 500 } ]

into a file and pass it with --fault FILE.`
}

// demoApp is the name of the app in the configuration of dev.
const demoApp = "demo"

// readyInfo is the content of the ready file of dev.
type readyInfo struct {
	URL      string `json:"url"`
	AdminURL string `json:"admin_url"`
	Key      string `json:"key"`
	App      string `json:"app"`
	mockprovider.Ready
}

// Run runs the mock providers and the gateway until p is canceled.
func (d devCmd) Run(p process) error {
	services, err := d.newMock()
	if err != nil {
		return err
	}
	dir, err := newTempDir("sluice-dev-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	key, hash := identity.NewKey()
	file, mockInfo, err := d.writeConfig(dir, hash, services)
	if err != nil {
		return err
	}
	g, err := d.newGateway(p, file)
	if err != nil {
		return err
	}
	info := readyInfo{URL: "http://" + g.Addr().String(), AdminURL: "http://" + g.AdminAddr().String(), Key: key, App: demoApp, Ready: mockInfo}
	traffic, stopTraffic := context.WithCancel(p)
	defer stopTraffic()
	g.SetDev(&console.Dev{Key: key, Mock: &devMock{ctx: traffic, mock: services, url: info.URL, key: key}})
	if err := d.announce(p, file, info); err != nil {
		return err
	}
	return runBoth(p, services, g)
}

// newMock returns mock providers that listen.
func (d devCmd) newMock() (*mockprovider.Mock, error) {
	cfg := mockprovider.Config{Endpoints: 8}
	if d.Fault != "" {
		text, err := os.ReadFile(d.Fault)
		if err != nil {
			return nil, usageError{fmt.Errorf("dev: --fault: %w", err)}
		}
		if cfg.Script, err = mockprovider.ParseScript(text); err != nil {
			return nil, usageError{fmt.Errorf("dev: --fault %s: %w", d.Fault, err)}
		}
	}
	return mockprovider.New(cfg)
}

// writeConfig writes the keys and the configuration to dir.
func (d devCmd) writeConfig(dir, hash string, services *mockprovider.Mock) (file string, info mockprovider.Ready, err error) {
	keys, err := services.WriteFiles(dir)
	if err != nil {
		return "", info, err
	}
	info = services.Ready(keys)
	vapid, err := writeVAPID(dir)
	if err != nil {
		return "", info, err
	}
	file = filepath.Join(dir, "gateway.yaml")
	return file, info, os.WriteFile(file, []byte(demoConfig(d.Listen, d.adminAddr(), hash, vapid, info, localQueueConfig+"log: { level: warn, format: text }\n")), 0o600)
}

// localQueueConfig configures a queue next to the configuration file.
const localQueueConfig = "queue: { dir: queue }   # relative to this file; removed at the end\n"

// demoConfig returns a configuration for demoApp and the mock providers, followed by the lines in
// extra.
func demoConfig(listen, admin, hash, vapid string, info mockprovider.Ready, extra string) string {
	return fmt.Sprintf(`# Configuration of gateway dev. The key files belong to the mock providers.
listen: %q
admin: { listen: %q }
apps:
  %s:
    keys: [ { name: dev, hash: %q, scopes: [ send, read, channels, broadcasts ] } ]
    apns:   # no url: the mock distinguishes Apple's two environments by host name and serves both at these addresses
      endpoints: [ %s ]
      manage_url: https://%s
      ca_file: %q
      key_file: %q
      key_id: %s
      team_id: %s
      topic: %s
    fcm:
      url: %s
      endpoints: [ %s ]
      ca_file: %q
      service_account_file: %q
    webpush:
      url: %s
      ca_file: %q
      vapid_key_file: %q
      subject: mailto:dev@example.com
pool: { size: 6 }   # the mock has 8 endpoints per service, so 2 are spare
%s`, listen, admin, demoApp, hash, quoteList(info.APNsEndpoints), info.APNsManage, info.CAFile, info.APNsKeyFile, info.APNsKeyID, info.APNsTeamID,
		info.APNsTopic, info.FCM, quoteList(info.FCMEndpoints), info.CAFile, info.ServiceAccountFile,
		info.WebPush, info.CAFile, vapid, extra)
}

// writeVAPID writes a new Web Push key pair to dir and returns the name of the file.
func writeVAPID(dir string) (file string, err error) {
	key, err := webpush.NewKey()
	if err != nil {
		return "", err
	}
	text, err := key.PEM()
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "vapid.pem")
	return file, os.WriteFile(file, text, 0o600)
}

func quoteList(addresses []string) string { return `"` + strings.Join(addresses, `", "`) + `"` }

// defaultAdmin is the default address of the admin listener.
const defaultAdmin = "127.0.0.1:9090"

// adminAddr returns the address for the admin listener: the default, or a free port if the default
// is in use or if --listen requests a free port.
func (d devCmd) adminAddr() string {
	if strings.HasSuffix(d.Listen, ":0") {
		return "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", defaultAdmin)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = l.Close()
	return defaultAdmin
}

// newGateway returns a gateway that listens.
func (d devCmd) newGateway(p process, file string) (*gateway.Gateway, error) {
	cfg, err := config.Load(file, nil)
	if err != nil {
		return nil, usageError{err}
	}
	g, err := gateway.New(cfg, newLogger(p, cfg.Log))
	if err != nil {
		return nil, err
	}
	g.WatchLog(p.log.Dropped)
	if err := g.Listen(); err != nil {
		return nil, fmt.Errorf("%w (choose another with --listen)", err)
	}
	return g, nil
}

// runBoth runs the mock providers and the gateway. The providers stop after the gateway has
// drained, because requests in flight need them.
func runBoth(p process, services *mockprovider.Mock, g *gateway.Gateway) error {
	mockCtx, stop := context.WithCancel(context.WithoutCancel(p))
	var group errgroup.Group
	group.Go(func() error { return services.Run(mockCtx) })
	group.Go(func() error {
		defer stop()
		return g.Run(p)
	})
	return group.Wait()
}

// announce prints the banner and writes the ready file, if any.
func (d devCmd) announce(p process, file string, info readyInfo) error {
	printf(p.stdout, "%s", d.banner(file, info))
	text, err := json.MarshalIndent(info, "", "  ")
	return errors.Join(err, writeReadyFile(d.ReadyFile, append(text, '\n')))
}

// banner returns the text that dev prints at its start.
func (d devCmd) banner(file string, info readyInfo) string {
	note := ""
	if !strings.HasSuffix(d.Listen, ":0") && info.AdminURL != "http://"+defaultAdmin {
		note = "   (" + defaultAdmin + " is in use)"
	}
	return fmt.Sprintf(`
  Sluice is running with mock providers.

    console  %s/console/   (shows what happens; sends tests; makes the mocks fail)
    API      %s
    admin    %s/metrics%s
    ledger   %s   (requests that the mock providers received)
    config   %s
    app      %s

  Export the API key, then send a notification:

    export SLUICE_KEY=%s
    curl -sS %s/v1/apps/%s/notifications \
      -H "Authorization: Bearer $SLUICE_KEY" \
      -H 'Content-Type: application/json' \
      -d '{"platform":"apns","token":"%s","title":"Hello"}'

  Show the state of the pools:

    curl -sS %s/v1/status -H "Authorization: Bearer $SLUICE_KEY"

  Press Ctrl-C to drain and exit.

`, info.AdminURL, info.URL, info.AdminURL, note, info.Ledger, file, info.App, info.Key, info.URL, info.App, exampleToken, info.URL)
}

// exampleToken is a device token for the mock. The mock treats every token as registered unless it
// starts with a special prefix.
const exampleToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
