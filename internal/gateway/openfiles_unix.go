// SPDX-License-Identifier: Apache-2.0

//go:build unix

package gateway

import (
	"math"
	"syscall"
)

// maxOpenFiles returns how many file descriptors the process may open. At its start, Go's runtime
// raises the soft limit to the hard limit.
func maxOpenFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // the usual default
	}
	return int(min(uint64(limit.Cur), math.MaxInt32))
}
