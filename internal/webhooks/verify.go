// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"

	"github.com/sluice-push/sluice/internal/publicaddr"
)

// ErrNotPublic is wrapped by the error of Verify if the receiver has no address that may be connected
// to.
var ErrNotPublic = publicaddr.ErrNotPublic

// Verify connects to the receiver as a delivery does, and ends the connection after the TLS handshake.
// Its error does not contain the path of the URL.
func (w *Webhook) Verify(ctx context.Context) error {
	target, err := url.Parse(w.cfg.URL)
	if err != nil {
		return errors.New("cannot parse the URL")
	}
	conn, err := w.cfg.Dial(ctx, "tcp", net.JoinHostPort(target.Hostname(), cmp.Or(target.Port(), "443")))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return tls.Client(conn, &tls.Config{ServerName: target.Hostname(), RootCAs: w.cfg.RootCAs, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
}
