// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"
	"errors"
	"net/netip"
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
	end   func()
}

func namespace(context.Context, string, []string) (held, error) { return held{}, errLinux }

func unplug(*stage, string) error { return errLinux }

func plug(*stage, string) error { return errLinux }
