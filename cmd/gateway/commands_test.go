// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/providers/webpush"
)

func TestUsageAndConfigErrorsExitWithTwo(t *testing.T) {
	bad := writeTemp(t, "gateway.yaml", "lisen: 127.0.0.1:8080\napps: {}\n")
	keyless := writeTemp(t, "keyless.yaml", `apps:
  shop:
    keys: [{name: a, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]
    fcm: {service_account_file: nowhere.json}
`)
	script := writeTemp(t, "fault.yaml", "faults: [ { service: apple, status: 500 } ]\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, `gateway: expected one of`},
		{[]string{"serv"}, `did you mean one of`},
		{[]string{"benchmark"}, `unexpected argument benchmark`},
		{[]string{"serve"}, `missing flags: --config=FILE`},
		{[]string{"serve", "-c", bad}, bad + `:1:1: lisen: unknown key (did you mean listen?)`},
		{[]string{"check", "-c", bad}, bad + `:2:1: apps: required: at least one app, by its name`},
		{[]string{"serve", "-c", "nowhere.yaml"}, `nowhere.yaml: no such file`},
		{[]string{"serve", "-c", keyless}, `config: apps.shop.fcm.service_account_file: "` + filepath.Dir(keyless)},
		{[]string{"check", "-c", keyless}, `no such file (a relative path starts at the configuration's folder)`},
		{[]string{"dev", "--fault", script}, `faults[0].service: "apple" is unknown`},
		{[]string{"mock", "-c", bad}, bad + `: mock: line 1: lisen: no such key`},
		{[]string{"send", "--key", "k", "--app", "a", "--platform", "apns"}, `missing flags: --token`},
		{[]string{"send", "--url", "nonsense", "--key", "k", "--app", "a", "--platform", "apns", "--token", deviceToken}, `must be a URL such as http://127.0.0.1:8080`},
	} {
		code, stdout, stderr := runGateway(t, nil, c.args...)
		if code != 2 || !strings.Contains(stderr, c.want) || stdout != "" {
			t.Errorf("gateway %v: exit code %d\nstdout: %s\nstderr: %s\nwant: %s", c.args, code, stdout, stderr, c.want)
		}
	}
}

func TestUnknownEnvironmentOverrideExitsWithTwo(t *testing.T) {
	bad := writeTemp(t, "gateway.yaml", "apps: {}\n")
	code, _, stderr := runGateway(t, []string{"SLUICE_LISTN=:1"}, "serve", "-c", bad)
	if code != 2 || !strings.Contains(stderr, "SLUICE_LISTN: no key is overridden by this variable (did you mean SLUICE_LISTEN?)") {
		t.Errorf("%d %s", code, stderr)
	}
}

func TestAPIKeyVariableDoesNotBreakServeAndCheck(t *testing.T) {
	bad := writeTemp(t, "gateway.yaml", "apps: {}\n")
	for _, command := range []string{"serve", "check"} {
		code, _, stderr := runGateway(t, []string{"SLUICE_KEY=slk_x"}, command, "-c", bad)
		if code != 2 || !strings.Contains(stderr, "apps: required") || strings.Contains(stderr, "SLUICE_KEY") {
			t.Errorf("%s: %d %s", command, code, stderr)
		}
	}
}

// TestKeyPrintsEntryOfConfiguration reads the entry with the hash back.
func TestKeyPrintsEntryOfConfiguration(t *testing.T) {
	code, stdout, _ := runGateway(t, nil, "key", "--name", "backend", "--scopes", "send,events", "--expires", "90d")
	_, entry, found := strings.Cut(stdout, "\n\n")
	if code != 0 || !found || !strings.HasPrefix(stdout, "key   slk_") {
		t.Fatalf("%d %q", code, stdout)
	}
	cfg, err := config.Parse("gateway.yaml", []byte("apps:\n  shop:\n    fcm: {}\n    keys:\n"+indent(entry, "    ")), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, entry)
	}
	k := cfg.Apps["shop"].Keys[0]
	if left := time.Until(k.ExpiresAt.Time); k.Name != "backend" || !slices.Equal(k.Scopes, []string{"send", "events"}) || left < 89*24*time.Hour || left > 90*24*time.Hour || !strings.Contains(stdout, "hash  "+k.Hash) {
		t.Errorf("%+v", k)
	}
	if _, stdout, _ := runGateway(t, nil, "key", "--scopes", "admin"); !strings.Contains(stdout, "# an item of auth.keys\n") || strings.Contains(stdout, "expires_at") {
		t.Error(stdout)
	}
	for _, wrong := range [][]string{{"--expires", "soon"}, {"--expires", "2001-01-01"}, {"--scopes", "write"}} {
		if code, _, stderr := runGateway(t, nil, append([]string{"key"}, wrong...)...); code != 2 || !strings.Contains(stderr, wrong[0]) {
			t.Errorf("%v: %d %s", wrong, code, stderr)
		}
	}
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+by) + "\n"
}

