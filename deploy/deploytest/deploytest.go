// SPDX-License-Identifier: Apache-2.0

// Package deploytest runs programs for the tests of this module. The tests use the gateway as a program
// only: so the module does not depend on that of the gateway, and no upgrade there changes this one.
package deploytest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Require ends the test unless the program is in the path.
func Require(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Missing(t, program+" is missing")
	}
}

// Missing ends the test because of what is missing: it fails with CI set in the environment, and is
// skipped otherwise.
func Missing(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// Until calls condition until it is true. If it stays false for two minutes, Until fails the test.
func Until(t *testing.T, condition func() bool, what string) {
	t.Helper()
	const bound = 2 * time.Minute
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for start := time.Now(); !condition(); <-ticker.C {
		if time.Since(start) > bound {
			t.Fatalf("waited %v until %s", bound, what)
		}
	}
}

// Output runs a program, which must succeed, and returns what it prints.
func Output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Process is a running program.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	mu     sync.Mutex
	output bytes.Buffer
}

// Start starts a program. At the end of the test it gets SIGTERM, and after a minute SIGKILL.
func Start(t *testing.T, name string, args ...string) *Process {
	t.Helper()
	p := &Process{cmd: exec.Command(name, args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // ExitCode says how it ended
	}()
	t.Cleanup(func() { p.Stop() })
	return p
}

// Write adds to Output. The process calls it.
func (p *Process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(text)
}

// Output returns what the process has printed.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited reports whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Stop ends the process and returns its exit code, or -1 if a signal ended it.
func (p *Process) Stop() int {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	<-p.exited
	return p.cmd.ProcessState.ExitCode()
}

var serving = regexp.MustCompile(`"msg":"serving","listen":"([^"]+)"`)

// GatewayURL returns the address of the API in the last start that a log has, or nothing.
func GatewayURL(log string) string {
	starts := serving.FindAllStringSubmatch(log, -1)
	if starts == nil {
		return ""
	}
	return "http://" + starts[len(starts)-1][1]
}

// Mock describes running mock providers: gateway mock --help.
type Mock struct {
	APNsEndpoints      []string `json:"apns_endpoints"`
	APNsManage         string   `json:"apns_manage"`
	APNsKeyFile        string   `json:"apns_key_file"`
	APNsKeyID          string   `json:"apns_key_id"`
	APNsTeamID         string   `json:"apns_team_id"`
	APNsTopic          string   `json:"apns_topic"`
	FCM                string   `json:"fcm"`
	FCMEndpoints       []string `json:"fcm_endpoints"`
	TokenURL           string   `json:"token_url"`
	ServiceAccountFile string   `json:"service_account_file"`
	WebPush            string   `json:"webpush"`
	CAFile             string   `json:"ca_file"`
}

// StartMock starts mock providers, which write their keys to dir. args are further flags.
func StartMock(t *testing.T, gateway, dir string, args ...string) (mock Mock) {
	t.Helper()
	readyFile := filepath.Join(t.TempDir(), "ready.json")
	p := Start(t, gateway, append([]string{"mock", "--keys", dir, "--ready-file", readyFile}, args...)...)
	Until(t, func() bool {
		text, err := os.ReadFile(readyFile)
		return p.Exited() || err == nil && json.Unmarshal(text, &mock) == nil
	}, "the mock providers listen")
	if p.Exited() {
		t.Fatal(p.Output())
	}
	return mock
}

// BuildPrograms builds the gateway and, in the version that the gateway has embedded, the NATS server. It
// returns their folder.
func BuildPrograms(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, pkg := range map[string]string{"gateway": "./cmd/gateway", "nats-server": "github.com/nats-io/nats-server/v2"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return dir
}

// StartNATS starts a NATS server with JetStream and returns its URL.
func StartNATS(t *testing.T, program string) (url string) {
	t.Helper()
	dir := t.TempDir()
	p := Start(t, program, "--jetstream", "--store_dir", dir, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", dir)
	Until(t, func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*.ports")) // the pattern is valid
		for _, file := range files {
			text, err := os.ReadFile(file)
			var found struct{ NATS []string }
			if err == nil && json.Unmarshal(text, &found) == nil && len(found.NATS) > 0 {
				url = found.NATS[0]
			}
		}
		return url != "" || p.Exited()
	}, "the NATS server listens")
	if url == "" {
		t.Fatal(p.Output())
	}
	return url
}
