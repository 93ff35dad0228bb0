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

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/providers/webpush"
)

type devCmd struct {
	Listen    string `default:"127.0.0.1:8080" help:"Where the gateway answers; port 0 takes a free one."`
	Fault     string `placeholder:"FILE" help:"What goes wrong with the mock providers, in YAML (faults: a list, as for mock -c)."`
	ReadyFile string `placeholder:"FILE" help:"Write where everything listens to this file, in JSON, once it does."`
}

// Help shows an example.
func (devCmd) Help() string {
	return `Example:

    gateway dev

Plays APNs and FCM with eight endpoints each and a Web Push service, starts a gateway in front of them with a ready configuration and a new API key, and prints a curl line to send with. Everything is in a temporary folder and gone at the end. To see an endpoint fail and be replaced, put

    faults: [ { service: apns, endpoint: "0", status: 500 } ]

into a file and start with --fault FILE.`
}

// demoApp is the one app of dev.
const demoApp = "demo"

// readyInfo is what dev writes into its ready file.
type readyInfo struct {
	URL      string `json:"url"`
	AdminURL string `json:"admin_url"`
	Key      string `json:"key"`
	App      string `json:"app"`
	mockprovider.Ready
}

// Run serves until a signal comes.
func (d devCmd) Run(p process) error {
	services, err := d.newMock()
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "sluice-dev-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	key, hash := api.NewKey()
	file, played, err := d.writeConfig(folder, hash, services)
	if err != nil {
		return err
	}
	g, err := d.newGateway(p, file)
	if err != nil {
		return err
	}
	at := readyInfo{URL: "http://" + g.Addr().String(), AdminURL: "http://" + g.AdminAddr().String(), Key: key, App: demoApp, Ready: played}
	if err := d.announce(p, file, at); err != nil {
		return err
	}
	return runBoth(p, services, g)
}

// newMock returns the mock providers, listening.
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

// writeConfig writes the keys and the configuration into folder.
func (d devCmd) writeConfig(folder, hash string, services *mockprovider.Mock) (file string, at mockprovider.Ready, err error) {
	keys, err := services.WriteFiles(folder)
	if err != nil {
		return "", at, err
	}
	at = services.Ready(keys)
	vapid, err := writeVAPID(folder)
	if err != nil {
		return "", at, err
	}
	file = filepath.Join(folder, "gateway.yaml")
	return file, at, os.WriteFile(file, []byte(demoConfig(d.Listen, d.adminAddr(), hash, vapid, at, localQueueConfig+"log: { level: warn, format: text }\n")), 0o600)
}

// localQueueConfig is the configuration of a queue in its own folder.
const localQueueConfig = "queue: { dir: queue }   # in this folder, and gone with it\n"

// demoConfig is a configuration for the app demo with the mock providers behind it, which listen at these addresses, and
// further lines.
func demoConfig(listen, admin, hash, vapid string, at mockprovider.Ready, more string) string {
	return fmt.Sprintf(`# What gateway dev runs with. The paths are those of the mock providers' keys.
listen: %q
admin: { listen: %q }
apps:
  %s:
    keys: [ { name: dev, hash: %q, scopes: [ send, read, channels ] } ]
    apns:   # no url: the mock tells Apple's two environments apart by the name that is called, and answers at these addresses
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
pool: { size: 6 }   # the mock has 8 endpoints for each service, so that there are spare ones to take in
%s`, listen, admin, demoApp, hash, quoteList(at.APNsEndpoints), at.APNsManage, at.CAFile, at.APNsKeyFile, at.APNsKeyID, at.APNsTeamID,
		at.APNsTopic, at.FCM, quoteList(at.FCMEndpoints), at.CAFile, at.ServiceAccountFile,
		at.WebPush, at.CAFile, vapid, more)
}

// writeVAPID makes a key for Web Push and returns its file.
func writeVAPID(folder string) (file string, err error) {
	key, err := webpush.NewKey()
	if err != nil {
		return "", err
	}
	text, err := key.PEM()
	if err != nil {
		return "", err
	}
	file = filepath.Join(folder, "vapid.pem")
	return file, os.WriteFile(file, text, 0o600)
}

func quoteList(addresses []string) string { return `"` + strings.Join(addresses, `", "`) + `"` }

// defaultAdmin is where the admin listener is by default.
const defaultAdmin = "127.0.0.1:9090"

// adminAddr returns the usual address for the admin listener, or a free one where that is taken, or where the caller wants
// free ports.
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

// newGateway returns the gateway, listening.
func (d devCmd) newGateway(p process, file string) (*gateway.Gateway, error) {
	cfg, err := config.Load(file, nil)
	if err != nil {
		return nil, usageError{err}
	}
	g, err := gateway.New(cfg, newLogger(p.stderr, cfg.Log))
	if err != nil {
		return nil, err
	}
	if err := g.Listen(); err != nil {
		return nil, fmt.Errorf("%w (choose another with --listen)", err)
	}
	return g, nil
}

// runBoth runs both. The providers stay until the gateway has drained, for what is in flight needs them.
func runBoth(p process, services *mockprovider.Mock, g *gateway.Gateway) error {
	providing, stop := context.WithCancel(context.WithoutCancel(p))
	var both errgroup.Group
	both.Go(func() error { return services.Run(providing) })
	both.Go(func() error {
		defer stop()
		return g.Run(p)
	})
	return both.Wait()
}

// announce prints the banner, and writes the ready file if one was asked for.
func (d devCmd) announce(p process, file string, at readyInfo) error {
	printf(p.stdout, "%s", d.banner(file, at))
	text, err := json.MarshalIndent(at, "", "  ")
	return errors.Join(err, writeAtomically(d.ReadyFile, append(text, '\n')))
}

// banner is what a newcomer reads.
func (d devCmd) banner(file string, at readyInfo) string {
	elsewhere := ""
	if !strings.HasSuffix(d.Listen, ":0") && at.AdminURL != "http://"+defaultAdmin {
		elsewhere = "   (" + defaultAdmin + " is taken)"
	}
	return fmt.Sprintf(`
  Sluice serves, with mock providers behind it.

    API      %s
    admin    %s/metrics%s
    ledger   %s   (all that the mock providers received)
    config   %s
    app      %s
    key      %s

  Send a notification:

    curl -sS %s/v1/apps/%s/notifications \
      -H 'Authorization: Bearer %s' \
      -H 'Content-Type: application/json' \
      -d '{"platform":"apns","token":"%s","title":"Hello"}'

  Look at the pools:

    curl -sS %s/v1/status -H 'Authorization: Bearer %s'

  Ctrl-C drains and ends.

`, at.URL, at.AdminURL, elsewhere, at.Ledger, file, at.App, at.Key, at.URL, at.App, at.Key, exampleToken, at.URL, at.Key)
}

// exampleToken is a device token that means nothing to Apple and is registered with the mock, like all that do not begin
// with special digits.
const exampleToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
