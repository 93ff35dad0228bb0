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
	"slices"
	"strings"
	"syscall"
	"time"
)

// unresponsiveListener listens and never accepts, with the smallest backlog that there is. The function ends it.
func unresponsiveListener(addr netip.AddrPort) (end func(), err error) {
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

// runIsolated runs the row in a process that has a network namespace to itself, where every address can be this machine's.
func (r row) runIsolated(h options) rowResult {
	failed := func(format string, args ...any) rowResult {
		if r.isolationOptional {
			return r.runLocal(h)
		}
		return rowResult{ID: r.id, Fault: r.fault, Result: outcomeFailed, Notes: []string{fmt.Sprintf(format, args...)}}
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
	var c rowResult
	if err := json.Unmarshal(out, &c); err != nil {
		return failed("%v", err)
	}
	return c
}

// routeLocally makes addresses this machine's, within the namespace.
func routeLocally(ctx context.Context, prefixes ...string) error {
	commands := [][]string{{"link", "set", "lo", "up"}}
	for _, prefix := range prefixes {
		commands = append(commands, []string{"route", "add", "local", prefix, "dev", "lo"})
	}
	return runIP(ctx, nil, commands...)
}

// runIP runs it for each of the commands, inside another namespace if that is not empty.
func runIP(ctx context.Context, inside []string, commands ...[]string) error {
	for _, args := range commands {
		command := append(append(slices.Clone(inside), "ip"), args...)
		if text, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, text)
		}
	}
	return nil
}

// createBridge makes the thing that all cables end in, with an address of ours.
func createBridge(ctx context.Context, prefix string) error {
	return runIP(ctx, nil, strings.Fields("link set lo up"), strings.Fields("link add hub type bridge"),
		[]string{"addr", "add", prefix, "dev", "hub"}, strings.Fields("link set hub up"))
}

// netNamespace is a namespace, which lasts as long as a process in it does.
type netNamespace struct {
	enterCommand []string
	link         *delayedLink // nil where the cable is the kernel's own
	close        func()
}

// createNamespace makes one with these addresses, at the end of a cable that takes so long. It ends with this one at the latest.
func createNamespace(ctx context.Context, cable string, addrs []string, delay time.Duration) (h netNamespace, err error) {
	holder := exec.CommandContext(ctx, "sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		return netNamespace{}, err
	}
	pid := fmt.Sprint(holder.Process.Pid)
	h.enterCommand = []string{"nsenter", "--net=/proc/" + pid + "/ns/net"}
	h.close = func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
		h.link.close()
	}
	far := "far" + cable
	if delay == 0 {
		err = runIP(ctx, nil, []string{"link", "add", cable, "type", "veth", "peer", "name", far})
	} else {
		h.link, err = newDelayedLink(cable, far, delay)
	}
	if err == nil {
		err = runIP(ctx, nil, []string{"link", "set", far, "netns", pid, "name", "eth0"}, []string{"link", "set", cable, "master", "hub", "up"})
	}
	for _, addr := range addrs {
		if err == nil {
			err = runIP(ctx, h.enterCommand, []string{"addr", "add", addr + "/16", "dev", "eth0"})
		}
	}
	if err == nil {
		err = runIP(ctx, h.enterCommand, strings.Fields("link set lo up"), strings.Fields("link set eth0 up"))
	}
	if err != nil {
		h.close()
	}
	return h, err
}

// detach and plug take a cable out of the hub and put it back.
func detach(s *scenario, cable string) error {
	return runIP(s.ctx, nil, []string{"link", "set", cable, "nomaster"})
}

func attach(s *scenario, cable string) error {
	return runIP(s.ctx, nil, []string{"link", "set", cable, "master", "hub"})
}
