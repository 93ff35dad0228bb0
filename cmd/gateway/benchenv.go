// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	loadbench "github.com/sluice-push/sluice/internal/bench"
)

// benchEnv is what a test is told of where it takes place: nothing, what a ready file says, or two processes that were
// started for it.
type benchEnv struct {
	readyInfo
	dir      string
	children []*childProcess
}

// newEnv returns it, ready to be called.
func (b benchCmd) newEnv(p process) (*benchEnv, error) {
	switch {
	case b.ReadyFile != "":
		at, err := readReadyFile(b.ReadyFile)
		return &benchEnv{readyInfo: at}, err
	case b.Dev:
		h := &benchEnv{}
		if err := h.start(p, b.Mock, b.Queue); err != nil {
			h.stop()
			return nil, errors.Join(err, h.exitedOutput())
		}
		return h, nil
	default:
		return &benchEnv{}, nil
	}
}

// applyTo completes cfg with what the house knows and the flags have not said.
func (h *benchEnv) applyTo(cfg *loadbench.Config) {
	if cfg.API == "sluice" { // a peer before the same mock has an address of its own
		cfg.URL, cfg.Key, cfg.App = cmp.Or(cfg.URL, h.URL), cmp.Or(cfg.Key, h.Key), cmp.Or(cfg.App, h.readyInfo.App)
	}
	cfg.Ledger, cfg.Script = h.Ledger, h.Script
	for _, c := range h.children {
		cfg.Processes = append(cfg.Processes, loadbench.Process{Name: c.name, PID: c.cmd.Process.Pid})
	}
}

// start starts the mock providers, and a gateway in front of them.
func (h *benchEnv) start(p process, mockFile string, queue bool) error {
	folder, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	h.dir = folder
	if mockFile == "" {
		mockFile = filepath.Join(folder, "mock.yaml")
		if err := os.WriteFile(mockFile, []byte("endpoints: 8\n"), 0o600); err != nil {
			return err
		}
	}
	told := filepath.Join(folder, "ready.json")
	if err := h.startChild("mock", "mock", "-c", mockFile, "--keys", folder, "--ready-file", told); err != nil {
		return err
	}
	if err := h.waitUntil(p, "the mock providers listen", func() bool { _, err := os.Stat(told); return err == nil }); err != nil {
		return err
	}
	if h.readyInfo, err = readReadyFile(told); err != nil {
		return err
	}
	return h.gateway(p, queue)
}

// gateway starts the gateway, and waits until its pools are full.
func (h *benchEnv) gateway(p process, queue bool) error {
	key, hash := api.NewKey()
	vapid, err := writeVAPID(h.dir)
	if err != nil {
		return err
	}
	file := filepath.Join(h.dir, "gateway.yaml")
	more := "log: { level: info, format: json }\n"
	if queue {
		more += localQueueConfig
	}
	text := demoConfig("127.0.0.1:0", "127.0.0.1:0", hash, vapid, h.readyInfo.Ready, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	if err := h.startChild("gateway", "serve", "-c", file); err != nil {
		return err
	}
	c := h.children[len(h.children)-1]
	h.Key, h.readyInfo.App = key, demoApp
	return h.waitUntil(p, "the gateway is ready", func() bool {
		h.URL, h.AdminURL = c.addresses()
		return h.URL != "" && respondsOK(p, h.URL+"/readyz")
	})
}

func respondsOK(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// waitUntil waits until so is true, or a child has ended.
func (h *benchEnv) waitUntil(ctx context.Context, what string, so func() bool) error {
	for began := time.Now(); !so(); {
		for _, c := range h.children {
			if c.exited() {
				return fmt.Errorf("bench: the process %s ended at once", c.name)
			}
		}
		if time.Since(began) > 30*time.Second || ctx.Err() != nil {
			return fmt.Errorf("bench: gave up before %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// stop ends the processes, the gateway first, and takes away their files.
func (h *benchEnv) stop() {
	for i := len(h.children) - 1; i >= 0; i-- {
		h.children[i].stop()
	}
	if h.dir != "" {
		_ = os.RemoveAll(h.dir)
	}
}

// exitedOutput is what children that have ended said last, for they should not have.
func (h *benchEnv) exitedOutput() error {
	for _, c := range h.children {
		if words := c.lastOutput(); c.exited() && words != "" {
			return fmt.Errorf("the last words of the process %s:\n%s", c.name, words)
		}
	}
	return nil
}

// childProcess is a process of this binary.
type childProcess struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}

	mu         sync.Mutex
	output     []byte
	url, admin string
}

func (h *benchEnv) startChild(name string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := &childProcess{name: name, cmd: exec.Command(self, args...), done: make(chan struct{})}
	c.cmd.SysProcAttr = childAttr()
	log, err := c.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	h.children = append(h.children, c)
	go func() {
		defer close(c.done)
		c.readLog(log)
		_ = c.cmd.Wait() // how it ended is in its last words
	}()
	return nil
}

// readLog reads its log to the end.
func (c *childProcess) readLog(log io.Reader) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var said struct{ Msg, Listen, Admin string }
		serving := bytes.Contains(lines.Bytes(), []byte("gateway: serving")) && json.Unmarshal(lines.Bytes(), &said) == nil
		c.mu.Lock()
		if serving {
			c.url, c.admin = "http://"+said.Listen, "http://"+said.Admin
		}
		c.output = append(append(c.output, lines.Bytes()...), '\n')
		c.output = c.output[max(len(c.output)-4096, 0):]
		c.mu.Unlock()
	}
}

func (c *childProcess) addresses() (url, admin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.url, c.admin
}

func (c *childProcess) lastOutput() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(bytes.TrimSpace(c.output))
}

func (c *childProcess) exited() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// stop drains the process, and kills it if that takes long.
func (c *childProcess) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}
