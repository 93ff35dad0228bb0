// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-push/sluice/internal/report"
)

// otherGateway is an environment that names a gateway other than the one under test.
var otherGateway = []string{"GATEWAY_URL=http://127.0.0.1:1", "SLUICE_KEY=slk_of_another_gateway"}

func TestBenchDev(t *testing.T) {
	dir := t.TempDir()
	data, page := filepath.Join(dir, "report.json"), filepath.Join(dir, "report.html")
	code, stdout, stderr := runGateway(t, otherGateway, "bench", "--dev", "--apps", "3", "--no-queue", "--rate", "100/s", "--duration", "1s", "--warm-up", "0s", "--json", data, "--html", page, "--profile", dir)
	if code != 0 || !strings.Contains(stdout, "equal to the mock's ledger (100 notifications)") {
		t.Fatalf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	r, err := report.Read(data)
	if err != nil {
		t.Fatal(err)
	}
	if r.Offered != 100 || r.Settings.Apps != 3 || r.Verdicts["accepted"] != 100 || r.Ledger == nil || !r.Ledger.Equal() {
		t.Errorf("%d offered, %v, %+v", r.Offered, r.Verdicts, r.Ledger)
	}
	for i, name := range []string{"bench", "mock", "gateway"} {
		if len(r.Processes) != 3 || r.Processes[i].Name != name {
			t.Errorf("processes %+v", r.Processes)
			break
		}
		if err := syscall.Kill(r.Processes[i].PID, 0); err == nil {
			t.Errorf("process %s is still running", name)
		}
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "The counts match") {
		t.Errorf("HTML report: %v\n%s", err, text)
	}

	for _, name := range []string{"cpu", "allocs", "mutex"} {
		if info, err := os.Stat(filepath.Join(dir, name+".pb.gz")); err != nil || info.Size() == 0 {
			t.Errorf("%s profile: %v", name, err)
		}
	}

	code, stdout, _ = runGateway(t, nil, "bench", "--compare", data, data)
	if code != 0 || !strings.Contains(stdout, "× 1.00") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}

func TestBenchTakesFlagsThenTheReadyFileThenTheEnvironment(t *testing.T) {
	p, ready := startDev(t)
	file := writeTemp(t, "ready.json", fmt.Sprintf(`{"url":%q,"key":%q,"app":%q,"ledger":%q}`, ready["url"], ready["key"], ready["app"], ready["ledger"]))
	mockOnly := writeTemp(t, "mock.json", fmt.Sprintf(`{"ledger":%q}`, ready["ledger"]))
	right := []string{"GATEWAY_URL=" + ready["url"].(string), "GATEWAY_KEY=" + ready["key"].(string)}
	for name, c := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"ready file":          {otherGateway, []string{"--ready-file", file}, "equal to the mock's ledger"},
		"environment":         {right, []string{"--app", "demo"}, "accepted"},
		"mock's ready file":   {right, []string{"--app", "demo", "--ready-file", mockOnly}, "equal to the mock's ledger"},
		"URL, key and ledger": {otherGateway, []string{"--app", "demo", "--ready-file", mockOnly, "--url", ready["url"].(string), "--key", ready["key"].(string)}, "equal to the mock's ledger"},
		"key and ready file":  {right, []string{"--ready-file", file, "--key", "slk_wrong"}, "HTTP 401"},
		"URL and ready file":  {right, []string{"--ready-file", file, "--url", "http://127.0.0.1:1"}, "lost: no connection"},
	} {
		args := append([]string{"bench", "--in-flight", "1", "--duration", "200ms", "--warm-up", "0s"}, c.args...)
		if _, stdout, stderr := runGateway(t, c.env, args...); !strings.Contains(stdout, c.want) {
			t.Errorf("%s: want %q in\n%s%s", name, c.want, stdout, stderr)
		}
	}
	p.terminate()
}

func TestInterruptedBenchReports(t *testing.T) {
	p := startGateway(t, nil, "bench", "--dev", "--no-queue", "--rate", "50/s", "--duration", "1h", "--warm-up", "0s")
	p.eventually("the first measurement", func() bool { return strings.Contains(p.stderr.String(), "accepted") })
	p.signal(syscall.SIGINT)
	if code := p.wait(); code != 0 || !strings.Contains(p.stdout.String(), "interrupted") || !strings.Contains(p.stdout.String(), "equal to the mock's ledger") {
		t.Errorf("exit code %d\n%s", code, p.stdout.String())
	}
}

func TestBenchRejectsInvalidFlags(t *testing.T) {
	for want, args := range map[string][]string{
		"set --dev, --ready-file or --url": {"bench"},
		"such as 5000/s":                   {"bench", "--dev", "--rate", "many"},
		"no such file":                     {"bench", "--dev", "--mix", "/nowhere.yaml"},
		"--compare takes two reports":      {"bench", "--compare", "one.json"},
		"can't be used together":           {"bench", "--rate", "5/s", "--in-flight", "3"},
		"--dev and --url can't":            {"bench", "--dev", "--url", "http://127.0.0.1:8080"},
		"--dev and --ready-file can't":     {"bench", "--dev", "--ready-file", "ready.json"},
	} {
		if code, _, stderr := runGateway(t, nil, args...); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit code %d, %q, want %q", args, code, stderr, want)
		}
	}
}
