// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-push/sluice/internal/testwait"
)

// terminal is a process with a terminal of its own.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	before *unix.Termios

	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{}
}

// startTerminal runs the binary in a terminal of 80 columns and 24 rows.
func startTerminal(t *testing.T, env []string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slave.Close() }()
	p := &terminal{t: t, cmd: exec.Command(gatewayBinary, args...), master: master, done: make(chan struct{})}
	p.resize(24, 80)
	if p.before, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = slave, slave, slave, append(append(os.Environ(), "TERM=xterm", "NO_COLOR="), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		var buffer [4096]byte
		for {
			n, err := master.Read(buffer[:])
			p.mu.Lock()
			p.text.Write(buffer[:n])
			p.mu.Unlock()
			if err != nil {
				_ = p.cmd.Wait() // the process has closed its terminal; its exit code is in ProcessState
				return
			}
		}
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = master.Close() })
	return p
}

func (p *terminal) resize(rows, columns uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) write(text string) {
	p.t.Helper()
	if _, err := p.master.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// await waits until the output after a position contains text, and returns the position after it.
func (p *terminal) await(from int, text string) (after int) {
	p.t.Helper()
	testwait.Until(p.t, func() bool {
		i := strings.Index(p.output()[from:], text)
		after = from + i + len(text)
		return i >= 0
	}, "the terminal shows "+text)
	return after
}

// wait returns the exit code, after the settings of the terminal have been compared.
func (p *terminal) wait() int {
	p.t.Helper()
	testwait.For(p.t, p.done, "the end of the process")
	if now, err := unix.IoctlGetTermios(int(p.master.Fd()), unix.TCGETS); err == nil && now.Lflag != p.before.Lflag {
		p.t.Errorf("the settings of the terminal are not restored: %+v, before %+v", now, p.before)
	}
	return p.cmd.ProcessState.ExitCode()
}

func TestTopInATerminal(t *testing.T) {
	_, ready := startDev(t)
	env := []string{"GATEWAY_URL=" + ready["url"].(string), "SLUICE_KEY=" + ready["key"].(string)}
	for name, end := range map[string]func(p *terminal){
		"q": func(p *terminal) { p.write("q") }, "Ctrl-C": func(p *terminal) { p.write("\x03") },
		"SIGTERM": func(p *terminal) { _ = p.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			p := startTerminal(t, env, "top", "--interval", "100ms")
			at := p.await(0, "\x1b[?1049h")
			at = p.await(at, "pool     apns ")
			at = p.await(at, "q quits")
			p.resize(6, 40)
			at = p.await(at, "\x1b[6;1H")
			p.write("j")
			p.await(at, "load     in flight 0 of 10000")
			end(p)
			if code := p.wait(); code != 0 || !strings.HasSuffix(p.output(), "\x1b[?25h\x1b[?1049l") {
				t.Errorf("exit code %d, the output ends in %q", code, p.output()[max(0, len(p.output())-40):])
			}
		})
	}
}

func TestInitAsksInATerminal(t *testing.T) {
	dir := t.TempDir()
	p, at := startTerminal(t, nil, "init", "--dir", dir), 0
	for _, step := range [][2]string{
		{"Name of the app", "my app"}, {"an app's name must be", "shop"}, {"(APNs)?", "no"}, {"(FCM)?", "perhaps"}, {"must be yes or no", "n"},
		{"(Web Push)?", "yes"}, {"Contact", "me"}, {"must be a contact", "mailto:push@example.com"}, {"[embedded]", ""}, {"Encrypt what", "yes"}, {"TLS itself?", ""}, {"systemd?", ""}, {"Helm chart?", "y"},
	} {
		at = p.await(at, step[0])
		at = p.await(at, ": ")
		p.write(step[1] + "\n")
	}
	if code := p.wait(); code != 0 || !strings.Contains(p.output(), "API key  slk_") {
		t.Errorf("exit code %d\n%s", code, p.output())
	}
	for _, name := range []string{"sluice.key", "values.yaml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	interrupted := startTerminal(t, nil, "init", "--dir", dir+"/other")
	interrupted.await(0, "Name of the app")
	interrupted.write("\x03")
	if code := interrupted.wait(); code != 1 || !strings.Contains(interrupted.output(), "interrupted; nothing was written") {
		t.Errorf("exit code %d\n%s", code, interrupted.output())
	}
	if _, err := os.Stat(dir + "/other"); err == nil {
		t.Error("a folder was created")
	}
}
