// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package queue_test

import "time"

// cpuTime is not implemented on this platform.
func cpuTime() time.Duration { return 0 }
