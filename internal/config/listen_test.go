// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"
)

func TestListenAddresses(t *testing.T) {
	cfg := parse(t, shopConfig+"listen: unix:/run/sluice/api.sock\nsocket_mode: 0600\nadmin: {listen: systemd:admin.socket}\ntrusted_proxies: [10.0.0.0/8, 'fd00::/8']\n")
	if network, address := cfg.Listen.Split(); network != "unix" || address != "/run/sluice/api.sock" || cfg.SocketMode != "0600" || cfg.Admin.SocketMode != "0660" || len(cfg.TrustedProxies) != 2 {
		t.Errorf("%+v", cfg)
	}
	if network, address := cfg.Admin.Listen.Split(); network != "systemd" || address != "admin.socket" {
		t.Errorf("%s %s", network, address)
	}
}

func TestListenErrors(t *testing.T) {
	for block, want := range map[string]string{
		"listen: unix:api.sock":                       `listen: "unix:api.sock": must be an address to listen on: host:port, unix:/path (up to 100 bytes) or systemd:NAME`,
		"listen: unix:/" + strings.Repeat("a", 100):   "listen: must be an address",
		"listen: 'systemd:'":                          "listen: ",
		"listen: 'systemd:a b'":                       "listen: ",
		"socket_mode: 660":                            `socket_mode: "660": must be a file mode in octal, such as 0660`,
		"socket_mode: 0999":                           "socket_mode: ",
		"trusted_proxies: [proxy.internal]":           `trusted_proxies[0]: "proxy.internal": must be a network as address/length`,
		"listen: unix:/a\nadmin: {listen: 'unix:/a'}": `admin.listen: "unix:/a" is taken by listen`,
	} {
		if got := parseErrors(t, shopConfig+block+"\n"); !strings.Contains(got, want) {
			t.Errorf("%s\n got: %s\nwant: %s", block, got, want)
		}
	}
}
