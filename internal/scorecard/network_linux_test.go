// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scorecard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// unresponsiveListener listens without accepting, with the smallest possible backlog. The returned
// function closes it.
func unresponsiveListener(addr netip.AddrPort) (closeSocket func(), err error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	closeSocket = func() { _ = syscall.Close(socket) }
	err = syscall.Bind(socket, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	if err == nil {
		err = syscall.Listen(socket, 0)
	}
	if err != nil {
		closeSocket()
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return closeSocket, nil
}

// runIsolated runs the row in a child process with its own network namespace, in which any address
// can be local.
func (r row) runIsolated(opts options) rowResult {
	failed := func(format string, args ...any) rowResult {
		if r.isolationOptional {
			return r.runLocal(opts)
		}
		return rowResult{ID: r.id, Fault: r.fault, Result: outcomeFailed, Notes: []string{fmt.Sprintf(format, args...)}}
	}
	file := filepath.Join(opts.tempDir, "result.json")
	output, runErr := runTest(opts.ctx, r.id, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
	}, "-isolated", "-gateway", opts.binary, "-logs", opts.logs, "-results", file)
	text, err := os.ReadFile(file) // it exists also if the row fails
	if err != nil {
		return failed("needs a network namespace, which this machine does not allow: %v: %s", runErr, output)
	}
	var result resultsFile
	if err := json.Unmarshal(text, &result); err != nil || len(result.Rows) != 1 {
		return failed("%v, %s", err, output)
	}
	return result.Rows[0]
}

// routeLocally makes addresses local within the namespace.
func routeLocally(ctx context.Context, prefixes ...string) error {
	commands := [][]string{{"link", "set", "lo", "up"}}
	for _, prefix := range prefixes {
		commands = append(commands, []string{"route", "add", "local", prefix, "dev", "lo"})
	}
	return runIP(ctx, nil, commands...)
}

// runIP runs ip(8) with each of the commands, prefixed with enter to run in another namespace.
func runIP(ctx context.Context, enter []string, commands ...[]string) error {
	for _, args := range commands {
		command := append(append(slices.Clone(enter), "ip"), args...)
		if text, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, text)
		}
	}
	return nil
}

// createBridge creates the bridge that connects all links, with an address of this process.
func createBridge(ctx context.Context, prefix string) error {
	return runIP(ctx, nil, strings.Fields("link set lo up"), strings.Fields("link add hub type bridge"),
		[]string{"addr", "add", prefix, "dev", "hub"}, strings.Fields("link set hub up"))
}

// netNamespace is a network namespace. It exists as long as a process in it.
type netNamespace struct {
	enterCommand []string
	link         *delayedLink // nil if the link has no delay
	close        func()
}

// createNamespace creates a namespace with these addresses behind a link with the given delay. It
// ends with this process at the latest.
func createNamespace(ctx context.Context, iface string, addrs []string, delay time.Duration) (ns netNamespace, err error) {
	holder := exec.CommandContext(ctx, "sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		return netNamespace{}, err
	}
	pid := fmt.Sprint(holder.Process.Pid)
	ns.enterCommand = []string{"nsenter", "--net=/proc/" + pid + "/ns/net"}
	ns.close = func() {
		_ = holder.Process.Kill()
		_ = holder.Wait() // bounded by the kill
		ns.link.close()
	}
	peer := "far" + iface
	if delay == 0 {
		err = runIP(ctx, nil, []string{"link", "add", iface, "type", "veth", "peer", "name", peer})
	} else {
		ns.link, err = newDelayedLink(iface, peer, delay)
	}
	if err == nil {
		err = runIP(ctx, nil, []string{"link", "set", peer, "netns", pid, "name", "eth0"}, []string{"link", "set", iface, "master", "hub", "up"})
	}
	for _, addr := range addrs {
		if err == nil {
			err = runIP(ctx, ns.enterCommand, []string{"addr", "add", addr + "/16", "dev", "eth0"})
		}
	}
	if err == nil {
		err = runIP(ctx, ns.enterCommand, strings.Fields("link set lo up"), strings.Fields("link set eth0 up"))
	}
	if err != nil {
		ns.close()
	}
	return ns, err
}

// detach disconnects an interface from the bridge.
func detach(s *scenario, iface string) error {
	return runIP(s.ctx, nil, []string{"link", "set", iface, "nomaster"})
}

// attach connects an interface to the bridge.
func attach(s *scenario, iface string) error {
	return runIP(s.ctx, nil, []string{"link", "set", iface, "master", "hub"})
}
