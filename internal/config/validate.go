// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

var appName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// validate checks the constraints that involve several keys.
func (d *decoder) validate(cfg *Config) {
	if cfg.Listen == cfg.Admin.Listen && !strings.HasSuffix(string(cfg.Listen), ":0") {
		d.fail("admin.listen", "%q is taken by listen: give each its own address", cfg.Admin.Listen)
	}
	if cfg.Queue.Dir != "" && cfg.Queue.NATS.URL != "" {
		d.fail("queue", "dir and nats.url exclude each other: the queue is embedded or in a cluster")
	}
	d.validateNATS(&cfg.Queue.NATS)
	if len(cfg.Queue.Encryption.KeyFiles) > 0 && cfg.Queue.Dir == "" && cfg.Queue.NATS.URL == "" {
		d.fail("queue.encryption.key_files", "needs a queue, whose records it encrypts: set queue.dir or queue.nats.url")
	}
	d.validateAuth(cfg)
	d.validateOIDC(cfg)
	for _, block := range cfg.TLSBlocks() {
		d.validateTLS(block.Path, block.TLS)
	}
	d.validateTracing(&cfg.Tracing)
	d.validateBudgetFloor("retry", cfg.Retry)
	for _, p := range cfg.Proxies() {
		d.validateProxy(p.Path, p.Proxy)
	}
	d.validateScopes("quota.apns", cfg.Quota.APNs.Scopes, nil)
	d.validateScopes("quota.fcm", cfg.Quota.FCM.Scopes, nil)
	d.validateScopes("quota.webpush", cfg.Quota.WebPush.Scopes, nil)
	variables := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		path := joinPath("apps", name)
		if !appName.MatchString(name) {
			d.fail(path, "an app's name must be 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first")
		}
		if other, taken := variables[variable(path)]; taken {
			d.fail(path, "its environment variables are those of %s: choose a name that differs in more than case and punctuation", other)
		}
		variables[variable(path)] = path
		d.validateApp(path, cfg.Apps[name], cfg.Quota)
		if keys := joinPath(path, "keys"); len(cfg.Apps[name].Keys) == 0 && cfg.Auth.empty() && !d.failedAt(keys) {
			d.fail(keys, "required: at least one key")
		}
		d.validateWebhooks(joinPath(path, "webhooks"), cfg.Apps[name].Webhooks, cfg.Queue)
		d.validateAppRetry(path, cfg.Apps[name], cfg.Retry)
	}
}

// validateTLS rejects a certificate without its key, and other keys without a certificate.
func (d *decoder) validateTLS(path string, t *TLS) {
	switch {
	case t.CertFile == "" && t.KeyFile == "" && t.ClientCAFile != "":
		d.fail(joinPath(path, "client_ca_file"), "needs cert_file and key_file, the certificate of the gateway")
	case t.CertFile != "" || t.KeyFile != "":
		d.requireAll(path, "TLS", map[string]bool{"cert_file": t.CertFile != "", "key_file": t.KeyFile != ""})
	}
}

// validateNATS rejects two credentials, a certificate without its key, and files without the URL.
func (d *decoder) validateNATS(n *NATS) {
	const path = "queue.nats"
	for _, f := range []struct {
		name string
		file File
	}{{"credentials_file", n.CredentialsFile}, {"nkey_file", n.NKeyFile}, {"ca_file", n.CAFile}, {"cert_file", n.CertFile}, {"key_file", n.KeyFile}} {
		if f.file != "" && n.URL == "" {
			d.fail(joinPath(path, f.name), "needs url, the cluster that it is for")
		}
	}
	if n.CredentialsFile != "" && n.NKeyFile != "" {
		d.fail(path, "has two credentials: keep credentials_file or nkey_file")
	}
	if n.CertFile != "" || n.KeyFile != "" {
		d.requireAll(path, "a client certificate", map[string]bool{"cert_file": n.CertFile != "", "key_file": n.KeyFile != ""})
	}
}

