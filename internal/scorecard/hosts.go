// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"syscall"
	"time"
)

// host is a machine of its own, or what comes nearest to one here: a network namespace behind a cable, or else only
// addresses of the loopback interface, where what is cut off is its processes, by SIGSTOP.
type host struct {
	scenario     *scenario
	addrs        []string     // that it listens on
	iface        string       // that leads to it; empty without namespaces
	link         *delayedLink // the same, where it is a long one
	enterCommand []string     // the command that runs another one there
	gateways     []*gateway
}

// The ways of a trunk: to the host, and from it.
const (
	toHost = iota
	fromHost
)

// hubAddr is the address, on the cables' other end, of what every host reaches.
const hubAddr = "10.77.0.254"

// startHosts makes so many, with so many addresses each, behind cables that take so long. Without a network of its own the row
// is played on loopback, where nothing takes long.
func (s *scenario) startHosts(n, addrs int, delay time.Duration) []*host {
	all := make([]*host, n)
	if s.inNamespace {
		s.noError(createBridge(s.ctx, hubAddr+"/16"))
	} else {
		s.note("played on loopback addresses, for this machine grants no network namespaces: processes are stopped instead of cut off")
	}
	for i := range all {
		h := &host{scenario: s}
		for k := range addrs {
			h.addrs = append(h.addrs, fmt.Sprintf("%s.%d.%d", map[bool]string{true: "10.77", false: "127.77"}[s.inNamespace], i+1, k+1))
		}
		if s.inNamespace {
			h.iface = fmt.Sprintf("cable%d", i)
			holder, err := createNamespace(s.ctx, h.iface, h.addrs, delay)
			s.noError(err)
			s.Cleanup(holder.close)
			h.enterCommand, h.link = holder.enterCommand, holder.link
		}
		all[i] = h
	}
	return all
}

// disconnect lets nothing pass to and from the host any more, not even a reset.
func (h *host) disconnect() time.Time { return h.setConnected(syscall.SIGSTOP, detach) }

// reconnect ends that.
func (h *host) reconnect() time.Time { return h.setConnected(syscall.SIGCONT, attach) }

func (h *host) setConnected(signal syscall.Signal, cable func(*scenario, string) error) time.Time {
	if h.iface != "" {
		h.scenario.noError(cable(h.scenario, h.iface))
	} else {
		for _, g := range h.gateways {
			h.scenario.noError(g.cmd.Process.Signal(signal))
		}
	}
	return time.Now()
}
