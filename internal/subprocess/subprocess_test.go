// SPDX-License-Identifier: Apache-2.0

package subprocess_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/subprocess"
	"github.com/sluice-push/sluice/internal/testwait"
)

// roleVar makes a process of the test binary a child with this role.
const roleVar = "SLUICE_SUBPROCESS_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "gateway":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, `{"msg":"serving","listen":"127.0.0.1:1","admin":"127.0.0.1:2"}`)
		<-signals // bounded by the test, which kills its children
		fmt.Fprintln(os.Stderr, "drained")
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "ready")
		time.Sleep(time.Hour)
	case "failing":
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 2<<20)+"\nlast words")
		os.Exit(3)
	case "talking":
		signal.Ignore(syscall.SIGPIPE)
		for {
			if _, err := fmt.Fprintln(os.Stderr, strings.Repeat("x", 1000)); err != nil {
				os.Exit(7)
			}
		}
	}
}

// start starts a child, which is killed at the end of the test.
func start(t *testing.T, role string, line func([]byte)) *subprocess.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	p, err := subprocess.Start(cmd, line)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestGatewayReportsItsAddressesAndStops(t *testing.T) {
	var lines atomic.Int32
	p := start(t, "gateway", func([]byte) { lines.Add(1) })
	testwait.Until(t, func() bool { url, _ := p.Addresses(); return url != "" }, "the addresses")
	if url, admin := p.Addresses(); url != "http://127.0.0.1:1" || admin != "http://127.0.0.1:2" || p.Exited() || p.ExitCode() != -1 {
		t.Errorf("%s, %s, exit code %d", url, admin, p.ExitCode())
	}
	if clean := p.Stop(time.Minute); !clean || !p.Exited() || !strings.HasSuffix(p.Output(), "drained") || lines.Load() != 2 {
		t.Errorf("clean %v, %d lines, output %q", clean, lines.Load(), p.Output())
	}
}

func TestStopKillsAfterGrace(t *testing.T) {
	p := start(t, "stubborn", nil)
	testwait.Until(t, func() bool { return p.Output() == "ready" }, "the output")
	if clean := p.Stop(10 * time.Millisecond); clean || p.ExitCode() != -1 {
		t.Errorf("clean %v, exit code %d", clean, p.ExitCode())
	}
}

func TestExitCodeAndOutputOfFailedProcess(t *testing.T) {
	p := start(t, "failing", nil)
	testwait.For(t, p.Done(), "the end")
	if p.ExitCode() != 3 {
		t.Errorf("exit code %d, output of %d bytes", p.ExitCode(), len(p.Output()))
	}
}

func TestClosedLogEndsAStall(t *testing.T) {
	closed := make(chan struct{})
	p := start(t, "talking", func([]byte) { <-closed })
	p.CloseLog()
	close(closed)
	testwait.For(t, p.Done(), "the end")
	if p.ExitCode() != 7 {
		t.Errorf("exit code %d", p.ExitCode())
	}
}

func TestMissingProgramIsAnError(t *testing.T) {
	if _, err := subprocess.Start(exec.Command("/nowhere/gateway"), nil); err == nil {
		t.Error("no error")
	}
}