func TestKeyPrintsKeyAndHash(t *testing.T) {
	code, stdout, _ := runGateway(t, nil, "key")
	words := strings.Fields(stdout)
	if code != 0 || len(words) != 4 {
		t.Fatalf("%d %q", code, stdout)
	}
	sum := sha256.Sum256([]byte(words[1]))
	if words[3] != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("%s is not the hash of %s", words[3], words[1])
	}
}

func TestKeyVAPIDPrintsAUsableKeyFile(t *testing.T) {
	code, stdout, _ := runGateway(t, nil, "key", "vapid")
	key, err := webpush.ParseKey([]byte(stdout))
	if code != 0 || err != nil || !strings.HasPrefix(stdout, "public   "+key.Public()+"\n") {
		t.Fatalf("%d %v %q", code, err, stdout)
	}
}

func TestKeyEncryptionPrintsAUsableKeyFile(t *testing.T) {
	code, stdout, _ := runGateway(t, nil, "key", "encryption")
	key, err := keyring.ParseKey([]byte(stdout))
	if code != 0 || err != nil || stdout != key.Text() || !strings.HasPrefix(stdout, "# Sluice encryption key "+key.ID().String()+"\n") {
		t.Fatalf("%d %v", code, err)
	}
}

func TestOpenAPISchemaAndVersion(t *testing.T) {
	if code, stdout, _ := runGateway(t, nil, "openapi"); code != 0 || !strings.HasPrefix(stdout, "openapi: 3.1") && !strings.Contains(stdout, "\nopenapi: 3.1") {
		t.Errorf("openapi: %d %.80s", code, stdout)
	}
	if code, stdout, _ := runGateway(t, nil, "schema"); code != 0 || stdout != string(config.Schema()) {
		t.Errorf("schema: %d %.80s", code, stdout)
	}
	if code, stdout, _ := runGateway(t, nil, "schema", "--markdown"); code != 0 || stdout != config.Reference() {
		t.Errorf("schema --markdown: %d %.80s", code, stdout)
	}
	for _, command := range []string{"version", "--version"} {
		code, stdout, _ := runGateway(t, nil, command)
		if code != 0 || !regexp.MustCompile(`^gateway \S+ \(commit \S+(, modified)?, go1\.\S+\)\n$`).MatchString(stdout) {
			t.Errorf("%s: exit code %d, %q", command, code, stdout)
		}
	}
}

func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "complete ", "zsh": "#compdef gateway\n", "fish": "function __complete_gateway\n"} {
		code, stdout, stderr := runGateway(t, nil, "completion", shell)
		if code != 0 || !strings.HasPrefix(stdout, want) || !strings.Contains(stdout, gatewayBinary) {
			t.Errorf("%s: exit code %d, %q, %q", shell, code, stdout, stderr)
		}
	}
	for line, want := range map[string]string{
		"gateway s":             "schema\nsearch\nsend\nserve\nstats\nstatus\n",
		"gateway bench --api ":  "gorush\npushsphere\nsluice\n",
		"gateway bench --warm-": "--warm-up\n",
	} {
		code, stdout, stderr := runGateway(t, []string{"COMP_LINE=" + line})
		got := slices.Sorted(strings.Lines(stdout))
		if code != 0 || strings.Join(got, "") != want {
			t.Errorf("%q: exit code %d, completions %q, want %q, %q", line, code, got, want, stderr)
		}
	}
}

