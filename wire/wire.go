// SPDX-License-Identifier: Apache-2.0

// Package wire sends many small requests over one HTTP/2 client connection. For each request that
// gets no response it reports whether the peer may have processed it. It does not pool connections
// and does not interpret responses.
package wire

import (
	"context"
	"time"
)

// Request is a complete request; bodies are not streamed. A Doer does not modify it, so it may be
// sent again.
type Request struct {
	Method string
	Path   string // path and query, already escaped
	Header []Field
	Body   []byte
	// Timeout limits the time from Do to the response; zero means the connection's default. When it
	// expires, the endpoint is at fault. Use a context to cancel a request for the caller's own
	// reasons.
	Timeout time.Duration
}

// Field is one header field. Name must be in lower case.
type Field struct {
	Name, Value string
	// NeverIndexed keeps the field out of the HPACK table. Set it for values that do not repeat (an
	// ID, a device path) and for secrets (a token).
	NeverIndexed bool
}

// Response is a complete response. The caller owns it.
type Response struct {
	Status int
	Header []Field
	Body   []byte
}

// Get returns the value of the first field with the given lower-case name, or "".
func (r *Response) Get(name string) string {
	for i := range r.Header {
		if r.Header[i].Name == name {
			return r.Header[i].Value
		}
	}
	return ""
}

// Doer sends one request once. Conn and the pool's Lease implement it. A response of any status is
// not an error. An error of Do is an *Error.
type Doer interface {
	Do(ctx context.Context, r *Request) (*Response, error)
}
