// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// target are the flags of commands that call a gateway.
type target struct {
	URL string `name:"url" env:"GATEWAY_URL" default:"http://127.0.0.1:8080" help:"Base URL of the gateway, or unix:/path of its Unix socket."`
	tlsFlags
}

// tlsFlags are the flags for TLS connections to a gateway.
type tlsFlags struct {
	CAFile      string `name:"ca-file" placeholder:"FILE" help:"Root certificates to trust instead of those of the system, in PEM."`
	CertFile    string `name:"cert-file" placeholder:"FILE" help:"Client certificate in PEM, for a gateway with tls.client_ca_file."`
	CertKeyFile string `name:"cert-key-file" placeholder:"FILE" help:"Private key of the client certificate in PEM."`
}

// config returns the TLS configuration, or nil if no flag is set. Its error is a usageError.
func (f tlsFlags) config() (*tls.Config, error) {
	if f == (tlsFlags{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CAFile != "" {
		text, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, usageError{fmt.Errorf("gateway: --ca-file: %w", err)}
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, usageError{fmt.Errorf("gateway: --ca-file %s: contains no certificate in PEM", f.CAFile)}
		}
	}
	if f.CertFile == "" && f.CertKeyFile == "" {
		return cfg, nil
	}
	if f.CertFile == "" || f.CertKeyFile == "" {
		return nil, usageError{errors.New("gateway: --cert-file and --cert-key-file must be set together")}
	}
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.CertKeyFile)
	if err != nil {
		return nil, usageError{fmt.Errorf("gateway: --cert-file %s: %w", f.CertFile, err)}
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// noResponse returns the error for a request without a response, with the flag that may be missing.
func (t target) noResponse(command string, err error) error {
	hint := ""
	op, _ := errors.AsType[*net.OpError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, invalid := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case unknown:
		hint = " (set --ca-file to the authority of the gateway's certificate)"
	case invalid, op != nil && op.Op == "dial", errors.Is(err, context.DeadlineExceeded), t.CertFile != "", !strings.HasPrefix(t.URL, "https:"):
	default: // with TLS 1.3, the answer that a certificate is required can be lost
		hint = " (if the gateway accepts only clients with a certificate, set --cert-file and --cert-key-file)"
	}
	return fmt.Errorf("%s: no response from %s: %w%s", command, t.URL, err, hint)
}

// connect returns a client for the gateway, and the base of its URLs. The client follows no redirects: a
// gateway does not redirect, and a notification is for the gateway only. Its error is a usageError.
func (t target) connect() (*http.Client, *url.URL, error) {
	secure, err := t.config()
	if err != nil {
		return nil, nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = secure
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if path, found := strings.CutPrefix(t.URL, "unix:"); found {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return client, &url.URL{Scheme: "http", Host: "gateway"}, nil
	}
	base, err := url.Parse(t.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, nil, usageError{fmt.Errorf("gateway: --url %q: must be a URL such as http://127.0.0.1:8080, or unix:/path", t.URL)}
	}
	return client, base, nil
}
