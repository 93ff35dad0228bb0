// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// gatewayBinary is the gateway as users have it.
var gatewayBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "gateway-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(folder) }()
		gatewayBinary = filepath.Join(folder, "gateway")
		if out, err := exec.Command("go", "build", "-o", gatewayBinary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// testTimeout bounds every process and every wait: whoever reaches it has failed.
const testTimeout = 3 * time.Minute

// gatewayProcess is a process of the binary.
type gatewayProcess struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr output
	done           chan struct{}
	code           int
}

// output collects what a process writes, for readers who do not wait for its end.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startGateway starts the binary. env is added to the environment. The process ends with the test at the latest.
func startGateway(t *testing.T, env []string, args ...string) *gatewayProcess {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	p := &gatewayProcess{t: t, cmd: exec.CommandContext(ctx, gatewayBinary, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		err := p.cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			p.code = exit.ExitCode()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-p.done
	})
	return p
}

// wait returns the exit code, -1 for a signal.
func (p *gatewayProcess) wait() int {
	<-p.done
	return p.code
}

func (p *gatewayProcess) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// runGateway runs the binary to its end.
func runGateway(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := startGateway(t, env, args...)
	code = p.wait()
	return code, p.stdout.String(), p.stderr.String()
}

// eventually returns once so is true.
func (p *gatewayProcess) eventually(what string, so func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(testTimeout); !so(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.done:
			p.t.Fatalf("ended with %d before %s:\n%s%s", p.code, what, p.stdout.String(), p.stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("no %s:\n%s%s", what, p.stdout.String(), p.stderr.String())
		}
	}
}

// readyFile waits for a ready file and returns what it holds.
func (p *gatewayProcess) readyFile(path string) map[string]any {
	p.t.Helper()
	var ready map[string]any
	p.eventually("ready file", func() bool {
		text, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		if err := json.Unmarshal(text, &ready); err != nil {
			p.t.Fatalf("a ready file in part: %v: %s", err, text)
		}
		return true
	})
	return ready
}

// startDev starts gateway dev on free ports.
func startDev(t *testing.T, args ...string) (*gatewayProcess, map[string]any) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ready.json")
	p := startGateway(t, nil, append([]string{"dev", "--listen", "127.0.0.1:0", "--ready-file", path}, args...)...)
	return p, p.readyFile(path)
}

// writeTemp writes a file for a process to read.
func writeTemp(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

// post sends one notification to a gateway of dev.
func post(ready map[string]any) (status int, answer string, err error) {
	body := fmt.Sprintf(`{"platform":"apns","token":%q,"title":"Hi"}`, deviceToken)
	request, err := http.NewRequest(http.MethodPost, ready["url"].(string)+"/v1/apps/demo/notifications", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	return do(request, ready)
}

func getPath(ready map[string]any, path string) (status int, answer string, err error) {
	request, err := http.NewRequest(http.MethodGet, ready["url"].(string)+path, nil)
	if err != nil {
		return 0, "", err
	}
	return do(request, ready)
}

func do(request *http.Request, ready map[string]any) (int, string, error) {
	request.Header.Set("Authorization", "Bearer "+ready["key"].(string))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// inFlight counts the attempts that wait for the provider.
func inFlight(ready map[string]any) int {
	_, text, err := getPath(ready, "/v1/status")
	if err != nil {
		return 0
	}
	var status struct {
		Services []struct {
			Pool struct {
				InFlight int `json:"in_flight"`
			} `json:"pool"`
		} `json:"services"`
	}
	if json.Unmarshal([]byte(text), &status) != nil {
		return 0
	}
	n := 0
	for _, s := range status.Services {
		n += s.Pool.InFlight
	}
	return n
}

// terminate ends a process politely and wants it to end well.
func (p *gatewayProcess) terminate() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		p.t.Errorf("exit code %d after SIGTERM:\n%s", code, p.stderr.String())
	}
}
