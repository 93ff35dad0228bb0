// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestErrorsNamePositionAndAllowedValues(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"empty file": {"", `gateway.yaml:1:1: apps: required: at least one app, by its name`},
		"unknown key with a similar known key": {
			shopConfig + "lisen: x\n", `gateway.yaml:5:1: lisen: unknown key (did you mean listen?)`},
		"unknown key without a similar known key": {
			shopConfig + "admin:\n  colour: red\n", `gateway.yaml:6:3: admin.colour: unknown key (known here: listen, socket_mode, tls)`},
		"unknown key in a nested block": {
			shopConfig + "pool:\n  breaker: {consecutiv: 3}\n", `gateway.yaml:6:13: pool.breaker.consecutiv: unknown key (did you mean consecutive?)`},
		"duplicate key": {
			shopConfig + "zone: a\nzone: b\n", `gateway.yaml:6:1: zone: written twice, first in line 5`},
		"word instead of a number": {
			shopConfig + "pool: {size: many}\n", `gateway.yaml:5:8: pool.size: "many": must be a whole number, from 1 to 64`},
		"number out of range": {
			shopConfig + "pool: {size: 65}\n", `gateway.yaml:5:8: pool.size: "65": must be a whole number, from 1 to 64`},
		"duration without a unit": {
			shopConfig + "drain: {grace: 30}\n", `gateway.yaml:5:9: drain.grace: "30": must be a duration with its unit, from 0s to 1h`},
		"size without a unit": {
			shopConfig + "limits: {body: 100000}\n", `gateway.yaml:5:10: limits.body: "100000": must be a size with its unit, from 1KiB to 64MiB`},
		"percentage without a sign": {
			shopConfig + "retry: {budget: 0.1}\n", `gateway.yaml:5:9: retry.budget: "0.1": must be a percentage, from 0% to 100%`},
		"rate of zero": {
			shopConfig + "quota: {fcm: {rate: 0/min}}\n",
			`gateway.yaml:5:15: quota.fcm.rate: "0/min": must be none, or a rate above zero, per s, min, h or d, such as "600000/min"`},
		"scope with a reserved name": {
			shopConfig + "quota: {apns: {scopes: [{name: total, rate: 1/s}]}}\n",
			`gateway.yaml:5:26: quota.apns.scopes[0].name: "total" is the name of another scope: give each its own, and none total or topics`},
		"two scopes with the same name": {
			shopConfig + "quota: {fcm: {scopes: [{name: a, rate: 1/s}, {name: a, rate: 2/s}]}}\n",
			`gateway.yaml:5:47: quota.fcm.scopes[1].name: "a" is the name of another scope: give each its own, and none total or topics`},
		"yes instead of true": {
			shopConfig + "pool: {fail_fast: yes}\n", `gateway.yaml:5:8: pool.fail_fast: "yes": must be true or false`},
		"word that is not in the list": {
			shopConfig + "log: {level: loud}\n", `gateway.yaml:5:7: log.level: "loud": must be one of "debug", "info", "warn", "error"`},
		"number that is not in the list": {
			shopConfig + "queue: {nats: {replicas: 2}}\n", `gateway.yaml:5:16: queue.nats.replicas: "2": must be one of 1, 3, 5`},
		"address without a port": {
			shopConfig + "listen: localhost\n", `gateway.yaml:5:1: listen: "localhost": must be an address to listen on: host:port, unix:/path (up to 100 bytes) or systemd:NAME, such as "127.0.0.1:8080"`},
		"http URL for a provider": {
			strings.Replace(shopConfig, "topic:", "url: http://localhost:2197, topic:", 1),
			`gateway.yaml:4:75: apps.shop.apns.url: "http://localhost:2197": must be an https URL with nothing after the port, such as "https://localhost:2197"`},
		"service URL with a path": {
			strings.Replace(shopConfig, "topic:", "url: https://localhost/3/device, topic:", 1),
			`gateway.yaml:4:75: apps.shop.apns.url: "https://localhost/3/device": must be an https URL with nothing after the port, such as "https://localhost:2197"`},
		"endpoint with a host name": {
			strings.Replace(shopConfig, "topic:", "endpoints: [localhost:2197], topic:", 1),
			`gateway.yaml:4:87: apps.shop.apns.endpoints[0]: "localhost:2197": must be an address as ip:port, such as "127.0.0.1:2197"`},
		"block instead of a value": {
			shopConfig + "zone: {a: b}\n", `gateway.yaml:5:1: zone: a block of keys does not belong here: must be up to 63 letters, digits, dots, dashes and underscores`},
		"value instead of a block": {
			shopConfig + "pool: 8\n", `gateway.yaml:5:1: pool: a single value does not belong here: must be a block of keys`},
		"value instead of a list": {
			strings.Replace(shopConfig, `keys: [{name: backend, hash: "`+hash+`"}]`, "keys: none", 1),
			`gateway.yaml:3:5: apps.shop.keys: a single value does not belong here: must be a list`},
		"same address for both listeners": {
			shopConfig + "listen: 127.0.0.1:9090\n", `gateway.yaml:1:1: admin.listen: "127.0.0.1:9090" is taken by listen: give each its own address`},
		"two queues": {
			shopConfig + "queue: {dir: data, nats: {url: \"nats://localhost\"}}\n",
			`gateway.yaml:5:1: queue: dir and nats.url exclude each other: the queue is embedded or in a cluster`},
		"app without a provider": {
			"apps:\n  shop:\n    keys: [{name: a, hash: \"" + hash + "\"}]\n",
			`gateway.yaml:2:3: apps.shop: has no provider: add a block apns, fcm or webpush`},
		"app without a key": {
			"apps:\n  shop:\n    fcm: {service_account_file: a.json}\n", `gateway.yaml:2:3: apps.shop.keys: required: at least one key`},
		"app name with a slash": {
			strings.Replace(shopConfig, "shop:", "a/b:", 1),
			`gateway.yaml:2:3: apps.a/b: an app's name must be 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first`},
		"two app names that differ in case": {
			shopConfig + strings.Replace(strings.TrimPrefix(shopConfig, "apps:\n"), "shop", "SHOP", 1),
			`gateway.yaml:2:3: apps.shop: its environment variables are those of apps.SHOP: choose a name that differs in more than case and punctuation`},
		"incomplete token key": {
			strings.Replace(shopConfig, "key_id: ABC123DEFG, ", "", 1), `gateway.yaml:4:5: apps.shop.apns.key_id: required with a token key`},
		"two credentials": {
			strings.Replace(shopConfig, "topic:", "cert_file: a.pem, topic:", 1),
			`gateway.yaml:4:5: apps.shop.apns: has a token key and a certificate: keep key_file, key_id and team_id, or cert_file and cert_key_file`},
		"no credential": {
			"apps:\n  shop:\n    keys: [{name: a, hash: \"" + hash + "\"}]\n    apns: {topic: com.example.shop}\n",
			`gateway.yaml:4:5: apps.shop.apns: has no credential: set key_file, key_id and team_id, or cert_file and cert_key_file`},
		"invalid YAML":     {"apps: [\n", `gateway.yaml:2:1: not YAML: while parsing a flow node: did not find expected node content`},
		"two documents":    {shopConfig + "---\n" + shopConfig, `gateway.yaml: more than one document (---): write one file for one gateway`},
		"list as the file": {"- apps\n", "gateway.yaml:1:1: a list does not belong here: must be a block of keys"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, parseErrors(t, c.file)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAllErrorsAreReportedInLineOrder(t *testing.T) {
	got := parseErrors(t, `lisen: 127.0.0.1:8080
apps:
  shop:
    keys:
      - {name: backend, hash: "sha256:beef", scopes: [sent]}
    apns: {key_fil: AuthKey.p8, key_id: short, team_id: DEF123GHIJ, topic: com.example.shop}
pool: {size: 0, max_age: 10}
`, "SLUICE_RETRY_ATTEMPTS=99", "SLUICE_POL_SIZE=4")
	want := `gateway.yaml:1:1: lisen: unknown key (did you mean listen?)
gateway.yaml:5:25: apps.shop.keys[0].hash: must be sha256: and 64 hex digits, as gateway key prints it
gateway.yaml:5:55: apps.shop.keys[0].scopes[0]: "sent": must be one of "send", "read", "events", "channels", "broadcasts", "approve"
gateway.yaml:6:12: apps.shop.apns.key_fil: unknown key (did you mean key_file?)
gateway.yaml:6:33: apps.shop.apns.key_id: "short": must be 10 capital letters and digits
gateway.yaml:6:5: apps.shop.apns.key_file: required with a token key
gateway.yaml:7:8: pool.size: "0": must be a whole number, from 1 to 64
gateway.yaml:7:17: pool.max_age: "10": must be a duration with its unit, from 10s to 24h
SLUICE_RETRY_ATTEMPTS: retry.attempts: "99": must be a whole number, from 1 to 10
SLUICE_POL_SIZE: no key is overridden by this variable (did you mean SLUICE_POOL_SIZE?)`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDuplicateKeysAreRejected(t *testing.T) {
	twice := `{name: backend, hash: "` + hash + `"}`
	got := parseErrors(t, strings.Replace(shopConfig, twice, twice+", "+twice, 1))
	for _, want := range []string{
		`keys[1].name: "backend" is the name of keys[0]: give each key its own`,
		`keys[1].hash: the same key as keys[0]: make another with gateway key`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestErrorsDoNotRepeatSecrets(t *testing.T) {
	const key, password = "sk_live_canary", "hunter2"
	for _, file := range []string{
		strings.Replace(shopConfig, hash, key, 1),
		shopConfig + "queue: {nats: {url: \"http://user:" + password + "@localhost\"}}\n",
	} {
		if got := parseErrors(t, file); strings.Contains(got, key) || strings.Contains(got, password) {
			t.Errorf("leaked: %s", got)
		}
	}
}
