// SPDX-License-Identifier: Apache-2.0

// Package subprocess starts child processes, reads their logs and stops them. It knows the log line with
// which a gateway reports its addresses.
package subprocess

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Process is a child process.
type Process struct {
	cmd  *exec.Cmd
	log  io.Closer // nil if the process does not read the log
	done chan struct{}

	mu         sync.Mutex
	output     []byte // the end of the log
	url, admin string
}

// Start starts a command. If its Stderr is not set, Start reads the log from it, and calls line, which
// may be nil, with each line, without its end. line may block; so does the process then, once the pipe
// is full.
func Start(cmd *exec.Cmd, line func(text []byte)) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = childAttr()
	}
	var log io.ReadCloser
	if cmd.Stderr == nil {
		var err error
		if log, err = cmd.StderrPipe(); err != nil {
			return nil, err
		}
		p.log = log
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		if log != nil {
			p.readLog(log, line)
		}
		_ = cmd.Wait() // ProcessState says how it ended
	}()
	return p, nil
}

// readLog reads the log to its end. It keeps the last 4 KiB and the addresses of a gateway.
func (p *Process) readLog(log io.Reader, line func(text []byte)) {
	lines := bufio.NewScanner(log)
	for lines.Buffer(nil, 1<<20); lines.Scan(); {
		var entry struct{ Msg, Listen, Admin string }
		serving := bytes.Contains(lines.Bytes(), []byte(`"msg":"serving"`)) && json.Unmarshal(lines.Bytes(), &entry) == nil
		p.mu.Lock()
		if serving {
			p.url, p.admin = "http://"+entry.Listen, "http://"+entry.Admin
		}
		p.output = append(append(p.output, lines.Bytes()...), '\n')
		p.output = p.output[max(len(p.output)-4096, 0):]
		p.mu.Unlock()
		if line != nil {
			line(lines.Bytes())
		}
	}
	_, _ = io.Copy(io.Discard, log) // after a line of more than 1 MiB
}

// CloseLog closes the log, like a reader that ends. The process then cannot write to it.
func (p *Process) CloseLog() { _ = p.log.Close() }

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has exited and its log is read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited reports whether Done is closed.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// ExitCode returns the exit code, or -1 if the process has not exited or a signal ended it.
func (p *Process) ExitCode() int {
	if !p.Exited() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// CPUTime returns the CPU time that the process has used, zero until it has exited.
func (p *Process) CPUTime() time.Duration {
	if !p.Exited() {
		return 0
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// Addresses returns the base URLs of the API and of the admin listener of a gateway that serves. They
// are empty before.
func (p *Process) Addresses() (url, admin string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.url, p.admin
}

// Output returns the end of the log.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(bytes.TrimSpace(p.output))
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Kill kills the process and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // an error means that it has exited
	<-p.done
}

// Stop sends SIGTERM, and kills the process if it does not exit within grace. It waits for the end, and
// returns whether the exit code is 0.
func (p *Process) Stop(grace time.Duration) (clean bool) {
	_ = p.Signal(syscall.SIGTERM) // an error means that it has exited
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Kill()
	}
	return p.ExitCode() == 0
}
