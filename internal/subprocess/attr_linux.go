// SPDX-License-Identifier: Apache-2.0

package subprocess

import "syscall"

// childAttr puts a child process into its own process group, so that Ctrl-C in a terminal does not
// reach it: this process stops its children in order. If this process dies, the kernel terminates
// the child.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
