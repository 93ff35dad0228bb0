// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// conn is an HTTP/1.1 connection for one call at a time. It does not use net/http: the client there
// needs more CPU time than the gateway under test.
type conn struct {
	address string
	timeout time.Duration
	tls     *tls.Config // nil for the default

	nc        net.Conn
	reader    *bufio.Reader
	stopWatch func() bool // of the context.AfterFunc that closes nc
	deadline  time.Time
	lastUsed  time.Time
	body      body
	writes    chan error
}

// maxIdle is how long an idle connection is reused. Servers close idle connections after a minute,
// and a call could race with that.
const maxIdle = 30 * time.Second

// ensureOpen opens a connection if there is none. The connection closes when ctx is done.
func (c *conn) ensureOpen(ctx context.Context) error {
	if c.nc != nil && time.Since(c.lastUsed) < maxIdle {
		return nil
	}
	c.close()
	base, err := url.Parse(c.address)
	if err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	if base.Scheme == "https" {
		secure := tls.Dialer{NetDialer: &dialer, Config: c.tls.Clone()}
		if secure.Config == nil {
			secure.Config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		secure.Config.NextProtos = []string{"http/1.1"}
		c.nc, err = secure.DialContext(ctx, "tcp", authority(base, "443"))
	} else {
		c.nc, err = dialer.DialContext(ctx, "tcp", authority(base, "80"))
	}
	if err != nil {
		c.nc = nil
		return err
	}
	nc := c.nc
	c.stopWatch = context.AfterFunc(ctx, func() { _ = nc.Close() })
	c.reader, c.lastUsed, c.deadline = bufio.NewReaderSize(nc, 16<<10), time.Now(), time.Time{}
	return nil
}

func authority(base *url.URL, port string) string {
	if base.Port() != "" {
		port = base.Port()
	}
	return net.JoinHostPort(base.Hostname(), port)
}

func (c *conn) close() {
	if c.nc == nil {
		return
	}
	c.stopWatch()
	_ = c.nc.Close()
	c.nc = nil
}

// do sends a request and calls handle with the response. With concurrent set it reads the response
// while it writes the request, because the server may stop reading until its response is read.
func (c *conn) do(request []byte, concurrent bool, handle func(status int, body *body) error) error {
	c.lastUsed = time.Now()
	if err := c.extendDeadline(); err != nil {
		return err
	}
	if !concurrent {
		if _, err := c.nc.Write(request); err != nil {
			return err
		}
		return c.readResponse(handle)
	}
	if c.writes == nil {
		c.writes = make(chan error, 1)
	}
	nc := c.nc
	go func() {
		_, err := nc.Write(request)
		c.writes <- err
	}()
	err := c.readResponse(handle)
	if err != nil {
		_ = nc.Close() // unblocks the writer
	}
	return errors.Join(err, <-c.writes)
}

// readResponse reads one response.
func (c *conn) readResponse(handle func(status int, body *body) error) error {
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	if err := c.body.handle(response, c.extendDeadline, handle); err != nil {
		return err
	}
	if response.Close {
		c.close()
	}
	return nil
}

// extendDeadline sets the deadline to the timeout from now, unless at least 90 % of it remain.
func (c *conn) extendDeadline() error {
	now := time.Now()
	if c.deadline.Sub(now) > c.timeout*9/10 {
		return nil
	}
	c.deadline = now.Add(c.timeout)
	return c.nc.SetDeadline(c.deadline)
}

// describeError returns a short description that groups similar errors in the report.
func describeError(err error) string {
	var network net.Error
	switch {
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, net.ErrClosed):
		return "the test ended"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	}
	if operation, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Sprint(operation.Err)
	}
	return err.Error()
}
