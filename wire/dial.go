// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// Dial connects to addr over TCP and TLS and waits for the peer's SETTINGS, so that no request is
// sent to an address that does not speak HTTP/2. Dial starts no goroutine; the caller must call
// Run. An error is always an *Error.
func Dial(ctx context.Context, addr netip.AddrPort, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	dialCtx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	rawConn, err := cfg.DialContext(dialCtx, "tcp", addr.String())
	if err != nil {
		return nil, connectError(ctx, err)
	}
	tlsConn := tls.Client(rawConn, cfg.tlsConfig())
	if err := handshake(dialCtx, tlsConn); err != nil {
		_ = rawConn.Close()
		return nil, tlsError(ctx, err)
	}
	return establish(ctx, dialCtx, tlsConn, rawConn, cfg)
}

// Client is Dial on an established connection. If cfg.TLS is nil, it speaks HTTP/2 over conn
// without TLS, which is meant for tests. Client closes conn if it fails.
func Client(ctx context.Context, conn net.Conn, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	dialCtx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	if cfg.TLS == nil {
		return establish(ctx, dialCtx, conn, conn, cfg)
	}
	tlsConn := tls.Client(conn, cfg.tlsConfig())
	if err := handshake(dialCtx, tlsConn); err != nil {
		_ = conn.Close()
		return nil, tlsError(ctx, err)
	}
	return establish(ctx, dialCtx, tlsConn, conn, cfg)
}

var errNotH2 = errors.New("the peer did not negotiate h2")

func handshake(ctx context.Context, conn *tls.Conn) error {
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		return errNotH2
	}
	return nil
}

// aLongTimeAgo is a deadline that cancels pending reads and writes.
var aLongTimeAgo = time.Unix(1, 0)

// establish exchanges the connection prefaces (RFC 9113 §3.4). When dialCtx ends, pending reads
// and writes fail.
func establish(ctx, dialCtx context.Context, conn, rawConn net.Conn, cfg Config) (*Conn, error) {
	c := newConn(conn, rawConn, cfg)
	stop := context.AfterFunc(dialCtx, func() { _ = rawConn.SetDeadline(aLongTimeAgo) })
	err := c.exchangePrefaces()
	if !stop() && err == nil {
		err = dialCtx.Err()
	}
	if err != nil {
		_ = rawConn.Close()
		return nil, prefaceError(ctx, err)
	}
	return c, nil
}

// exchangePrefaces writes and reads concurrently. If the peer closes the connection, what it sent
// before (a TLS alert, for instance) explains the failure better than the write error does.
func (c *Conn) exchangePrefaces() error {
	c.writeBuf = append(c.writeBuf, http2.ClientPreface...)
	_ = c.dataFramer.WriteSettings(c.localSettings()...)
	var writeErr error
	var wg sync.WaitGroup
	wg.Go(func() { _, writeErr = c.conn.Write(c.writeBuf) })
	defer wg.Wait()
	if err := c.readFirstFrame(); err != nil {
		_ = c.rawConn.SetDeadline(aLongTimeAgo)
		return err
	}
	wg.Wait()
	return writeErr
}

func (c *Conn) readFirstFrame() error {
	f, err := c.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		c.consumeInflow(0) // enlarges the connection window beyond its default
		return c.applySettings(f)
	case *http2.GoAwayFrame:
		c.handleGoAway(f)
		return c.goAway.noAnswer(nil)
	}
	return protocolError{http2.ErrCodeProtocol, "the first frame is not SETTINGS (RFC 9113 §3.4)"}
}

// connectError classifies the failure of a TCP connect.
func connectError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return canceledError(ctx)
	}
	if known, ok := errors.AsType[*Error](err); ok { // of Config.DialContext
		return known
	}
	e := &Error{Reason: ConnectRefused, Processed: Never, EndpointAtFault: true, Err: err}
	switch {
	case isTimeout(err):
		e.Reason = ConnectTimeout
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		e.EndpointAtFault = false // a resource of this host is exhausted
	}
	return e
}

// tlsError classifies the failure of a TLS handshake.
func tlsError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return canceledError(ctx)
	}
	e := &Error{Reason: ConnectRefused, Processed: Never, EndpointAtFault: true, Err: err}
	var untrusted *tls.CertificateVerificationError
	var notTLS tls.RecordHeaderError
	switch {
	case isTimeout(err):
		e.Reason = TLSHandshakeTimeout
	case errors.As(err, &untrusted):
		e.Reason, e.EndpointAtFault = TLSServerUntrusted, false
	case isRemoteAlert(err) && isClientCertAlert(err):
		e.Reason, e.EndpointAtFault = TLSClientRejected, false
	case errors.Is(err, errNotH2), errors.As(err, &notTLS), strings.Contains(err.Error(), "no application protocol"):
		e.Reason = ALPNNotH2
	}
	return e
}

// prefaceError classifies a failed preface exchange. In TLS 1.3 a peer rejects the client
// certificate only after the handshake, so the error can also be a TLS alert.
func prefaceError(ctx context.Context, err error) error {
	var wireErr *Error
	switch {
	case ctx.Err() != nil:
		return canceledError(ctx)
	case errors.As(err, &wireErr):
		wireErr.Processed = Never // no request has been sent yet
		return wireErr
	case isRemoteAlert(err):
		return tlsError(ctx, err)
	case isTimeout(err):
		return &Error{Reason: ConnectTimeout, Processed: Never, EndpointAtFault: true, Err: fmt.Errorf("no SETTINGS: %w", err)}
	}
	return &Error{Reason: ConnectRefused, Processed: Never, EndpointAtFault: true, Err: err}
}

func canceledError(ctx context.Context) error {
	return &Error{Reason: Canceled, Processed: Never, Err: ctx.Err()}
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT)
}

// isRemoteAlert reports whether the peer sent a TLS alert. crypto/tls marks alerts only by the Op
// of a net.OpError.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// isClientCertAlert reports whether err is an alert about the client certificate (RFC 8446 §6.2).
// crypto/tls exposes the kind of an alert only in the error text.
func isClientCertAlert(err error) bool {
	msg := err.Error()
	return strings.Contains(msg, "certificate") || strings.Contains(msg, "access denied")
}
