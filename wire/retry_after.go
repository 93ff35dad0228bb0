// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"net/http"
	"strconv"
	"time"
)

// maxRetryAfter bounds what a peer can ask for: beyond it lies a broken
// clock or an overflow, not a wish.
const maxRetryAfter = 24 * time.Hour

// RetryAfter returns how long the answer asks to be left alone: its
// Retry-After, in seconds or as a date (RFC 9110, section 10.2.3), at most a
// day. It is 0 when the header is absent, unreadable or in the past.
func (r *Response) RetryAfter() time.Duration {
	value := r.Get("retry-after")
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(r.date()), 0), maxRetryAfter)
}

// date returns when the peer answered, by its own clock where it tells: a date
// in its answer is meant against that one, not against ours.
func (r *Response) date() time.Time {
	if at, err := http.ParseTime(r.Get("date")); err == nil {
		return at
	}
	return time.Now()
}
