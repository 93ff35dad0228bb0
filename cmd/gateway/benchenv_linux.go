// SPDX-License-Identifier: Apache-2.0

package main

import "syscall"

// childAttr keeps a terminal's Ctrl-C from a child, for it is this process that ends them in order; and should this process
// die before it can, the child does too.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
