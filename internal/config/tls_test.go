// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"
)

func TestTLS(t *testing.T) {
	cfg := parse(t, shopConfig+"tls: {cert_file: a.pem, key_file: a.key, client_ca_file: ca.pem}\nadmin: {tls: {cert_file: b.pem, key_file: b.key}}\n")
	blocks := cfg.TLSBlocks()
	if blocks[0].TLS.CertFile != "etc/a.pem" || blocks[0].TLS.ClientCAFile != "etc/ca.pem" || blocks[1].TLS.KeyFile != "etc/b.key" {
		t.Errorf("%+v", cfg)
	}
}

func TestTLSErrors(t *testing.T) {
	for block, want := range map[string]string{
		"tls: {cert_file: a.pem}":           "tls.key_file: required with TLS",
		"tls: {key_file: a.key}":            "tls.cert_file: required with TLS",
		"admin: {tls: {key_file: a.key}}":   "admin.tls.cert_file: required with TLS",
		"tls: {client_ca_file: a.pem}":      "tls.client_ca_file: needs cert_file and key_file",
		"tls: {certificate: a.pem}":         "tls.certificate: unknown key (known here: cert_file, key_file, client_ca_file)",
		"tls: {cert_file: [], key_file: a}": "tls.cert_file: ",
	} {
		if got := parseErrors(t, shopConfig+block+"\n"); !strings.Contains(got, want) {
			t.Errorf("%s\n got: %s\nwant: %s", block, got, want)
		}
	}
}
