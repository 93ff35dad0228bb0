// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime/debug"
)

// ballastSize is the size of the heap ballast. The ballast is never touched, so it uses address
// space but no memory.
const ballastSize = 64 << 20

// ballast makes the garbage collector run less often on a small heap. By default Go collects when
// the heap has doubled. A gateway has a few megabytes of live heap, so that happened after every
// thousand notifications and used a sixth of the CPU time. With the ballast and GOGC=50, Go
// collects when the garbage reaches half of the live heap plus ballast: at least 32 MiB, and less
// than by default if the live heap exceeds 64 MiB. The extra memory is used only while the heap is
// small. GOGC and GOMEMLIMIT in the environment take precedence. The ballast is effective until the
// caller drops it.
func ballast() []byte {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	debug.SetGCPercent(50)
	return make([]byte, ballastSize)
}
