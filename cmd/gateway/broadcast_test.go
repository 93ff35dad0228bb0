// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
)

const broadcastDefinition = `{"name":"Spring sale","message":{"title":"Sale"},"audience":{"platform":"fcm"},"recall":{"message":{"title":"Sorry"}}}`

// audienceFile returns a file with n devices, a line that cannot be sent, and a device that is not registered.
func audienceFile(t *testing.T, n int) string {
	var b strings.Builder
	b.WriteString("token,key\n,without-token\ndevice:dead,unregistered\n")
	for i := range n {
		fmt.Fprintf(&b, "device-%d:token,user-%d\n", i, i)
	}
	return writeTemp(t, "audience.csv", b.String())
}

// broadcasts runs gateway broadcast commands for the app demo of gateway dev.
type broadcasts struct {
	*testing.T
	env []string
}

func (b *broadcasts) run(wantCode int, wantOut, wantErr string, args ...string) (stdout string) {
	b.Helper()
	code, stdout, stderr := runGateway(b.T, b.env, append([]string{"broadcast", "--app", "demo"}, args...)...)
	if code != wantCode || !strings.Contains(stdout, wantOut) || !strings.Contains(stderr, wantErr) {
		b.Fatalf("gateway broadcast %q: exit code %d\nstdout: %s\nstderr: %s\nwant %d, %q, %q", args, code, stdout, stderr, wantCode, wantOut, wantErr)
	}
	return stdout
}

