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

// Dial connects to addr over TCP and TLS and returns when the peer's SETTINGS
// are known, so that no request goes to an address that has not answered. It
// starts no goroutine: the connection lives once Run runs. The error is an
// *Error.
func Dial(ctx context.Context, addr netip.AddrPort, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	within, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	raw, err := new(net.Dialer).DialContext(within, "tcp", addr.String())
	if err != nil {
		return nil, connectError(ctx, err)
	}
	nc := tls.Client(raw, cfg.tlsConfig())
	if err := handshake(within, nc); err != nil {
		_ = raw.Close()
		return nil, tlsError(ctx, err)
	}
	return establish(ctx, within, nc, raw, cfg)
}

// Client does the same on a connection that stands already. Where cfg.TLS is
// nil it speaks HTTP/2 on it as it is: for tests. The connection is closed if
// Client fails.
func Client(ctx context.Context, nc net.Conn, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	within, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	if cfg.TLS == nil {
		return establish(ctx, within, nc, nc, cfg)
	}
	secured := tls.Client(nc, cfg.tlsConfig())
	if err := handshake(within, secured); err != nil {
		_ = nc.Close()
		return nil, tlsError(ctx, err)
	}
	return establish(ctx, within, secured, nc, cfg)
}

var errNotH2 = errors.New("the peer did not agree to h2")

func handshake(ctx context.Context, nc *tls.Conn) error {
	if err := nc.HandshakeContext(ctx); err != nil {
		return err
	}
	if nc.ConnectionState().NegotiatedProtocol != "h2" {
		return errNotH2
	}
	return nil
}

// aLongTimeAgo as a deadline ends whatever reads or writes.
var aLongTimeAgo = time.Unix(1, 0)

// establish exchanges the prefaces (RFC 9113 §3.4). A context that ends meanwhile
// makes the reading and writing fail.
func establish(ctx, within context.Context, nc, raw net.Conn, cfg Config) (*Conn, error) {
	c := newConn(nc, raw, cfg)
	stop := context.AfterFunc(within, func() { _ = raw.SetDeadline(aLongTimeAgo) })
	err := c.exchangePrefaces()
	if !stop() && err == nil {
		err = within.Err()
	}
	if err != nil {
		_ = raw.Close()
		return nil, prefaceError(ctx, err)
	}
	return c, nil
}

// exchangePrefaces reads while it writes: the peer may speak first, and what
// it says before it closes the connection, an alert above all, tells more than
// the write that failed for it.
func (c *Conn) exchangePrefaces() error {
	c.writeBuf = append(c.writeBuf, http2.ClientPreface...)
	_ = c.dataFramer.WriteSettings(c.localSettings()...)
	var failed error
	var writing sync.WaitGroup
	writing.Go(func() { _, failed = c.conn.Write(c.writeBuf) })
	defer writing.Wait()
	if err := c.readFirstFrame(); err != nil {
		_ = c.rawConn.SetDeadline(aLongTimeAgo)
		return err
	}
	writing.Wait()
	return failed
}

func (c *Conn) readFirstFrame() error {
	f, err := c.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		c.consumeInflow(0) // opens the connection's window beyond its default
		return c.applySettings(f)
	case *http2.GoAwayFrame:
		c.handleGoAway(f)
		return c.goAway.noAnswer(nil)
	}
	return protocolError{http2.ErrCodeProtocol, "the first frame is not SETTINGS (RFC 9113 §3.4)"}
}

// connectError reads the failure of a TCP connect.
func connectError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return cancelledError(ctx)
	}
	e := &Error{Reason: ConnectRefused, Processed: Never, EndpointAtFault: true, Err: err}
	switch {
	case isTimeout(err):
		e.Reason = ConnectTimeout
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		e.EndpointAtFault = false // this machine has run out of something
	}
	return e
}

// tlsError reads the failure of a TLS handshake.
func tlsError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return cancelledError(ctx)
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

// prefaceError reads the failure to exchange prefaces. In TLS 1.3 the peer judges
// our certificate only now.
func prefaceError(ctx context.Context, err error) error {
	var said *Error
	switch {
	case ctx.Err() != nil:
		return cancelledError(ctx)
	case errors.As(err, &said):
		said.Processed = Never // nothing has been asked yet
		return said
	case isRemoteAlert(err):
		return tlsError(ctx, err)
	case isTimeout(err):
		return &Error{Reason: ConnectTimeout, Processed: Never, EndpointAtFault: true, Err: fmt.Errorf("no SETTINGS: %w", err)}
	}
	return &Error{Reason: ConnectRefused, Processed: Never, EndpointAtFault: true, Err: err}
}

func cancelledError(ctx context.Context) error {
	return &Error{Reason: Cancelled, Processed: Never, Err: ctx.Err()}
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT)
}

// isRemoteAlert reports whether the peer sent a TLS alert. The library tells it only
// by the operation's name.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// isClientCertAlert knows the alerts of RFC 8446 §6.2 that speak of the
// client's certificate, by the library's words for them.
func isClientCertAlert(err error) bool {
	text := err.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "access denied")
}
