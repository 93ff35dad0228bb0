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
	// Timeout limits the time from Do or Start to the response; zero means the connection's default. When it
	// expires, the endpoint is at fault. Use a context to cancel a request for the caller's own
	// reasons.
	Timeout time.Duration
}

// Field is one header field. Name must be in lower case.
type Field struct {
	Name, Value string
	// NeverIndexed keeps the field out of the HPACK table. Set it for values that do not repeat (an
	// ID, a device path) and for secrets (a token). A Conn sends such fields after all others.
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

// Starter sends many requests together and does not wait for their responses. Conn implements it;
// see there for the contract.
type Starter interface {
	Start(rs []*Request, h Handler)
	Cancel(h Handler)
}

// Handler receives the results of requests that were passed to Start. A Handler must be comparable;
// use a pointer.
type Handler interface {
	// Complete receives the results of requests that have ended, in the order in which they ended.
	// It must not block, because it is called by the goroutines that serve the connection, and by
	// Start and Cancel. It may call Start and Cancel. One connection does not call Complete
	// concurrently. Complete must not keep the slice. If it panics, the connection ends.
	Complete(results []Result)
}

// Result is the result of one request that was passed to Start.
type Result struct {
	Index    int       // of the request in the slice passed to Start
	Response *Response // nil if Err is set
	Err      error     // nil or an *Error
	Started  time.Time // when Start was called
	Ended    time.Time
}
