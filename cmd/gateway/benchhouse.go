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

	loadbench "github.com/sluice-push/sluice/loadtest/bench"
	"github.com/sluice-push/sluice/rest"
)

// benchHouse is what a test is told of where it takes place: nothing, what a ready file says, or two processes that were
// started for it.
type benchHouse struct {
	ready
	folder   string
	children []*child
}

// house returns it, ready to be called.
func (b bench) house(p process) (*benchHouse, error) {
	switch {
	case b.ReadyFile != "":
		at, err := known(b.ReadyFile)
		return &benchHouse{ready: at}, err
	case b.Dev:
		h := &benchHouse{}
		if err := h.start(p, b.Mock, b.Queue); err != nil {
			h.stop()
			return nil, errors.Join(err, h.lastWords())
		}
		return h, nil
	default:
		return &benchHouse{}, nil
	}
}

// fill completes cfg with what the house knows and the flags have not said.
func (h *benchHouse) fill(cfg *loadbench.Config) {
	if cfg.API == "sluice" { // a peer before the same mock has an address of its own
		cfg.URL, cfg.Key, cfg.App = cmp.Or(cfg.URL, h.URL), cmp.Or(cfg.Key, h.Key), cmp.Or(cfg.App, h.ready.App)
	}
	cfg.Ledger, cfg.Script = h.Ledger, h.Script
	for _, c := range h.children {
		cfg.Watch = append(cfg.Watch, loadbench.Process{Name: c.name, PID: c.cmd.Process.Pid})
	}
}

// start starts the mock providers, and a gateway in front of them.
func (h *benchHouse) start(p process, mockFile string, queue bool) error {
	folder, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	h.folder = folder
	if mockFile == "" {
		mockFile = filepath.Join(folder, "mock.yaml")
		if err := os.WriteFile(mockFile, []byte("endpoints: 8\n"), 0o600); err != nil {
			return err
		}
	}
	told := filepath.Join(folder, "ready.json")
	if err := h.child("mock", "mock", "-c", mockFile, "--keys", folder, "--ready-file", told); err != nil {
		return err
	}
	if err := h.until(p, "the mock providers listen", func() bool { _, err := os.Stat(told); return err == nil }); err != nil {
		return err
	}
	if h.ready, err = known(told); err != nil {
		return err
	}
	return h.gateway(p, queue)
}

// gateway starts the gateway, and waits until its pools are full.
func (h *benchHouse) gateway(p process, queue bool) error {
	key, hash := rest.NewKey()
	vapid, err := writeVAPID(h.folder)
	if err != nil {
		return err
	}
	file := filepath.Join(h.folder, "gateway.yaml")
	more := "log: { level: info, format: json }\n"
	if queue {
		more += queueHere
	}
	text := demoText("127.0.0.1:0", "127.0.0.1:0", hash, vapid, h.ready.Ready, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	if err := h.child("gateway", "serve", "-c", file); err != nil {
		return err
	}
	c := h.children[len(h.children)-1]
	h.Key, h.ready.App = key, demo
	return h.until(p, "the gateway is ready", func() bool {
		h.URL, h.AdminURL = c.serving()
		return h.URL != "" && answers(p, h.URL+"/readyz")
	})
}

func answers(ctx context.Context, url string) bool {
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

// until waits until so is true, or a child has ended.
func (h *benchHouse) until(ctx context.Context, what string, so func() bool) error {
	for began := time.Now(); !so(); {
		for _, c := range h.children {
			if c.over() {
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
func (h *benchHouse) stop() {
	for i := len(h.children) - 1; i >= 0; i-- {
		h.children[i].stop()
	}
	if h.folder != "" {
		_ = os.RemoveAll(h.folder)
	}
}

// lastWords is what children that have ended said last, for they should not have.
func (h *benchHouse) lastWords() error {
	for _, c := range h.children {
		if words := c.words(); c.over() && words != "" {
			return fmt.Errorf("the last words of the process %s:\n%s", c.name, words)
		}
	}
	return nil
}

// child is a process of this binary.
type child struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}

	mu         sync.Mutex
	last       []byte
	url, admin string
}

func (h *benchHouse) child(name string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := &child{name: name, cmd: exec.Command(self, args...), ended: make(chan struct{})}
	c.cmd.SysProcAttr = apart()
	log, err := c.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	h.children = append(h.children, c)
	go func() {
		defer close(c.ended)
		c.listen(log)
		_ = c.cmd.Wait() // how it ended is in its last words
	}()
	return nil
}

// listen reads its log to the end.
func (c *child) listen(log io.Reader) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var said struct{ Msg, Listen, Admin string }
		serving := bytes.Contains(lines.Bytes(), []byte("gateway: serving")) && json.Unmarshal(lines.Bytes(), &said) == nil
		c.mu.Lock()
		if serving {
			c.url, c.admin = "http://"+said.Listen, "http://"+said.Admin
		}
		c.last = append(append(c.last, lines.Bytes()...), '\n')
		c.last = c.last[max(len(c.last)-4096, 0):]
		c.mu.Unlock()
	}
}

func (c *child) serving() (url, admin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.url, c.admin
}

func (c *child) words() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(bytes.TrimSpace(c.last))
}

func (c *child) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// stop drains the process, and kills it if that takes long.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(10 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}
