// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// handover is a net.Listener that is handed the connections that negotiated HTTP/1.1, so that net/http serves them.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover(addr netip.AddrPort) *handover {
	return &handover{addr: net.TCPAddrFromAddrPort(addr), conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handover) Addr() net.Addr { return h.addr }

// give hands over one connection and waits until net/http is done with it.
func (h *handover) give(c *handed) {
	select {
	case h.conns <- c:
		<-c.closed
	case <-h.done:
		_ = c.Close()
	}
}

// handed is a connection that net/http serves; closed is closed with it.
type handed struct {
	net.Conn
	from   *conn
	once   sync.Once
	closed chan struct{}
}

func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return h.Conn.Close()
}

// connKey finds the conn that a request came by: net/http leaves no other way.
type connKey struct{}

func (h *handover) conn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc.(*handed).from)
}

// ServeHTTP serves one HTTP/1.1 request by the same services and script as HTTP/2.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	c := hr.Context().Value(connKey{}).(*conn)
	r := &request{method: hr.Method, path: hr.URL.RequestURI(), authority: hr.Host}
	for name, values := range hr.Header {
		for _, value := range values {
			r.header = append(r.header, hpack.HeaderField{Name: strings.ToLower(name), Value: value})
		}
	}
	body, err := io.ReadAll(io.LimitReader(hr.Body, maxBody+1))
	if err != nil {
		return
	}
	r.tooLong = len(body) > maxBody
	r.body = body[:min(len(body), maxBody)]
	c.requests++
	d := c.decide(r)
	if !c.pass(hr.Context(), d) {
		c.note(0, r, d, false)
		panic(http.ErrAbortHandler)
	}
	if d.goAway != nil {
		w.Header().Set("Connection", "close")
	}
	for _, f := range d.answer.header {
		w.Header().Add(f.Name, f.Value)
	}
	w.WriteHeader(d.answer.status)
	_, err = w.Write(d.answer.body)
	c.note(0, r, d, err == nil)
}

// pass waits as the decision says, and says whether there is an answer to give.
func (c *conn) pass(ctx context.Context, d decision) bool {
	if d.reset {
		_ = c.raw.SetLinger(0)
		_ = c.raw.Close()
		return false
	}
	if d.rst {
		return false
	}
	if d.silent {
		<-ctx.Done()
		return false
	}
	return wait(ctx, d.delay)
}
