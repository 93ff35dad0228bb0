// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// http1Listener is a net.Listener from which net/http accepts the connections that have negotiated
// HTTP/1.1.
type http1Listener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHTTP1Listener(addr netip.AddrPort) *http1Listener {
	return &http1Listener{addr: net.TCPAddrFromAddrPort(addr), conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *http1Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *http1Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *http1Listener) Addr() net.Addr { return l.addr }

// serve passes a connection to net/http and returns when net/http has closed it.
func (l *http1Listener) serve(c *conn, nc *tls.Conn) {
	h := &http1Conn{Conn: nc, conn: c, closed: make(chan struct{})}
	select {
	case l.conns <- h:
		<-h.closed
	case <-l.done:
		_ = h.Close()
	}
}

// http1Conn is a connection that net/http serves.
type http1Conn struct {
	net.Conn
	conn   *conn
	once   sync.Once
	closed chan struct{} // closed by Close
}

func (h *http1Conn) Close() error {
	h.once.Do(func() { close(h.closed) })
	return h.Conn.Close()
}

// connKey is the context key for the conn of a request.
type connKey struct{}

func connContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc.(*http1Conn).conn)
}

// serveHTTP1 serves one HTTP/1.1 request with the same services and script as HTTP/2.
func serveHTTP1(w http.ResponseWriter, hr *http.Request) {
	c := hr.Context().Value(connKey{}).(*conn)
	r := &h2.Request{Method: hr.Method, Path: hr.URL.RequestURI(), Authority: hr.Host}
	for name, values := range hr.Header {
		for _, value := range values {
			r.Header = append(r.Header, h2.Field(strings.ToLower(name), value))
		}
	}
	body, err := io.ReadAll(io.LimitReader(hr.Body, h2.MaxBody+1))
	if err != nil {
		return
	}
	r.TooLong = len(body) > h2.MaxBody
	r.Body = body[:min(len(body), h2.MaxBody)]
	d := c.Decide(r)
	if !c.awaitResponse(hr.Context(), &d) {
		c.record(0, r, &d, false)
		panic(http.ErrAbortHandler)
	}
	if d.GoAway != nil {
		w.Header().Set("Connection", "close")
	}
	for _, f := range d.Response.Header {
		w.Header().Add(f.Name, f.Value)
	}
	w.WriteHeader(d.Response.Status)
	_, err = w.Write(d.Response.Body)
	c.record(0, r, &d, err == nil)
}

// awaitResponse waits for the delay of the decision. It returns false if there is no response.
func (c *conn) awaitResponse(ctx context.Context, d *h2.Decision) bool {
	switch {
	case d.Reset: // this request is the only one in flight
		d.Processed = d.ProcessedShare == 1
		c.wire.Reset(0)
		return false
	case d.RST:
		return false
	case d.Silent:
		<-ctx.Done()
		return false
	case d.Delay <= 0:
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d.Delay):
		return true
	}
}
