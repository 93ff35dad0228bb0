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
		if r.orHere {
			return r.play(h)
		}
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
	return ip(ctx, nil, commands...)
}

// ip runs it for each of the commands, inside another namespace if that is not empty.
func ip(ctx context.Context, inside []string, commands ...[]string) error {
	for _, args := range commands {
		command := append(append(slices.Clone(inside), "ip"), args...)
		if text, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, text)
		}
	}
	return nil
}

// bridge makes the thing that all cables end in, with an address of ours.
func bridge(ctx context.Context, prefix string) error {
	return ip(ctx, nil, strings.Fields("link set lo up"), strings.Fields("link add hub type bridge"),
		[]string{"addr", "add", prefix, "dev", "hub"}, strings.Fields("link set hub up"))
}

// held is a namespace, which lasts as long as a process in it does.
type held struct {
	enter []string
	trunk *trunk // nil where the cable is the kernel's own
	end   func()
}

// namespace makes one with these addresses, at the end of a cable that takes so long. It ends with this one at the latest.
func namespace(ctx context.Context, cable string, addrs []string, delay time.Duration) (h held, err error) {
	holder := exec.CommandContext(ctx, "sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		return held{}, err
	}
	pid := fmt.Sprint(holder.Process.Pid)
	h.enter = []string{"nsenter", "--net=/proc/" + pid + "/ns/net"}
	h.end = func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
		h.trunk.takeUp()
	}
	far := "far" + cable
	if delay == 0 {
		err = ip(ctx, nil, []string{"link", "add", cable, "type", "veth", "peer", "name", far})
	} else {
		h.trunk, err = layTrunk(cable, far, delay)
	}
	if err == nil {
		err = ip(ctx, nil, []string{"link", "set", far, "netns", pid, "name", "eth0"}, []string{"link", "set", cable, "master", "hub", "up"})
	}
	for _, addr := range addrs {
		if err == nil {
			err = ip(ctx, h.enter, []string{"addr", "add", addr + "/16", "dev", "eth0"})
		}
	}
	if err == nil {
		err = ip(ctx, h.enter, strings.Fields("link set lo up"), strings.Fields("link set eth0 up"))
	}
	if err != nil {
		h.end()
	}
	return h, err
}

// unplug and plug take a cable out of the hub and put it back.
func unplug(s *stage, cable string) error {
	return ip(s.ctx, nil, []string{"link", "set", cable, "nomaster"})
}

func plug(s *stage, cable string) error {
	return ip(s.ctx, nil, []string{"link", "set", cable, "master", "hub"})
}
