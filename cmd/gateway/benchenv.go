// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	loadbench "github.com/sluice-push/sluice/internal/bench"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/subprocess"
)

// benchEnv is the environment of a test: empty, the content of a ready file, or two processes
// started for the test.
type benchEnv struct {
	readyInfo
	apps     []string // of the gateway
	dir      string
	children []childProcess
}

// newEnv returns the environment. A gateway that it starts is ready for calls.
func (b benchCmd) newEnv(p process) (*benchEnv, error) {
	switch {
	case b.ReadyFile != "":
		info, err := readReadyFile(b.ReadyFile)
		return &benchEnv{readyInfo: info, apps: []string{info.App}}, err
	case b.Dev:
		e := &benchEnv{}
		if err := e.start(p, b.Mock, b.Apps, b.Queue); err != nil {
			e.stop()
			return nil, errors.Join(err, e.exitedOutput())
		}
		return e, nil
	default:
		return &benchEnv{}, nil
	}
}

// applyTo sets the values of cfg that the environment provides and the flags do not.
func (e *benchEnv) applyTo(cfg *loadbench.Config) {
	if cfg.API == "sluice" { // another product in front of the same mock has its own address
		cfg.URL, cfg.Key = cmp.Or(cfg.URL, e.URL), cmp.Or(cfg.Key, e.Key)
		if len(cfg.Apps) == 0 {
			cfg.Apps = e.apps
		}
	}
	cfg.Ledger, cfg.Script, cfg.Topic = e.Ledger, e.Script, e.APNsTopic
	for _, c := range e.children {
		cfg.Processes = append(cfg.Processes, loadbench.Process{Name: c.name, PID: c.PID()})
	}
}

// start starts the mock providers and a gateway.
func (e *benchEnv) start(p process, mockFile string, apps int, queue bool) error {
	dir, err := newTempDir("sluice-bench-")
	if err != nil {
		return err
	}
	e.dir = dir
	if mockFile == "" {
		mockFile = filepath.Join(dir, "mock.yaml")
		if err := os.WriteFile(mockFile, []byte("endpoints: 8\n"), 0o600); err != nil {
			return err
		}
	}
	readyFile := filepath.Join(dir, "ready.json")
	if err := e.startChild("mock", "mock", "-c", mockFile, "--keys", dir, "--ready-file", readyFile); err != nil {
		return err
	}
	if err := e.waitUntil(p, "the mock providers listen", func() bool { _, err := os.Stat(readyFile); return err == nil }); err != nil {
		return err
	}
	if e.readyInfo, err = readReadyFile(readyFile); err != nil {
		return err
	}
	return e.startGateway(p, apps, queue)
}

// startGateway starts the gateway and waits until it is ready.
func (e *benchEnv) startGateway(p process, apps int, queue bool) error {
	key, hash := identity.NewKey()
	vapid, err := writeVAPID(e.dir)
	if err != nil {
		return err
	}
	file := filepath.Join(e.dir, "gateway.yaml")
	extra := "log: { level: info, format: json }\n"
	if queue {
		extra += localQueueConfig
	}
	text := demoConfig("127.0.0.1:0", "127.0.0.1:0", hash, vapid, e.readyInfo.Ready, extra)
	if err := os.WriteFile(file, []byte(e.addApps(text, apps)), 0o600); err != nil {
		return err
	}
	if err := e.startChild("gateway", "serve", "-c", file); err != nil {
		return err
	}
	c := e.children[len(e.children)-1]
	e.Key = key
	return e.waitUntil(p, "the gateway is ready", func() bool {
		e.URL, e.AdminURL = c.Addresses()
		return e.URL != "" && respondsOK(p, e.URL+"/readyz")
	})
}

// addApps sets e.apps to the names of n apps, and returns a configuration that has them. The others
// are aliases of demoApp.
func (e *benchEnv) addApps(config string, n int) string {
	e.apps = []string{demoApp}
	var aliases strings.Builder
	for i := 2; i <= n; i++ {
		app := fmt.Sprintf("%s-%d", demoApp, i)
		e.apps = append(e.apps, app)
		fmt.Fprintf(&aliases, "  %s: *app\n", app)
	}
	return strings.NewReplacer("\n  "+demoApp+":\n", "\n  "+demoApp+": &app\n", "\npool:", "\n"+aliases.String()+"pool:").Replace(config)
}

func respondsOK(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// waitUntil waits until condition returns true. It fails if a child process exits, or after 30
// seconds.
func (e *benchEnv) waitUntil(ctx context.Context, what string, condition func() bool) error {
	for start := time.Now(); !condition(); {
		for _, c := range e.children {
			if c.Exited() {
				return fmt.Errorf("bench: process %s exited", c.name)
			}
		}
		if time.Since(start) > 30*time.Second || ctx.Err() != nil {
			return fmt.Errorf("bench: timed out before %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// stop stops the processes, the gateway first, and removes their files.
func (e *benchEnv) stop() {
	for i := len(e.children) - 1; i >= 0; i-- {
		e.children[i].Stop(10 * time.Second)
	}
	if e.dir != "" {
		_ = os.RemoveAll(e.dir)
	}
}

// exitedOutput returns an error with the last output of a child process that has exited
// unexpectedly.
func (e *benchEnv) exitedOutput() error {
	for _, c := range e.children {
		if output := c.Output(); c.Exited() && output != "" {
			return fmt.Errorf("last output of process %s:\n%s", c.name, output)
		}
	}
	return nil
}

// childProcess is a child process that runs this binary.
type childProcess struct {
	*subprocess.Process
	name string
}

func (e *benchEnv) startChild(name string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child, err := subprocess.Start(exec.Command(self, args...), nil)
	if err == nil {
		e.children = append(e.children, childProcess{child, name})
	}
	return err
}
