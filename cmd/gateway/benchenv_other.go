// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "syscall"

// childAttr would keep a terminal's Ctrl-C from a child; here the children drain at the same time as this process.
func childAttr() *syscall.SysProcAttr { return nil }
