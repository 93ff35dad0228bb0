// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"syscall"
	"time"
)

// host simulates a machine: a network namespace behind a virtual Ethernet link. Without namespaces
// it is a set of loopback addresses, and disconnecting it stops its processes with SIGSTOP.
type host struct {
	scenario     *scenario
	addrs        []string
	iface        string       // interface of its link on the bridge; empty without namespaces
	link         *delayedLink // nil if the link has no delay
	enterCommand []string     // command prefix that runs a command in the namespace
	gateways     []*gateway
}

// Directions of a link.
const (
	toHost = iota
	fromHost
)

// hubAddr is the address of the bridge, where the services and the callers are.
const hubAddr = "10.77.0.254"

// startHosts creates n hosts with the given number of addresses, behind links with the given delay.
// Without a network namespace the hosts use loopback addresses and the delay has no effect.
func (s *scenario) startHosts(n, addrs int, delay time.Duration) []*host {
	all := make([]*host, n)
	if s.inNamespace {
		s.noError(createBridge(s.ctx, hubAddr+"/16"))
	} else {
		s.note("ran on loopback addresses, without network namespaces: processes were stopped instead of disconnected")
	}
	for i := range all {
		h := &host{scenario: s}
		for k := range addrs {
			h.addrs = append(h.addrs, fmt.Sprintf("%s.%d.%d", map[bool]string{true: "10.77", false: "127.77"}[s.inNamespace], i+1, k+1))
		}
		if s.inNamespace {
			h.iface = fmt.Sprintf("link%d", i)
			ns, err := createNamespace(s.ctx, h.iface, h.addrs, delay)
			s.noError(err)
			s.Cleanup(ns.close)
			h.enterCommand, h.link = ns.enterCommand, ns.link
		}
		all[i] = h
	}
	return all
}

// disconnect drops all packets from and to the host.
func (h *host) disconnect() time.Time { return h.setConnected(syscall.SIGSTOP, detach) }

// reconnect ends the effect of disconnect.
func (h *host) reconnect() time.Time { return h.setConnected(syscall.SIGCONT, attach) }

func (h *host) setConnected(signal syscall.Signal, change func(*scenario, string) error) time.Time {
	if h.iface != "" {
		h.scenario.noError(change(h.scenario, h.iface))
	} else {
		for _, g := range h.gateways {
			h.scenario.noError(g.Signal(signal))
		}
	}
	return time.Now()
}
