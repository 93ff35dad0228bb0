// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"github.com/sluice-push/sluice/internal/subprocess"
)

// serverFileEnv makes a process of the test binary run the NATS server with this configuration
// file.
const serverFileEnv = "SLUICE_TEST_SERVER"

// server is one server process of a cluster.
type server struct {
	dir, name              string
	clients, route, health int

	process *subprocess.Process
	stdin   io.Closer // closed when this process ends, which stops the server
}

// writeConfig writes the server's configuration file, with sync on every write as in production.
func (s *server) writeConfig(routes []int) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	var to, users strings.Builder
	for _, port := range routes {
		fmt.Fprintf(&to, "\"nats://127.0.0.1:%d\",", port)
	}
	for n := range accountCount {
		fmt.Fprintf(&users, "  %[1]s: {jetstream: enabled, users: [{user: %[1]s, password: %[1]s}]}\n", accountName(n+1))
	}
	text := fmt.Sprintf(`server_name: %s
listen: "127.0.0.1:%d"
http: "127.0.0.1:%d"
log_file: %q
cluster: {name: test, listen: "127.0.0.1:%d", routes: [%s]}
jetstream: {store_dir: %q, sync_interval: always, max_mem: 1G, max_file: 1000T}
accounts: {
%s}
`, s.name, s.clients, s.health, s.logFile(), s.route, to.String(), filepath.Join(s.dir, "store"), users.String())
	return os.WriteFile(s.configFile(), []byte(text), 0o600)
}

func (s *server) configFile() string { return filepath.Join(s.dir, "server.conf") }
func (s *server) logFile() string    { return filepath.Join(s.dir, "log") }

// start starts the process.
func (s *server) start() (err error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverFileEnv+"="+s.configFile())
	cmd.Stderr = os.Stderr
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	s.process, err = subprocess.Start(cmd, nil)
	return err
}

// serve runs the server in its own process. A port that is already in use ends the process.
func serve(file string) error {
	o, err := nats.ProcessConfigFile(file)
	if err != nil {
		return err
	}
	o.NoSigs = true
	s, err := nats.NewServer(o)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func (s *server) kill() {
	if s.process == nil {
		return
	}
	s.process.Kill()
	_ = s.stdin.Close()
	s.process = nil
}

// waitHealthy waits until the server reports that it is up to date.
func (s *server) waitHealthy(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", s.health))
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.process.Done():
			return s.errorWithLog("exited unexpectedly")
		case <-ctx.Done():
			return s.errorWithLog("is not healthy")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// errorWithLog returns an error with the end of the server's log.
func (s *server) errorWithLog(what string) error {
	log, err := os.ReadFile(s.logFile())
	return errors.Join(fmt.Errorf("jetstreamtest: %s %s: …%s", s.name, what, log[max(0, len(log)-1000):]), err)
}
