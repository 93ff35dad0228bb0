// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/config"
)

const hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// shopConfig is a minimal configuration. Tests add lines before or after it.
const shopConfig = `apps:
  shop:
    keys: [{name: backend, hash: "` + hash + `"}]
    apns: {key_file: AuthKey.p8, key_id: ABC123DEFG, team_id: DEF123GHIJ, topic: com.example.shop}
`

func parse(t *testing.T, file string, env ...string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("etc/gateway.yaml", []byte(file), env)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func parseErrors(t *testing.T, file string, env ...string) string {
	t.Helper()
	_, err := config.Parse("gateway.yaml", []byte(file), env)
	if _, ok := errors.AsType[config.Errors](err); !ok {
		t.Fatalf("got %v, want a config.Errors", err)
	}
	return err.Error()
}

func TestExampleConfigMatchesDefaults(t *testing.T) {
	cfg, err := config.Load("../../examples/gateway.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	bare := parse(t, shopConfig)
	bare.Zone = "tokyo-a" // the comments in the example exclude this and device_rate from the defaults
	bare.Quota.FCM.DeviceRate = config.Rate{Count: 240, Per: time.Minute}
	bare.Apps, cfg.Apps = nil, nil
	if diff := cmp.Diff(bare, cfg); diff != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	cfg := parse(t, shopConfig)
	want := config.Config{
		Listen: "127.0.0.1:8080", SocketMode: "0660",
		Admin:   config.Admin{Listen: "127.0.0.1:9090", SocketMode: "0660"},
		Console: config.Console{SessionLifetime: 12 * time.Hour},
		Pool: config.Pool{
			Size: 8, MaxAge: 10 * time.Minute, IdleTimeout: 30 * time.Minute, InFlight: 64, Connections: 1, Picker: "round_robin", MaxEjected: 0.5,
			Breaker: config.Breaker{
				Consecutive: 5, FailureRate: 0.5, MinOutcomes: 10, Window: 5 * time.Second,
				Ejection: 10 * time.Second, MaxEjection: 5 * time.Minute, ProbeTimeout: 10 * time.Second,
			},
			Outlier: config.Outlier{MinEndpoints: 5, MinOutcomes: 100, MinFailures: 0.1, SlowFactor: 4, SlowBy: 100 * time.Millisecond},
		},
		Retry: config.Retry{
			Attempts: 6, AttemptTimeout: 5 * time.Second, Backoff: 50 * time.Millisecond, ThrottledBackoff: time.Second,
			MaxBackoff: 20 * time.Second, RetryAfter: "comply", MaxRetryAfter: 20 * time.Second, Budget: 0.15,
			BudgetFloor: config.Rate{Count: 10, Per: time.Second},
		},
		Queue: config.Queue{
			NATS: config.NATS{Replicas: 3}, Encryption: config.Encryption{Enabled: true}, MaxBytes: 4 << 30, Reserve: 256 << 20, InFlight: 512, RetryFor: 24 * time.Hour,
		},
		History:    config.History{MaxAge: 168 * time.Hour, MaxBytes: 8 << 30, IdempotencyTTL: 24 * time.Hour},
		Broadcasts: config.Broadcasts{MaxLines: 10_000_000, MaxBytes: 8 << 30, Retention: 168 * time.Hour},
		AuditLog:   config.AuditLog{MaxAge: 90 * 24 * time.Hour, MaxBytes: 256 << 20},
		Quota: config.Quota{
			FCM: config.Allowance{Rate: config.Rate{Count: 600000, Per: time.Minute}, SubscriptionRate: config.Rate{Count: 3000, Per: time.Second}}, Shared: config.Shared{Lease: 5 * time.Second, FallbackShare: 0.02, Members: 10},
		},
		Limits: config.Limits{Body: 1 << 20, Batch: 10000, BatchItem: 64 << 10, BatchInFlight: 512, InFlight: 10_000, SendTimeout: 25 * time.Second, TargetLatency: time.Second, Concurrency: 4096, UnregisteredTTL: 24 * time.Hour,
			HeaderTimeout: 10 * time.Second, IdleTimeout: 11 * time.Minute, Connections: 20_000, BodyTimeout: 15 * time.Second},
		Log:     config.Log{Level: "info", Format: "auto"},
		Tracing: config.Tracing{Protocol: "grpc", SampleRatio: 0.01, ParentBased: true, ServiceName: "sluice"},
		Drain:   config.Drain{Grace: 30 * time.Second}, Readiness: config.Readiness{Providers: "none"},
	}
	want.Apps = map[string]*config.App{"shop": {
		Keys:   []config.Key{{Name: "backend", Hash: hash, Scopes: []string{"send", "read"}}},
		Weight: 1,
		APNs: &config.APNs{
			KeyFile: "etc/AuthKey.p8", KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Topic: "com.example.shop",
			Environment: "production", Pool: want.Pool, Retry: want.Retry,
		},
	}}
	if diff := cmp.Diff(&want, cfg); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestValueKinds(t *testing.T) {
	cfg := parse(t, shopConfig+`
listen: ":0"
limits: { body: 512 KiB }
pool: { max_age: 1h30m, fail_fast: true }
retry: { budget: 2.5%, budget_floor: 30/min }
quota: { apns: { rate: 500/s }, webpush: { rate: 3600/h }, fcm: { rate: none } }
queue: { dir: /var/lib/sluice }
`)
	got := []any{cfg.Listen, cfg.Limits.Body, cfg.Pool.MaxAge, cfg.Pool.FailFast, cfg.Retry.Budget,
		cfg.Retry.BudgetFloor.PerSecond(), cfg.Quota.APNs.Rate.PerSecond(), cfg.Quota.WebPush.Rate.PerSecond(),
		cfg.Quota.FCM.Rate.PerSecond(), cfg.Queue.Dir}
	want := []any{config.Address(":0"), config.Bytes(512 << 10), 90 * time.Minute, true, config.Percent(0.025),
		0.5, 500.0, 1.0, 0.0, config.File("/var/lib/sluice")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRelativePaths(t *testing.T) {
	cfg := parse(t, shopConfig, "SLUICE_APPS_SHOP_APNS_CA_FILE=roots.pem")
	if got := cfg.Apps["shop"].APNs; got.KeyFile != "etc/AuthKey.p8" || got.CAFile != "roots.pem" {
		t.Errorf("key_file %q, ca_file %q", got.KeyFile, got.CAFile)
	}
}

func TestYAMLAlias(t *testing.T) {
	cfg := parse(t, strings.Replace(shopConfig, "keys: [", "keys: &keys [", 1)+`  courier:
    keys: *keys
    fcm: {service_account_file: courier.json}
`)
	if diff := cmp.Diff(cfg.Apps["shop"].Keys, cfg.Apps["courier"].Keys); diff != "" {
		t.Error(diff)
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	_, err := config.Load("nowhere/gateway.yaml", nil)
	if err == nil || !strings.Contains(err.Error(), "nowhere/gateway.yaml") {
		t.Errorf("got %v", err)
	}
}
