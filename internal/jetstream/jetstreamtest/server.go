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
)

// serverFileEnv, in the environment of a process of a test's binary, makes it the server that the file describes.
const serverFileEnv = "SLUICE_TEST_SERVER"

// server is one of a cluster's, with its ports.
type server struct {
	dir, name              string
	clients, route, health int

	process *exec.Cmd
	stdin   io.Closer     // the process lives while this is open, and so not longer than we do
	exited  chan struct{} // closed when the process has ended
}

// writeConfig writes the server's configuration, as the manual asks for it where nothing may be lost.
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
	process := exec.Command(os.Args[0])
	process.Env = append(os.Environ(), serverFileEnv+"="+s.configFile())
	process.Stderr = os.Stderr
	life, err := process.StdinPipe()
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = process.Wait() // it is killed, in the end
		close(ended)
	}()
	s.process, s.stdin, s.exited = process, life, ended
	return nil
}

// serve is the main of the process. A port that is taken ends it, by the server's log.
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
	_ = s.process.Process.Kill()
	<-s.exited
	_ = s.stdin.Close()
	s.process = nil
}

// waitHealthy waits until the server says that it has caught up with the others.
func (s *server) waitHealthy(ctx context.Context) error {
	asker := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for {
		answer, err := asker.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", s.health))
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.exited:
			return s.errorWithLog("ended by itself")
		case <-ctx.Done():
			return s.errorWithLog("is not well")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// errorWithLog says what the server itself had to say last.
func (s *server) errorWithLog(what string) error {
	text, err := os.ReadFile(s.logFile())
	return errors.Join(fmt.Errorf("enginetest: %s %s: …%s", s.name, what, text[max(0, len(text)-1000):]), err)
}
