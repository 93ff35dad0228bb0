// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

var errLinux = errors.New("needs Linux")

func unresponsiveListener(netip.AddrPort) (end func(), err error) { return nil, errLinux }

func (r row) runIsolated(h options) rowResult {
	if r.isolationOptional {
		return r.runLocal(h)
	}
	return rowResult{ID: r.id, Fault: r.fault, Result: outcomeFailed, Notes: []string{errLinux.Error()}}
}

func routeLocally(context.Context, ...string) error { return errLinux }

func createBridge(context.Context, string) error { return errLinux }

// netNamespace is a namespace.
type netNamespace struct {
	enterCommand []string
	link         *delayedLink
	close        func()
}

func createNamespace(context.Context, string, []string, time.Duration) (netNamespace, error) {
	return netNamespace{}, errLinux
}

// delayedLink is a long cable.
type delayedLink struct{}

func (*delayedLink) setLoss(int, float64) {}

func (*delayedLink) lostFrames() int { return 0 }

func detach(*scenario, string) error { return errLinux }

func attach(*scenario, string) error { return errLinux }
