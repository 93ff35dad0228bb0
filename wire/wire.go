// SPDX-License-Identifier: Apache-2.0

// Package wire carries one small request and its whole answer over an HTTP/2
// connection with many in flight, and tells the truth about each request that
// got no answer: never processed, or unknown. It knows no pool and no provider.
package wire

import (
	"context"
	"time"
)

// Request is small and whole: nothing is streamed. A Doer only reads it, so
// the same request may be sent again.
type Request struct {
	Method string
	Path   string // with its query, already escaped
	Header []Field
	Body   []byte
	// Timeout is how long the endpoint may take, counted from Do; zero means
	// the connection's own default. A context's end is the caller leaving; a
	// timeout's end is the endpoint's fault.
	Timeout time.Duration
}

// Field is one header field. Name is in lower case.
type Field struct {
	Name, Value string
	// Once marks a value that will not come again (an ID, a device's path) or
	// must not be kept (a token): it is never put into the compression table.
	NeverIndexed bool
}

// Response is a whole answer. It belongs to the caller.
type Response struct {
	Status int
	Header []Field
	Body   []byte
}

// Get returns the value of the first field with that name in lower case, or "".
func (r *Response) Get(name string) string {
	for i := range r.Header {
		if r.Header[i].Name == name {
			return r.Header[i].Value
		}
	}
	return ""
}

// Doer makes one attempt at one request: a Conn, a pool's Lease, a fake in a
// test. An answer of whatever status is no error; an error is an *Error.
type Doer interface {
	Do(ctx context.Context, r *Request) (*Response, error)
}
