// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package subprocess

import "syscall"

// childAttr has no effect on this system: Ctrl-C in a terminal also reaches the child processes.
func childAttr() *syscall.SysProcAttr { return nil }
