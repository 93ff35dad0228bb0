// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
)

// pipedGateway is a gateway at debug level whose log goes into a pipe. The test reads it only until
// the gateway serves.
type pipedGateway struct {
	*gatewayProcess
	log        *os.File // the end to read from
	config     string
	url, admin string
}

func startPipedGateway(t *testing.T, more string) pipedGateway {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path, "--keys", t.TempDir())
	g := pipedGateway{config: mockConfig(t, providers.readyFile(path))}
	g.replaceConfig(t, "apps:", "log: {level: debug}\n"+more+"apps:")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = read.Close() })
	g.log = read
	g.gatewayProcess = startCommand(t, func(cmd *exec.Cmd) { cmd.Stderr = write }, gatewayBinary, "serve", "-c", g.config)
	_ = write.Close() // the process has its own
	for lines := bufio.NewReader(read); g.url == ""; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the log ended before the gateway served: %v", err)
		}
		var record struct{ Msg, Listen, Admin string }
		if json.Unmarshal([]byte(line), &record) == nil && record.Msg == "serving" {
			g.url, g.admin = "http://"+record.Listen, "http://"+record.Admin
		}
	}
	return g
}

// replaceConfig replaces a part of the configuration file.
func (g pipedGateway) replaceConfig(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.config, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDevConfigurationStartsWithFewLogLines serves the configuration of dev at info level.
func TestDevConfigurationStartsWithFewLogLines(t *testing.T) {
	dev, _ := startDev(t)
	var path []string
	dev.eventually("the banner", func() bool {
		path = regexp.MustCompile(`(?m)^    config +(.*)$`).FindStringSubmatch(dev.stdout.String())
		return path != nil
	})
	text, err := os.ReadFile(path[1])
	if err != nil {
		t.Fatal(err)
	}
	quiet := regexp.MustCompile(`(?m)^log: .*level: warn.*$`)
	listen := regexp.MustCompile(`(?m)^(listen: |admin: \{ listen: )"[^"]*"`)
	if !quiet.Match(text) || len(listen.FindAll(text, -1)) != 2 {
		t.Fatalf("unexpected configuration:\n%s", text)
	}
	text = listen.ReplaceAll(quiet.ReplaceAll(text, nil), []byte(`${1}"127.0.0.1:0"`))
	p := startGateway(t, nil, "serve", "-c", writeTemp(t, "gateway.yaml", string(text)))
	p.waitForLog(`"serving"`)
	if lines := strings.Count(p.stderr.String(), "\n"); lines > 10 {
		t.Errorf("%d lines:\n%s", lines, p.stderr.String())
	}
	p.terminate()
	dev.terminate()
	if dev.stderr.String() != "" {
		t.Errorf("dev logs %s", dev.stderr.String())
	}
}

// get returns the body of a response, or an empty string if the request failed.
func get(url string) string {
	response, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

// metric returns the value of a metric without labels.
func (g pipedGateway) metric(name string) string {
	for line := range strings.Lines(get(g.admin + "/metrics")) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fillLog makes the gateway log until it drops records.
func (g pipedGateway) fillLog(t *testing.T) {
	t.Helper()
	testwait.Until(t, func() bool {
		for range 200 {
			if get(g.url+"/livez") == "" {
				t.Fatal("/livez does not respond")
			}
		}
		return g.metric("sluice_log_dropped_total") != "0"
	}, "log records are dropped")
}

// expectNormal sends notifications and reloads the configuration.
func (g pipedGateway) expectNormal(t *testing.T) {
	t.Helper()
	for i := range 50 {
		body := fmt.Sprintf(`{"platform":"apns","token":"%064x","title":"Hi"}`, i)
		request, err := http.NewRequest(http.MethodPost, g.url+"/v1/apps/demo/notifications", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if status, response, err := do(request, map[string]any{"key": "test"}); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, response, err)
		}
	}
	g.replaceConfig(t, "log:", "limits: {batch: 7}\nlog:")
	testwait.Until(t, func() bool {
		return strings.Contains(get(g.admin+"/metrics"), `sluice_config_reloads_total{result="ok"} 1`)
	}, "the gateway reloads")
}

func TestStalledLogReaderBlocksNothing(t *testing.T) {
	g := startPipedGateway(t, "")
	g.fillLog(t)
	g.expectNormal(t)
	g.signal(syscall.SIGTERM)
	if code := g.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestEndedLogReaderEndsNothing(t *testing.T) {
	g := startPipedGateway(t, "")
	if err := g.log.Close(); err != nil {
		t.Fatal(err)
	}
	g.expectNormal(t)
	if dropped := g.metric("sluice_log_dropped_total"); dropped == "0" || dropped == "" {
		t.Errorf("%q dropped records", dropped)
	}
	g.signal(syscall.SIGTERM)
	if code := g.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSecondSignalEndsTheProcessDespiteAStalledLogReader(t *testing.T) {
	g := startPipedGateway(t, "drain: {delay: 10m}\n")
	g.fillLog(t)
	g.signal(syscall.SIGTERM)
	testwait.Until(t, func() bool { return strings.Contains(get(g.url+"/readyz"), "draining") }, "the gateway drains")
	g.signal(syscall.SIGTERM)
	if code := g.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
}

func TestClosedOutputDoesNotEndACommand(t *testing.T) {
	for _, args := range [][]string{{"openapi"}, {"schema"}, {"key"}, {"--help"}, {"version"}} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := read.Close(); err != nil {
			t.Fatal(err)
		}
		p := startCommand(t, func(cmd *exec.Cmd) { cmd.Stdout = write }, gatewayBinary, args...)
		if code := p.wait(); code != 0 {
			t.Errorf("%v: exit code %d", args, code)
		}
		_ = write.Close()
	}
}
