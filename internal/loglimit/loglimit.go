// SPDX-License-Identifier: Apache-2.0

// Package loglimit keeps a problem that concerns every notification from filling the log.
package loglimit

import (
	"sync/atomic"
	"time"
)

// interval is the minimum time between two records.
const interval = time.Minute

// Limit allows one record a minute. The zero value allows the next one.
type Limit struct {
	next    atomic.Int64 // earliest time of the next record in Unix nanoseconds
	skipped atomic.Int64 // since the last one
}

// Allow reports whether a record may be logged now, and how many were not since the last one.
func (l *Limit) Allow() (skipped int64, ok bool) {
	now, next := time.Now().UnixNano(), l.next.Load()
	if now < next || !l.next.CompareAndSwap(next, now+int64(interval)) {
		l.skipped.Add(1)
		return 0, false
	}
	return l.skipped.Swap(0), true
}
