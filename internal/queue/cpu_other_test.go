// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package queue_test

import "time"

// worked is not known here.
func worked() time.Duration { return 0 }
