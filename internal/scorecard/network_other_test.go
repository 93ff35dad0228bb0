// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package scorecard

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

var errLinux = errors.New("needs Linux")

func unresponsiveListener(netip.AddrPort) (closeListener func(), err error) { return nil, errLinux }

func (r row) runIsolated(opts options) rowResult {
	if r.isolationOptional {
		return r.runLocal(opts)
	}
	return rowResult{ID: r.id, Fault: r.fault, Result: outcomeFailed, Notes: []string{errLinux.Error()}}
}

func routeLocally(context.Context, ...string) error { return errLinux }

func createBridge(context.Context, string) error { return errLinux }

// netNamespace is a network namespace.
type netNamespace struct {
	enterCommand []string
	link         *delayedLink
	close        func()
}

func createNamespace(context.Context, string, []string, time.Duration) (netNamespace, error) {
	return netNamespace{}, errLinux
}

// delayedLink is a link with delay and loss.
type delayedLink struct{}

func (*delayedLink) setLoss(int, float64) {}

func (*delayedLink) lostFrames() int { return 0 }

func detach(*scenario, string) error { return errLinux }

func attach(*scenario, string) error { return errLinux }
