// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"time"
)

// conn is an HTTP/1.1 connection for one call at a time. It does not use net/http: the client there
// needs more CPU time than the gateway under test.
type conn struct {
	address string
	timeout time.Duration

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
		secure := tls.Dialer{NetDialer: &dialer, Config: &tls.Config{NextProtos: []string{"http/1.1"}}}
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
	status, h, err := c.readHeader()
	if err != nil {
		return err
	}
	c.body.reset(c, h)
	if err := handle(status, &c.body); err != nil {
		return err
	}
	if err := c.body.discard(); err != nil {
		return err
	}
	if h.closes {
		c.close()
	}
	return nil
}

// header holds the response header fields that describe the body.
type header struct {
	length  int // -1 if unknown
	chunked bool
	closes  bool // the server closes the connection after the response
}

func (c *conn) readHeader() (status int, h header, err error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return 0, h, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, h, errors.New("the response is not HTTP/1.1")
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, h, errors.New("the response has no status")
	}
	for h.length = -1; ; {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return 0, h, err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			return status, h, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		h.field(name, bytes.TrimSpace(value))
	}
}

func (h *header) field(name, value []byte) {
	switch {
	case bytes.EqualFold(name, []byte("Content-Length")):
		if n, err := strconv.Atoi(string(value)); err == nil {
			h.length = n
		}
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		h.chunked = bytes.EqualFold(value, []byte("chunked"))
	case bytes.EqualFold(name, []byte("Connection")):
		h.closes = bytes.EqualFold(value, []byte("close"))
	}
}

// body is a response body. Its buffers are reused for the next response.
type body struct {
	conn        *conn        // nil with HTTP/2
	extend      func() error // extends the deadline of the call
	header      header
	source      io.Reader
	lines       *bufio.Reader
	linesActive bool // lines reads the current response
	buffer      bytes.Buffer
}

func (b *body) reset(c *conn, h header) {
	b.conn, b.extend, b.header, b.linesActive = c, c.extendDeadline, h, false
	b.buffer.Reset()
	switch {
	case h.chunked:
		b.source = httputil.NewChunkedReader(c.reader)
	case h.length >= 0:
		b.source = io.LimitReader(c.reader, int64(h.length))
	default:
		b.source, b.conn.lastUsed = c.reader, time.Time{} // the body ends with the connection
	}
}

// readLine returns the next line without its line end, or io.EOF. The line is valid until the next
// call.
func (b *body) readLine() ([]byte, error) {
	if b.lines == nil {
		b.lines = bufio.NewReaderSize(nil, 64<<10)
	}
	if !b.linesActive {
		b.lines.Reset(b.source)
		b.linesActive = true
	}
	line, err := b.lines.ReadSlice('\n')
	if len(line) == 0 {
		return nil, err
	}
	return bytes.TrimSpace(line), b.extend()
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

// readAll returns the whole body. It is valid until the next response.
func (b *body) readAll() ([]byte, error) {
	const limit = 16 << 20
	if _, err := b.buffer.ReadFrom(io.LimitReader(b.source, limit+1)); err != nil {
		return nil, err
	}
	if b.buffer.Len() > limit {
		return nil, errors.New("the response is longer than 16 MiB")
	}
	return b.buffer.Bytes(), nil
}

// discard reads the rest of the body and the trailer, so that the next response starts at its first
// byte.
func (b *body) discard() error {
	if _, err := io.Copy(io.Discard, b.source); err != nil {
		return err
	}
	if !b.header.chunked {
		return nil
	}
	for { // the trailer
		line, err := b.conn.reader.ReadSlice('\n')
		if err != nil || len(bytes.TrimSpace(line)) == 0 {
			return err
		}
	}
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
