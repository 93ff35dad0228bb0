// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"time"
)

// http2Caller makes calls over the HTTP/2 connections of a transport.
type http2Caller struct {
	address   string
	timeout   time.Duration
	transport *http.Transport

	ctx  context.Context
	body body
}

// newHTTP2Transport returns a transport that opens another connection when one has no free stream.
func newHTTP2Transport(secure *tls.Config) *http.Transport {
	t := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: secure.Clone()}
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

func (c *http2Caller) ensureOpen(ctx context.Context) error {
	c.ctx = ctx
	return nil
}

func (c *http2Caller) close() {}

// do sends a request in the format of HTTP/1.1. The transport always writes and reads concurrently.
func (c *http2Caller) do(request []byte, _ bool, handle func(status int, body *body) error) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	timer := time.AfterFunc(c.timeout, cancel)
	defer timer.Stop()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
	if err != nil {
		return err
	}
	base, err := url.Parse(c.address)
	if err != nil {
		return err
	}
	r.RequestURI, r.URL.Scheme, r.URL.Host = "", base.Scheme, base.Host
	response, err := c.transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return err
	}
	return c.body.handle(response, func() error {
		timer.Reset(c.timeout)
		return nil
	}, handle)
}
