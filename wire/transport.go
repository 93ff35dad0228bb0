// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/http2"
)

// FromTransport is a Doer on net/http, for services whose addresses are anyone's. The
// request's path is put on base's scheme and host. It caps the answer and
// minds r.Timeout as a Conn does, but it cannot know as much: only what failed
// before there was a connection, or was refused on the only one, is Never.
func FromTransport(rt http.RoundTripper, base *url.URL) Doer {
	return &transportDoer{rt: rt, base: *base}
}

type transportDoer struct {
	rt   http.RoundTripper
	base url.URL
}

var _ Doer = (*transportDoer)(nil)

var transportDefaults = Config{}.withDefaults()

// Do sends r by the RoundTripper.
func (o *transportDoer) Do(ctx context.Context, r *Request) (*Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, &Error{Reason: Cancelled, Processed: Never, Err: err}
	}
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = transportDefaults.ResponseTimeout
	}
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var conns atomic.Int32
	within = httptrace.WithClientTrace(within, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { conns.Add(1) },
	})
	res, err := o.roundTrip(within, r)
	if err == nil {
		return res, nil
	}
	return nil, transportError(ctx, err, conns.Load())
}

func (o *transportDoer) roundTrip(ctx context.Context, r *Request) (*Response, error) {
	req, err := o.newRequest(ctx, r)
	if err != nil {
		return nil, &Error{Reason: Cancelled, Processed: Never, Err: err} // no such path: the caller's own doing
	}
	res, err := o.rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(transportDefaults.MaxResponseBytes)+1))
	if err != nil {
		return nil, err
	}
	if len(body) > transportDefaults.MaxResponseBytes {
		return nil, &Error{Reason: ResponseTooLarge, EndpointAtFault: true}
	}
	return &Response{Status: res.StatusCode, Header: flatten(res.Header), Body: body}, nil
}

func (o *transportDoer) newRequest(ctx context.Context, r *Request) (*http.Request, error) {
	path, err := url.ParseRequestURI(r.Path)
	if err != nil {
		return nil, err
	}
	path.Scheme, path.Host = o.base.Scheme, o.base.Host
	req, err := http.NewRequestWithContext(ctx, r.Method, path.String(), bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	for _, f := range r.Header {
		req.Header.Add(f.Name, f.Value)
	}
	return req, nil
}

func flatten(h http.Header) []Field {
	fields := make([]Field, 0, len(h))
	for name, values := range h {
		for _, v := range values {
			fields = append(fields, Field{Name: strings.ToLower(name), Value: v})
		}
	}
	return fields
}

// transportError says what a RoundTripper's error means. One that got a
// connection may have written to it.
func transportError(ctx context.Context, err error, conns int32) error {
	var ours *Error
	if errors.As(err, &ours) {
		return ours
	}
	e := &Error{Reason: LostAfterWrite, EndpointAtFault: true, Err: err}
	if ctx.Err() != nil {
		e.Reason, e.EndpointAtFault, e.Err = Cancelled, false, ctx.Err()
		return e
	}
	var reset http2.StreamError
	switch {
	case conns == 0 && setDialReason(err, e):
		e.Processed = Never
	case isTimeout(err):
		e.Reason = ResponseTimeout
	case errors.As(err, &reset):
		return resetError(&stream{id: reset.StreamID, responded: conns != 1}, reset.Code)
	}
	return e
}

// setDialReason names the reason if err shows that there was no connection at all.
func setDialReason(err error, e *Error) bool {
	var dns *net.DNSError
	var op *net.OpError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns):
		e.Reason, e.EndpointAtFault = DNSFailure, false
	case errors.As(err, &untrusted):
		e.Reason, e.EndpointAtFault = TLSServerUntrusted, false
	case errors.As(err, &op) && op.Op == "dial" && isTimeout(err):
		e.Reason = ConnectTimeout
	case errors.As(err, &op) && op.Op == "dial", errors.Is(err, syscall.ECONNREFUSED):
		e.Reason = ConnectRefused
	default:
		return false
	}
	return true
}
