// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package gateway

import "math"

// maxOpenFiles returns how many files the process may open. There is no limit on this system.
func maxOpenFiles() int { return math.MaxInt32 }
