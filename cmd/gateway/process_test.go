// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"encoding/json"
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

	"github.com/sluice-push/sluice/internal/subprocess"
	"github.com/sluice-push/sluice/internal/testwait"
)

// gatewayBinary is the path of the compiled gateway.
var gatewayBinary string

func TestMain(m *testing.M) {
	if os.Getenv(isolatedEnv) != "" {
		os.Exit(runIsolated())
	}
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

// testTimeout limits every process and every wait.
const testTimeout = 3 * time.Minute

// gatewayProcess is a running process of the binary.
type gatewayProcess struct {
	*subprocess.Process
	t              *testing.T
	stdout, stderr output
}

// output collects the output of a process. It can be read while the process runs.
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

// startGateway starts the binary with env added to the environment. The process is killed at the
// end of the test.
func startGateway(t *testing.T, env []string, args ...string) *gatewayProcess {
	t.Helper()
	return startProcess(t, env, gatewayBinary, args...)
}

// startProcess starts a program that runs the binary.
func startProcess(t *testing.T, env []string, program string, args ...string) *gatewayProcess {
	t.Helper()
	return startCommand(t, func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), env...) }, program, args...)
}

// startCommand is startProcess with any change to the command, such as another standard error.
func startCommand(t *testing.T, change func(*exec.Cmd), program string, args ...string) *gatewayProcess {
	t.Helper()
	p, cmd := &gatewayProcess{t: t}, exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	change(cmd)
	var err error
	if p.Process, err = subprocess.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { testwait.Call(t, p.Kill, "the end") })
	return p
}

// wait waits for the process and returns its exit code, or -1 if a signal ended it.
func (p *gatewayProcess) wait() int {
	testwait.For(p.t, p.Done(), "the end")
	return p.ExitCode()
}

func (p *gatewayProcess) signal(s os.Signal) {
	p.t.Helper()
	if err := p.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// runGateway runs the binary until it exits.
func runGateway(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := startGateway(t, env, args...)
	code = p.wait()
	return code, p.stdout.String(), p.stderr.String()
}

// eventually waits until condition returns true.
func (p *gatewayProcess) eventually(what string, condition func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(testTimeout); !condition(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.Done():
			p.t.Fatalf("exited with %d before %s:\n%s%s", p.ExitCode(), what, p.stdout.String(), p.stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("timed out waiting for %s:\n%s%s", what, p.stdout.String(), p.stderr.String())
		}
	}
}

// servingAt waits until gateway serve serves and returns its address.
func (p *gatewayProcess) servingAt() (address string) {
	p.t.Helper()
	p.eventually("the log line of a serving gateway", func() bool {
		_, rest, found := strings.Cut(p.stderr.String(), `"msg":"serving","listen":"`)
		address, _, _ = strings.Cut(rest, `"`)
		return found && address != ""
	})
	return address
}

// readyFile waits for a ready file and returns its content.
func (p *gatewayProcess) readyFile(path string) map[string]any {
	p.t.Helper()
	var ready map[string]any
	p.eventually("ready file", func() bool {
		text, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		if err := json.Unmarshal(text, &ready); err != nil {
			p.t.Fatalf("partial ready file: %v: %s", err, text)
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

// writeTemp writes a file to a temporary directory and returns its path.
func writeTemp(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

// post sends one notification to the gateway of dev.
func post(ready map[string]any) (status int, response string, err error) {
	body := fmt.Sprintf(`{"platform":"apns","token":%q,"title":"Hi"}`, deviceToken)
	request, err := http.NewRequest(http.MethodPost, ready["url"].(string)+"/v1/apps/demo/notifications", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	return do(request, ready)
}

func getPath(ready map[string]any, path string) (status int, response string, err error) {
	request, err := http.NewRequest(http.MethodGet, ready["url"].(string)+path, nil)
	if err != nil {
		return 0, "", err
	}
	return do(request, ready)
}

func do(request *http.Request, ready map[string]any) (int, string, error) {
	request.Header.Set("Authorization", "Bearer "+ready["key"].(string))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// inFlight returns the number of attempts in flight at the providers.
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

// terminate sends SIGTERM and checks that the process exits with 0.
func (p *gatewayProcess) terminate() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		p.t.Errorf("exit code %d after SIGTERM:\n%s", code, p.stderr.String())
	}
}
