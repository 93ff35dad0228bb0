// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
)

func TestTracing(t *testing.T) {
	if got, want := parse(t, shopConfig).Tracing, (config.Tracing{Protocol: "grpc", SampleRatio: 0.01, ParentBased: true, ServiceName: "sluice"}); got != want {
		t.Errorf("%+v", got)
	}
	got := parse(t, shopConfig+"tracing: {endpoint: 'https://otlp.example.com/otlp/v1/traces', protocol: http, headers_file: h, ca_file: ca.pem, sample_ratio: 0.5%, parent_based: false, service_name: push}\n").Tracing
	want := config.Tracing{
		Endpoint: "https://otlp.example.com/otlp/v1/traces", Protocol: "http", HeadersFile: "etc/h", CAFile: "etc/ca.pem", SampleRatio: 0.005, ServiceName: "push",
	}
	if got != want {
		t.Errorf("%+v", got)
	}
	if got := parse(t, shopConfig, "SLUICE_TRACING_ENDPOINT=http://127.0.0.1:4317", "SLUICE_TRACING_SAMPLE_RATIO=100%").Tracing; got.Endpoint != "http://127.0.0.1:4317" || got.SampleRatio != 1 {
		t.Errorf("%+v", got)
	}
}

func TestTracingErrors(t *testing.T) {
	for block, want := range map[string]string{
		"endpoint: 127.0.0.1:4317":                                `tracing.endpoint: "127.0.0.1:4317": must be a URL http://host:port or https://host:port`,
		"endpoint: 'https://user:secret-4711@otlp.example.com'":   "tracing.endpoint: must be a URL",
		"endpoint: 'https://otlp.example.com?key=secret-4711'":    "tracing.endpoint: must be a URL",
		"endpoint: 'grpc://otlp.example.com:4317'":                "tracing.endpoint: ",
		"endpoint: 'http://collector:99999'":                      "tracing.endpoint: ",
		"endpoint: 'http://collector:4317/v1/traces'":             "tracing.endpoint: must have no path with protocol grpc (or set protocol to http)",
		"protocol: thrift":                                        `tracing.protocol: "thrift": must be one of "grpc", "http"`,
		"sample_ratio: 101%":                                      "tracing.sample_ratio: ",
		"sample_ratio: 0.01":                                      "tracing.sample_ratio: ",
		"headers_file: a":                                         "tracing.headers_file: needs endpoint, the receiver that it is for",
		"endpoint: 'http://collector:4317', ca_file: a.pem":       "tracing.ca_file: is for an endpoint with https, and this one has no TLS",
		"endpoint: 'https://collector:4317', cert_file: a.pem":    "tracing.key_file: required with a client certificate",
		"endpoint: 'https://collector:4317', service_name: 'a b'": "tracing.service_name: ",
		"endpoint: 'https://collector:4317', headers: {a: b}":     "tracing.headers: ",
	} {
		got := parseErrors(t, shopConfig+"tracing: {"+block+"}\n")
		if !strings.Contains(got, want) || strings.Contains(got, "secret-4711") {
			t.Errorf("%s\n got: %s\nwant: %s", block, got, want)
		}
	}
}
