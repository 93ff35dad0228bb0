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

func deafListener(netip.AddrPort) (end func(), err error) { return nil, errLinux }

func (r row) playApart(h house) card {
	if r.orHere {
		return r.play(h)
	}
	return card{ID: r.id, Fault: r.fault, Result: short, Notes: []string{errLinux.Error()}}
}

func own(context.Context, ...string) error { return errLinux }

func bridge(context.Context, string) error { return errLinux }

// held is a namespace.
type held struct {
	enter []string
	trunk *trunk
	end   func()
}

func namespace(context.Context, string, []string, time.Duration) (held, error) {
	return held{}, errLinux
}

// trunk is a long cable.
type trunk struct{}

func (*trunk) lose(int, float64) {}

func (*trunk) losses() int { return 0 }

func unplug(*stage, string) error { return errLinux }

func plug(*stage, string) error { return errLinux }
