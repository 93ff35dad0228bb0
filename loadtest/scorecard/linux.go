// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
)

// deafListener listens and never accepts, with the smallest backlog that there is. The function ends it.
func deafListener(addr netip.AddrPort) (end func(), err error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	end = func() { _ = syscall.Close(socket) }
	err = syscall.Bind(socket, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	if err == nil {
		err = syscall.Listen(socket, 0)
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("listening at %s: %w", addr, err)
	}
	return end, nil
}

// playApart runs the row in a process that has a network namespace to itself, where every address can be this machine's.
func (r row) playApart(h house) card {
	failed := func(format string, args ...any) card {
		return card{ID: r.id, Fault: r.fault, Result: short, Notes: []string{fmt.Sprintf(format, args...)}}
	}
	self, err := os.Executable()
	if err != nil {
		return failed("%v", err)
	}
	cmd := exec.CommandContext(h.ctx, self, "-alone", "-gateway", h.binary, "-logs", h.logs, r.id)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.Output()
	if err != nil {
		return failed("needs a network namespace of its own, which this machine does not grant: %v", err)
	}
	var c card
	if err := json.Unmarshal(out, &c); err != nil {
		return failed("%v", err)
	}
	return c
}

// own makes addresses this machine's, within the namespace.
func own(ctx context.Context, prefixes ...string) error {
	commands := [][]string{{"link", "set", "lo", "up"}}
	for _, prefix := range prefixes {
		commands = append(commands, []string{"route", "add", "local", prefix, "dev", "lo"})
	}
	for _, args := range commands {
		if text, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, text)
		}
	}
	return nil
}
