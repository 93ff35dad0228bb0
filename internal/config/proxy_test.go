// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/config"
)

const proxiedShop = `apps:
  shop:
    keys: [{name: backend, hash: "` + hash + `"}]
    fcm: {PROXY}
`

func TestProxies(t *testing.T) {
	file := strings.Replace(proxiedShop, "{PROXY}", "{service_account_file: fcm.json, proxy: {url: none}}", 1) + `
    webhooks: [{name: a, url: https://a.example, secret_file: s, proxy: {url: "https://EXIT.example:8443/", ca_file: exit.pem}}]
queue: {dir: q}
proxy: {url: "http://proxy.internal:3128", credentials_file: proxy.txt, no_proxy: [internal.example, "*.corp", 10.0.0.0/8, "::1"]}
`
	got := parse(t, file).Proxies()
	want := []config.ProxyBlock{
		{Path: "proxy", Proxy: &config.Proxy{URL: "http://proxy.internal:3128", CredentialsFile: "etc/proxy.txt", NoProxy: []config.NoProxy{"internal.example", ".corp", "10.0.0.0/8", "::1"}}},
		{Path: "apps.shop.fcm.proxy", Proxy: &config.Proxy{URL: config.NoProxyURL}},
		{Path: "apps.shop.webhooks[0].proxy", Proxy: &config.Proxy{URL: "https://exit.example:8443", CAFile: "etc/exit.pem"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestProxyOverriddenByEnvironment(t *testing.T) {
	cfg := parse(t, shopConfig, "SLUICE_PROXY_URL=socks5://proxy.internal:1080", "SLUICE_PROXY_NO_PROXY=a.example,10.0.0.0/8", "SLUICE_APPS_SHOP_APNS_PROXY_URL=none")
	if cfg.Proxy.URL != "socks5://proxy.internal:1080" || len(cfg.Proxy.NoProxy) != 2 || cfg.Apps["shop"].APNs.Proxy == nil || cfg.Apps["shop"].APNs.Proxy.URL != config.NoProxyURL {
		t.Errorf("%+v", cfg.Proxy)
	}
}

func TestProxyErrors(t *testing.T) {
	for block, want := range map[string]string{
		"url: https://gateway:secret-4711@proxy.internal:3128": "proxy.url: must be none, or a URL http://host:port, https://host:port or socks5://host:port, without user and password (put them into credentials_file)",
		"url: gateway:secret-4711@proxy.internal":              "proxy.url: must be none, or a URL",
		"url: http://proxy.internal":                           `proxy.url: "http://proxy.internal": must be none, or a URL`,
		"url: http://proxy.internal:0":                         "proxy.url: ",
		"url: http://proxy.internal:3128/path":                 "proxy.url: ",
		"url: ftp://proxy.internal:3128":                       "proxy.url: ",
		"credentials_file: a":                                  "proxy.credentials_file: needs url, the proxy that it is for",
		"url: none, no_proxy: [a.example]":                     "proxy.no_proxy: needs url",
		"url: http://proxy.internal:3128, ca_file: a.pem":      "proxy.ca_file: is for https proxies, and url is not one",
		"url: http://p:1, no_proxy: [https://a.example]":       `proxy.no_proxy[0]: "https://a.example": must be a host name, an IP address or a network`,
		"url: http://p:1, no_proxy: ['*']":                     "proxy.no_proxy[0]: ",
	} {
		got := parseErrors(t, shopConfig+"proxy: {"+block+"}\n")
		if !strings.Contains(got, want) || strings.Contains(got, "secret-4711") {
			t.Errorf("%s\n got: %s\nwant: %s", block, got, want)
		}
	}
	got := parseErrors(t, strings.Replace(proxiedShop, "{PROXY}", "{proxy: {no_proxy: [a.example]}}", 1))
	if !strings.Contains(got, "apps.shop.fcm.proxy.url: required: none, or a URL") || !strings.Contains(got, "apps.shop.fcm.proxy.no_proxy: needs url") {
		t.Error(got)
	}
}

func TestProxyChangesAreShown(t *testing.T) {
	from, to := parse(t, shopConfig), parse(t, shopConfig+"proxy: {url: 'http://proxy.internal:3128'}\n")
	if got := config.Diff(from, to); len(got) != 1 || got[0].String() != "proxy.url: (none) → http://proxy.internal:3128" {
		t.Errorf("%v", got)
	}
}
