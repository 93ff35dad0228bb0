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
	stage  *stage
	addrs  []string // that it listens on
	cable  string   // that leads to it; empty without namespaces
	trunk  *trunk   // the same, where it is a long one
	inside []string // the command that runs another one there
	runs   []*gateway
}

// The ways of a trunk: to the host, and from it.
const (
	there = iota
	back
)

// hub is the address, on the cables' other end, of what every host reaches.
const hub = "10.77.0.254"

// hosts makes so many, with so many addresses each, behind cables that take so long. Without a network of its own the row
// is played on loopback, where nothing takes long.
func (s *stage) hosts(n, addrs int, delay time.Duration) []*host {
	all := make([]*host, n)
	if s.alone {
		s.need(bridge(s.ctx, hub+"/16"))
	} else {
		s.note("played on loopback addresses, for this machine grants no network namespaces: processes are stopped instead of cut off")
	}
	for i := range all {
		h := &host{stage: s}
		for k := range addrs {
			h.addrs = append(h.addrs, fmt.Sprintf("%s.%d.%d", map[bool]string{true: "10.77", false: "127.77"}[s.alone], i+1, k+1))
		}
		if s.alone {
			h.cable = fmt.Sprintf("cable%d", i)
			holder, err := namespace(s.ctx, h.cable, h.addrs, delay)
			s.need(err)
			s.Cleanup(holder.end)
			h.inside, h.trunk = holder.enter, holder.trunk
		}
		all[i] = h
	}
	return all
}

// cut lets nothing pass to and from the host any more, not even a reset.
func (h *host) cut() time.Time { return h.pass(syscall.SIGSTOP, unplug) }

// heal ends that.
func (h *host) heal() time.Time { return h.pass(syscall.SIGCONT, plug) }

func (h *host) pass(signal syscall.Signal, cable func(*stage, string) error) time.Time {
	if h.cable != "" {
		h.stage.need(cable(h.stage, h.cable))
	} else {
		for _, g := range h.runs {
			h.stage.need(g.cmd.Process.Signal(signal))
		}
	}
	return time.Now()
}