func TestSendPrintsReceiptAndExitCode(t *testing.T) {
	p, ready := startDev(t)
	env := []string{"GATEWAY_URL=" + ready["url"].(string), "SLUICE_KEY=" + ready["key"].(string)}
	to := func(args ...string) []string { return append([]string{"send", "--app", "demo"}, args...) }
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{to("--platform", "apns", "--token", deviceToken, "--title", "Hi", "--badge", "0", "--ttl", "1h"), 0, `"status": "accepted"`},
		{to("--platform", "fcm", "--topic", "news", "--body", "Hi", "--data", "k=v", "--priority", "high"), 0, `"status": "accepted"`},
		{to("--platform", "apns", "--token", "dead0000"+deviceToken[8:], "--title", "Hi"), 1, `"reason": "Unregistered"`},
		{to("--platform", "apns", "--token", "../../etc", "--title", "Hi"), 1, `"field": "token"`},
		{to("--platform", "apns", "--token", deviceToken, "--title", "Hi", "--send-at", "+10m"), 0, `"status": "scheduled"`},
		{to("--platform", "apns", "--token", deviceToken, "--title", "Hi", "--send-at", "2020-01-01T00:00:00Z"), 0, `"status": "queued"`},
		{to("--platform", "apns", "--token", deviceToken, "--title", "Hi", "--send-at", "10m"), 1, `"field": "send_at"`},
		{to("--platform", "apns", "--token", deviceToken, "--title", "Hi", "--send-at", "+9999h"), 1, `"field": "send_at"`},
		{to("--platform", "apns", "--token", deviceToken, "--title", "Hi", "--key", "slk_wrong"), 1, `"status": 401`},
		{to("--platform", "apns", "--token", deviceToken, "--token", "11"+deviceToken[2:], "--title", "Hi"), 0, `"target_index": 1`},
		{to("--platform", "apns", "--token", deviceToken, "--token", "11"+deviceToken[2:], "--title", "Hi", "--send-at", "+10m"), 0, `"status": "scheduled"`},
		{to("--platform", "apns", "--token", deviceToken, "--token", "../../etc", "--title", "Hi"), 1, `"field": "tokens[1]"`},
	} {
		code, stdout, stderr := runGateway(t, env, c.args...)
		if code != c.code || !strings.Contains(stdout, c.want) || strings.Contains(stdout+stderr, ready["key"].(string)) {
			t.Errorf("gateway %v: exit code %d\n%s%s", c.args, code, stdout, stderr)
		}
	}
	p.terminate()
	code, _, stderr := runGateway(t, env, to("--platform", "apns", "--token", deviceToken, "--title", "Hi")...)
	if code != 1 || !strings.Contains(stderr, "send: no response from ") {
		t.Errorf("without a gateway: %d %s", code, stderr)
	}
}

// mockConfig writes a configuration for the services of gateway mock and returns its path.
func mockConfig(t *testing.T, ready map[string]any) string {
	t.Helper()
	return writeTemp(t, "gateway.yaml", fmt.Sprintf(`listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
apps:
  demo:
    keys: [{name: a, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]
    apns: {url: "https://%[1]v", ca_file: %[2]q, key_file: %[3]q, key_id: %[4]v, team_id: %[5]v, topic: %[6]v}
    fcm: {url: %[7]q, ca_file: %[2]q, service_account_file: %[8]q}
`, ready["apns"], ready["ca_file"], ready["apns_key_file"], ready["apns_key_id"], ready["apns_team_id"], ready["apns_topic"],
		ready["fcm"], ready["service_account_file"]))
}

func TestCheckConnectsToProviders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path, "--keys", t.TempDir())
	ready := providers.readyFile(path)
	file := mockConfig(t, ready)
	code, stdout, stderr := runGateway(t, nil, "check", "-c", file)
	for _, want := range []string{
		"ok    " + file + ": valid; apps: 1, API keys: 1", "ok    listen: 127.0.0.1:0 is free",
		"ok    apps.demo.apns: got a token for MOCKKEY001", "ok    apps.demo.apns: connected to " + ready["apns"].(string),
		"ok    apps.demo.fcm: got a token for demo-project", "ok    apps.demo.fcm: connected to ",
	} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, want %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	providers.terminate()
	code, stdout, _ = runGateway(t, nil, "check", "-c", file)
	if code != 1 || !strings.Contains(stdout, "FAIL  apps.demo.apns: cannot connect to any address of ") || !strings.Contains(stdout, "FAIL  apps.demo.fcm: ") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}

