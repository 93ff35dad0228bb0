// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"
)

func TestNATSErrors(t *testing.T) {
	for block, want := range map[string]string{
		"{credentials_file: a}":                                "queue.nats.credentials_file: needs url, the cluster that it is for",
		"{url: 'nats://n', credentials_file: a, nkey_file: b}": "queue.nats: has two credentials: keep credentials_file or nkey_file",
		"{url: 'nats://n', cert_file: a}":                      "queue.nats.key_file: required with a client certificate",
		"{url: 'nats://n', key_file: a}":                       "queue.nats.cert_file: required with a client certificate",
	} {
		if got := parseErrors(t, shopConfig+"queue: {nats: "+block+"}\n"); !strings.Contains(got, want) {
			t.Errorf("%s\n got: %s\nwant: %s", block, got, want)
		}
	}
	cfg := parse(t, shopConfig+"queue: {nats: {url: 'nats://n', nkey_file: b, ca_file: c, cert_file: d, key_file: e}}\n")
	if n := cfg.Queue.NATS; n.NKeyFile != "etc/b" || n.CAFile != "etc/c" || n.CertFile != "etc/d" || n.KeyFile != "etc/e" {
		t.Errorf("%+v", n)
	}
}
