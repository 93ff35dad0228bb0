// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"net/http"
	"strconv"
	"time"
)

// maxRetryAfter is the maximum that RetryAfter returns. A larger value is more likely a wrong clock
// or an overflow than intended.
const maxRetryAfter = 24 * time.Hour

// RetryAfter returns the wait that the Retry-After header requests, in seconds or as a date (RFC
// 9110 §10.2.3), but at most 24 hours. It returns 0 if the header is missing, malformed or in the
// past.
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

// date returns the time of the response. It prefers the Date header, because the peer computes a
// Retry-After date with its own clock.
func (r *Response) date() time.Time {
	if at, err := http.ParseTime(r.Get("date")); err == nil {
		return at
	}
	return time.Now()
}