func TestBroadcastCommands(t *testing.T) {
	const devices = 200
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	_, ready := startDev(t)
	b := &broadcasts{t, []string{"GATEWAY_URL=" + ready["url"].(string), "SLUICE_KEY=" + ready["key"].(string)}}
	b.run(2, "", "message", "create", writeTemp(t, "bad.json", `{"name":"Spring sale"}`))
	b.run(2, "", "must be JSON", "create", writeTemp(t, "bad.json", `{`))
	b.run(2, "", "no such file", "create", "nowhere.json")
	id := strings.TrimSpace(b.run(0, "", "", "create", writeTemp(t, "sale.json", broadcastDefinition)))
	b.run(1, "", "not-possible: the audience is not uploaded completely", "validate", id)
	b.testDefinition(id)
	file := audienceFile(t, devices)
	b.run(1, "", "not-found", "upload", "01a22d66-c53c-8acb-97c2-7d90ad8c5c00", file)
	b.run(0, "", "uploaded in", "upload", id, file)
	b.run(0, "", "uploaded in", "upload", id, file, "--continue")
	b.run(2, "", "is a directory", "upload", id, t.TempDir())
	b.run(0, fmt.Sprintf("%d valid, 1 invalid", devices+1), "line 2: InvalidTarget: ", "validate", id)
	b.run(1, "", "not-possible: pause is not possible while the broadcast is ready", "pause", id)
	b.run(0, "running", "", "start", id)
	shown := b.run(0, "100 % of 201 ended", "", "show", id, "--watch", "--interval", "100ms")
	if !strings.Contains(shown, "unregistered") || !strings.Contains(shown, "UNREGISTERED") {
		t.Error(shown)
	}
	b.run(0, id+"  completed  ", "", "list")
	if results := b.run(0, "user-0", "", "results", id, "--format", "csv"); strings.Count(results, ",accepted,") != devices {
		t.Error(results)
	}
	var one struct{ State, Name string }
	if err := json.Unmarshal([]byte(b.run(0, "", "", "show", id, "--json")), &one); err != nil || one.State != "completed" || one.Name != "Spring sale" {
		t.Errorf("%+v %v", one, err)
	}
	b.run(0, "all together                          201      estimated, standard error 0.8 %\n", "", "devices", id, id)
	b.run(0, `"unique_devices": 201`, "", "devices", id, "--json")
	b.run(1, "", "not-found: id: value 2: this app has no broadcast with this id", "devices", id, "01a22d66-c53c-8acb-97c2-7d90ad8c5c00")
	b.run(2, "", "without a terminal, pass --yes", "recall", id)
	b.run(0, "recalling", "", "recall", id, "--yes", "--message", writeTemp(t, "sorry.json", `{"message":{"title":"We are sorry"}}`))
	b.run(0, "100 % of 200 ended", "", "show", id, "--watch", "--interval", "100ms")
	configs, err := filepath.Glob(filepath.Join(dir, "sluice-dev-*", "*.yaml"))
	if err != nil || len(configs) != 1 {
		t.Fatal(configs, err)
	}
	config, err := os.ReadFile(configs[0])
	if err != nil {
		t.Fatal(err)
	}
	admin := strings.TrimPrefix(ready["admin_url"].(string), "http://")
	file = filepath.Join(filepath.Dir(configs[0]), "audit.yaml") // with the address in place of a free port
	if err := os.WriteFile(file, bytes.Replace(config, []byte(`admin: { listen: "127.0.0.1:0" }`), fmt.Appendf(nil, "admin: { listen: %q }", admin), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runGateway(t, nil, "audit", "-c", file, "--broadcast", id)
	if want := "202 lines: 201 valid, 1 invalid, 0 duplicates.\nMessage, from the history: 201 lines = 0 pending + 200 accepted + 1 unregistered.\nRecall, from the history: 200 lines = 0 pending + 200 accepted."; code != 0 || !strings.Contains(stdout, want) || !strings.Contains(stdout, "Equal for every line to the ") {
		t.Errorf("exit code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
	for _, command := range []string{"start", "resume", "cancel"} {
		b.run(1, "", "not-possible: "+command+" is not possible", command, id)
	}
	b.run(1, "", "not-possible: the definition can be replaced only before the broadcast starts", "update", id, writeTemp(t, "sale.json", broadcastDefinition))
	b.run(0, "", "", "delete", id)
	b.run(1, "", "not-found", "delete", id)
	b.run(1, "", "missing-scope: this request needs a caller with the scope approve", "approve", id)
	b.run(1, "", "no response", "list", "--url", "http://127.0.0.1:1")
}

// testDefinition replaces the definition of a draft, prints what the providers get, and restores it.
func (b *broadcasts) testDefinition(id string) {
	original := b.run(0, `"Spring sale"`, "", "show", id, "--definition")
	if strings.Contains(original, "state") {
		b.Errorf("not only the definition: %s", original)
	}
	b.run(2, "", "message", "update", id, writeTemp(b.T, "bad.json", `{}`))
	b.run(0, "draft", "", "update", id, writeTemp(b.T, "variants.json", `{"language":"en","variants":[
		{"name":"short","weight":1,"message":{"title":"Sale","languages":{"de":{"title":"Rabatt, {{name}}"}}}},
		{"name":"long","weight":1,"message":{"title":"Sale","body":"<b>Now</b>","languages":{"de":{"body":"Jetzt"}}}}],"recall":{"message":{"title":"Sorry"}}}`))
	b.run(0, `"title": "Rabatt, name"`, "", "preview", id, "--platform", "fcm", "--variant", "short", "--language", "de")
	b.run(0, "variables without a default: name", "", "preview", id)
	b.run(0, `"body": "<b>Now</b>"`, "", "preview", id, "--platform", "apns", "--variant", "long", "--language", "en")
	b.run(0, `Sorry`, "", "preview", id, "--platform", "webpush", "--recall")
	b.run(2, "", "--variant must be one of those of the broadcast: long, short", "preview", id, "--variant", "tall")
	b.run(2, "", "--language must be one of those of the broadcast: it has none", "preview", id, "--recall", "--language", "de")
	var all []struct {
		Platform, Variant, Language string
		Request                     struct {
			URL     string
			Headers []struct{ Name, Value string }
			Payload string
		}
	}
	text := b.run(0, "", "", "preview", id, "--json")
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 3*2*2 {
		b.Fatalf("%v %s", err, text)
	}
	for _, preview := range all {
		if preview.Request.URL == "" || preview.Request.Payload == "" || len(preview.Request.Headers) == 0 {
			b.Errorf("%+v", preview)
		}
	}
	b.run(0, "draft", "", "update", id, writeTemp(b.T, "original.json", original))
	if got := b.run(0, "", "", "show", id, "--definition"); got != original {
		b.Errorf("%s, want %s", got, original)
	}
}

func TestRecallAsksInATerminal(t *testing.T) {
	_, ready := startDev(t)
	env := []string{"GATEWAY_URL=" + ready["url"].(string), "SLUICE_KEY=" + ready["key"].(string)}
	b := &broadcasts{t, env}
	id := strings.TrimSpace(b.run(0, "", "", "create", writeTemp(t, "sale.json", broadcastDefinition)))
	b.run(0, "", "", "upload", id, audienceFile(t, 10))
	b.run(0, "", "", "validate", id)
	b.run(0, "", "", "start", id)
	watch := startTerminal(t, env, "broadcast", "show", "--app", "demo", id, "--watch", "--interval", "100ms")
	watch.await(0, "100 % of 11 ended")
	if code := watch.wait(); code != 0 {
		t.Errorf("exit code %d\n%s", code, watch.output())
	}
	for _, answer := range []string{"\n", "\x03", "y\n"} {
		p := startTerminal(t, env, "broadcast", "recall", "--app", "demo", id)
		at := p.await(0, "send the recall message to 10 devices? [y/N]")
		p.write(answer)
		code := p.wait()
		if want := answer == "y\n"; want != (code == 0) || want != strings.Contains(p.output()[at:], "recalling") {
			t.Errorf("%q: exit code %d\n%s", answer, code, p.output())
		}
	}
	testwait.Until(t, func() bool {
		_, stdout, _ := runGateway(t, env, "broadcast", "--app", "demo", "list")
		return strings.Contains(stdout, "recalled")
	}, "the broadcast is recalled")
}