// validateTracing rejects files without the URL that they are for, files for TLS without TLS, and a path
// with a protocol that has none.
func (d *decoder) validateTracing(t *Tracing) {
	const path = "tracing"
	isTLS := strings.HasPrefix(string(t.Endpoint), "https:")
	for _, f := range []struct {
		name   string
		file   File
		forTLS bool
	}{{"ca_file", t.CAFile, true}, {"cert_file", t.CertFile, true}, {"key_file", t.KeyFile, true}, {"headers_file", t.HeadersFile, false}} {
		switch {
		case f.file == "":
		case t.Endpoint == "":
			d.fail(joinPath(path, f.name), "needs endpoint, the receiver that it is for")
		case f.forTLS && !isTLS:
			d.fail(joinPath(path, f.name), "is for an endpoint with https, and this one has no TLS")
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		d.requireAll(path, "a client certificate", map[string]bool{"cert_file": t.CertFile != "", "key_file": t.KeyFile != ""})
	}
	_, rest, _ := strings.Cut(string(t.Endpoint), "://")
	if _, below, found := strings.Cut(rest, "/"); found && below != "" && t.Protocol == "grpc" {
		d.fail(joinPath(path, "endpoint"), "must have no path with protocol grpc (or set protocol to http)")
	}
}

// validateProxy rejects keys without the URL that they belong to. A block of a provider or webhook
// without a URL would look like no proxy.
func (d *decoder) validateProxy(path string, p *Proxy) {
	set := map[string]bool{"credentials_file": p.CredentialsFile != "", "ca_file": p.CAFile != "", "no_proxy": len(p.NoProxy) > 0}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if set[name] && (p.URL == "" || p.URL == NoProxyURL) {
			d.fail(joinPath(path, name), "needs url, the proxy that it is for")
		}
	}
	switch {
	case p.URL == "" && path != "proxy":
		d.fail(joinPath(path, "url"), "required: %s", kindOf(reflect.TypeFor[ProxyURL]()).description)
	case p.CAFile != "" && !strings.HasPrefix(string(p.URL), "https:"):
		d.fail(joinPath(path, "ca_file"), "is for https proxies, and url is not one")
	}
}

func (d *decoder) validateApp(path string, app *App, top Quota) {
	if app.APNs == nil && app.FCM == nil && app.WebPush == nil {
		d.fail(path, "has no provider: add a block apns, fcm or webpush")
	}
	d.validateKeys(joinPath(path, "keys"), app.Keys)
	if app.APNs != nil {
		d.validateAPNs(joinPath(path, "apns"), app.APNs)
		d.validateScopes(joinPath(path, "apns.quota"), app.APNs.Quota.Scopes, top.APNs.Scopes)
	}
	if app.FCM != nil {
		d.validateScopes(joinPath(path, "fcm.quota"), app.FCM.Quota.Scopes, top.FCM.Scopes)
	}
	if app.WebPush != nil {
		d.validateScopes(joinPath(path, "webpush.quota"), app.WebPush.Quota.Scopes, top.WebPush.Scopes)
	}
}

// validateScopes rejects duplicate names, because status and metrics identify scopes by name. It
// skips inherited scopes, which are checked at the top level.
func (d *decoder) validateScopes(path string, scopes, inherited []Scope) {
	if reflect.DeepEqual(scopes, inherited) {
		return
	}
	taken := map[string]bool{"total": true, "topics": true}
	for i, s := range scopes {
		if taken[s.Name] {
			d.fail(fmt.Sprintf("%s.scopes[%d].name", path, i), "%q is the name of another scope: give each its own, and none total or topics", s.Name)
		}
		taken[s.Name] = true
	}
}

// validateKeys rejects keys of one app with the same name or the same hash.
func (d *decoder) validateKeys(path string, keys []Key) {
	for i, key := range keys {
		for j := range i {
			if key.Name != "" && keys[j].Name == key.Name {
				d.fail(fmt.Sprintf("%s[%d].name", path, i), "%q is the name of keys[%d]: give each key its own", key.Name, j)
			}
			if key.Hash != "" && keys[j].Hash == key.Hash {
				d.fail(fmt.Sprintf("%s[%d].hash", path, i), "the same key as keys[%d]: make another with gateway key", j)
			}
		}
		if len(key.Scopes) == 0 {
			d.fail(fmt.Sprintf("%s[%d].scopes", path, i), "must hold send, read, events, channels, broadcasts or approve: a key without a scope allows nothing")
		}
		d.validateKeyTimes(fmt.Sprintf("%s[%d]", path, i), key.NotBefore, key.ExpiresAt)
	}
}