// TestDeepCheckPrintsFindingsAndFixes covers the output and the exit codes. The mistakes are covered in
// package gateway.
func TestDeepCheckPrintsFindingsAndFixes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path, "--keys", t.TempDir())
	ready := providers.readyFile(path)
	file := mockConfig(t, ready)
	code, stdout, stderr := runGateway(t, nil, "check", "--deep", "-c", file)
	for _, want := range []string{
		"ok    apps.demo.apns: APNs (production) accepts the key MOCKKEY001 for the topic com.example.app; nothing was sent\n",
		"ok    apps.demo.fcm: FCM accepts the service account ", "ok    clock: within 1m0s of ",
	} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, want %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wrong := writeTemp(t, "wrong.yaml", strings.NewReplacer("key_id: MOCKKEY001, team_id: MOCKTEAM01", "key_id: MOCKTEAM01, team_id: MOCKKEY001").Replace(string(text)))
	code, stdout, _ = runGateway(t, nil, "check", "--deep", "-c", wrong)
	if want := "FAIL  apps.demo.apns.key_id: APNs answered 403 InvalidProviderToken; with key_id and team_id swapped it accepts the token\n" +
		"      fix: swap them: set key_id: MOCKKEY001 and team_id: MOCKTEAM01\n"; code != 1 || !strings.Contains(stdout, want) {
		t.Errorf("exit code %d, want %q in\n%s", code, want, stdout)
	}
	type result struct{ Status, App, Key, Seen, Fix string }
	for _, c := range []struct {
		file string
		code int
		want result
	}{
		{file, 0, result{Status: "ok", App: "demo", Key: "apps.demo.apns"}},
		{wrong, 1, result{Status: "fail", App: "demo", Key: "apps.demo.apns.key_id", Fix: "swap them: set key_id: MOCKKEY001 and team_id: MOCKTEAM01"}},
		{writeTemp(t, "invalid.yaml", "lisen: 1\n"+string(text)), 2, result{Status: "fail", Key: "lisen"}},
		{writeTemp(t, "file.yaml", strings.ReplaceAll(string(text), ready["apns_key_file"].(string), "nowhere.p8")), 2, result{Status: "fail", Key: "apps.demo.apns.key_file"}},
	} {
		code, stdout, stderr := runGateway(t, nil, "check", "--deep", "--json", "-c", c.file)
		var report struct {
			OK, Deep bool
			Checks   []result
		}
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != c.code || report.OK != (c.code == 0) || !report.Deep || stderr != "" {
			t.Errorf("%s: exit code %d, %v\n%s%s", c.file, code, err, stdout, stderr)
		}
		if !slices.ContainsFunc(report.Checks, func(r result) bool {
			r.Seen = ""
			return r == c.want
		}) {
			t.Errorf("%+v is not in\n%s", c.want, stdout)
		}
	}
}

func TestCheckWarnsAboutReadableKeyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path)
	ready := providers.readyFile(path)
	if err := os.Chmod(ready["apns_key_file"].(string), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ := runGateway(t, nil, "check", "-c", mockConfig(t, ready))
	if code != 0 || !strings.Contains(stdout, "warn  apps.demo.apns.key_file: ") || !strings.Contains(stdout, "chmod 600") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}

func TestMockPrintsAddressesAndPlaysItsScript(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	script := writeTemp(t, "mock.yaml", "endpoints: 2\nproject_id: other-project\nfaults: [ { service: fcm, status: 503 } ]\n")
	p := startGateway(t, nil, "mock", "-c", script, "--ready-file", path)
	ready := p.readyFile(path)
	var printed map[string]any
	p.eventually("the JSON on standard output", func() bool { return json.Unmarshal([]byte(p.stdout.String()), &printed) == nil })
	if printed["ledger"] != ready["ledger"] {
		t.Errorf("printed: %s", p.stdout.String())
	}
	if len(ready["apns_endpoints"].([]any)) != 2 || ready["project_id"] != "other-project" {
		t.Errorf("got %v", ready)
	}
	p.terminate()
}

// TestPrintedPathsAreAbsolute passes relative paths to commands whose output is for scripts.
func TestPrintedPathsAreAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, p := range map[string]*gatewayProcess{
		"mock":           startGateway(t, []string{"TMPDIR=."}, "mock", "--ready-file", "mock.json"),
		"mock with keys": startGateway(t, nil, "mock", "--keys", "keys", "--ready-file", "mock with keys.json"),
		"dev":            startGateway(t, []string{"TMPDIR=."}, "dev", "--listen", "127.0.0.1:0", "--ready-file", "dev.json"),
	} {
		ready := p.readyFile(name + ".json")
		for _, key := range []string{"ca_file", "apns_key_file", "service_account_file"} {
			path := ready[key].(string)
			if _, err := os.Stat(path); err != nil || !filepath.IsAbs(path) {
				t.Errorf("%s: %s is %s: %v", name, key, path, err)
			}
		}
		if name == "dev" {
			p.eventually("the path of the configuration", func() bool { return regexp.MustCompile(`(?m)^    config   /`).MatchString(p.stdout.String()) })
		} else {
			p.eventually("the JSON on standard output", func() bool { return strings.Contains(p.stdout.String(), ready["ca_file"].(string)) })
		}
		p.terminate()
	}
}

func TestServeLogsJSONAndDrains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path)
	p := startGateway(t, nil, "serve", "-c", mockConfig(t, providers.readyFile(path)))
	p.eventually("the log line of a serving gateway", func() bool { return strings.Contains(p.stderr.String(), `"msg":"serving"`) })
	p.terminate()
	if log := p.stderr.String(); !strings.Contains(log, `"msg":"drained"`) {
		t.Errorf("log:\n%s", log)
	}
	providers.signal(syscall.SIGINT)
	if code := providers.wait(); code != 0 {
		t.Errorf("mock: exit code %d", code)
	}
}
