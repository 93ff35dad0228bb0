// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime/debug"
)

// ballastSize is what a gateway's heap has of ballast: address space that is never touched, and so takes no memory.
const ballastSize = 64 << 20

// ballast has the garbage of a small heap collected less often. By Go's own rule it would be once as much garbage as what
// is alive has piled up: with the few megabytes that are alive in a gateway, after every thousand notifications, and that
// cost a sixth of the processor time. Here it is half as much as what is alive and the ballast together: at least 32 MiB,
// and with more than 64 MiB alive less than by Go's rule. So it costs memory only where little is used. An operator who
// has set GOGC or GOMEMLIMIT gets what they have set. The ballast counts until it is let go.
func ballast() []byte {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	debug.SetGCPercent(50)
	return make([]byte, ballastSize)
}
