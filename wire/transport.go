// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
)

// FromTransport returns a Doer that sends requests with rt, for services on arbitrary hosts. The
// scheme and host come from base, the path and query from the Request. Response size and timeout
// are limited as by a Conn with the default Config. Errors are less precise than those of a Conn: a
// request counts as unprocessed only if no connection was established, or if the peer refused its
// stream on the only connection.
func FromTransport(rt http.RoundTripper, base *url.URL) Doer {
	return &transportDoer{rt: rt, base: *base}
}

type transportDoer struct {
	rt   http.RoundTripper
	base url.URL
}

var _ Doer = (*transportDoer)(nil)

var transportDefaults = Config{}.withDefaults()

// Do sends r with the RoundTripper.
func (d *transportDoer) Do(ctx context.Context, r *Request) (*Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, &Error{Reason: Canceled, Processed: Never, Err: err}
	}
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = transportDefaults.ResponseTimeout
	}
	reqCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var conns atomic.Int32
	reqCtx = httptrace.WithClientTrace(reqCtx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { conns.Add(1) },
	})
	res, err := d.roundTrip(reqCtx, r)
	if err == nil {
		return res, nil
	}
	return nil, transportError(ctx, err, conns.Load())
}

func (d *transportDoer) roundTrip(ctx context.Context, r *Request) (*Response, error) {
	req, err := d.newRequest(ctx, r)
	if err != nil {
		return nil, &Error{Reason: InvalidRequest, Processed: Never, Err: err}
	}
	res, err := d.rt.RoundTrip(req)
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

// The texts of these errors do not repeat the request, because its path and header contain tokens.
var (
	errInvalidPath   = errors.New("invalid path")
	errInvalidHeader = errors.New("invalid header field")
)

// newRequest converts r. It checks what the RoundTripper would reject, because its error would not
// tell that nothing was sent.
func (d *transportDoer) newRequest(ctx context.Context, r *Request) (*http.Request, error) {
	u, err := url.ParseRequestURI(r.Path)
	if err != nil {
		return nil, errInvalidPath
	}
	u.Scheme, u.Host = d.base.Scheme, d.base.Host
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	for _, f := range r.Header {
		if !httpguts.ValidHeaderFieldName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value) {
			return nil, fmt.Errorf("%w %q", errInvalidHeader, f.Name)
		}
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

// transportError converts an error of a RoundTripper. Once the request had a connection, it may
// have been written.
func transportError(ctx context.Context, err error, conns int32) error {
	var wireErr *Error
	if errors.As(err, &wireErr) {
		return wireErr
	}
	e := &Error{Reason: LostAfterWrite, EndpointAtFault: true, Err: err}
	if ctx.Err() != nil {
		e.Reason, e.EndpointAtFault, e.Err = Canceled, false, ctx.Err()
		return e
	}
	var reset http2.StreamError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		e.Reason = ResponseTooLarge
	case conns == 0 && setDialReason(err, e):
		e.Processed = Never
	case isTimeout(err):
		e.Reason = ResponseTimeout
	case errors.As(err, &reset):
		return resetError(&stream{id: reset.StreamID, responded: conns != 1}, reset.Code)
	}
	return e
}

// setDialReason reports whether err shows that no connection was established, and sets the reason
// of e accordingly.
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