// validateWebhooks rejects webhooks of one app with the same name, webhooks without exactly one
// secret setting, and webhooks without the queue, which stores their events.
func (d *decoder) validateWebhooks(path string, hooks []Webhook, q Queue) {
	if len(hooks) > 0 && q.Dir == "" && q.NATS.URL == "" {
		d.fail(path, "needs the queue, which keeps the events: set queue.dir or queue.nats.url")
	}
	for i, hook := range hooks {
		at := fmt.Sprintf("%s[%d]", path, i)
		if (hook.Secret == "") == (hook.SecretFile == "") {
			d.fail(at, "signs with one secret: set secret_file or secret")
		}
		if slices.ContainsFunc(hooks[:i], func(other Webhook) bool { return other.Name == hook.Name && hook.Name != "" }) {
			d.fail(at+".name", "%q is the name of another webhook of this app: give each its own", hook.Name)
		}
	}
}

// validateAPNs rejects a block that does not have exactly one complete credential.
func (d *decoder) validateAPNs(path string, a *APNs) {
	token := a.KeyFile != "" || a.KeyID != "" || a.TeamID != ""
	certificate := a.CertFile != "" || a.CertKeyFile != ""
	switch {
	case token && certificate:
		d.fail(path, "has a token key and a certificate: keep key_file, key_id and team_id, or cert_file and cert_key_file")
	case token:
		d.requireAll(path, "a token key", map[string]bool{
			"key_file": a.KeyFile != "", "key_id": a.KeyID != "", "team_id": a.TeamID != "", "topic": a.Topic != "",
		})
	case certificate:
		d.requireAll(path, "a certificate", map[string]bool{
			"cert_file": a.CertFile != "", "cert_key_file": a.CertKeyFile != "",
		})
	default:
		d.fail(path, "has no credential: set key_file, key_id and team_id, or cert_file and cert_key_file")
	}
	if a.LearnEnvironment && a.URL != "" {
		d.fail(joinPath(path, "learn_environment"), "needs two services, and url is one for both environments: leave url out (endpoints and ca_file lead to a mock)")
	}
}

// requireAll reports the missing keys of a credential.
func (d *decoder) requireAll(path, what string, set map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if !set[name] {
			d.fail(joinPath(path, name), "required with %s", what)
		}
	}
}

// validateAppRetry rejects an app that raises a retry limit above the top-level one.
func (d *decoder) validateAppRetry(path string, app *App, top Retry) {
	if app.APNs != nil {
		d.validateRetry(joinPath(path, "apns.retry"), app.APNs.Retry, top)
	}
	if app.FCM != nil {
		d.validateRetry(joinPath(path, "fcm.retry"), app.FCM.Retry, top)
	}
	if app.WebPush != nil {
		d.validateRetry(joinPath(path, "webpush.retry"), app.WebPush.Retry, top)
	}
}

// validateBudgetFloor rejects a floor of zero, with which the gateway could never detect that a
// provider has recovered.
func (d *decoder) validateBudgetFloor(path string, r Retry) {
	if r.BudgetFloor == (Rate{}) {
		d.fail(joinPath(path, "budget_floor"), "must be above zero: these probe a provider that is down")
	}
}

func (d *decoder) validateRetry(path string, r, top Retry) {
	d.validateBudgetFloor(path, r)
	raised := map[string]bool{
		"attempts":        r.Attempts > top.Attempts,
		"max_retry_after": r.MaxRetryAfter > top.MaxRetryAfter,
		"budget":          r.Budget > top.Budget,
		"budget_floor":    r.BudgetFloor.PerSecond() > top.BudgetFloor.PerSecond(),
	}
	for _, name := range slices.Sorted(maps.Keys(raised)) {
		if raised[name] {
			d.fail(joinPath(path, name), "is more than retry.%s: an app may lower this limit, not raise it", name)
		}
	}
}
