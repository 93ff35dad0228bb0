// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/proxy"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/wire"
)

// peer is a server that a check connects to.
type peer struct {
	name   string // for display, such as api.push.apple.com:443
	path   string // the block that it belongs to, such as apps.shop.apns
	urlKey string // the key that names it
	proxy  string // the path of the proxy block that applies
}

// newPeer returns a peer of a block. own is the block's own proxy, or nil.
func newPeer(cfg *config.Config, path, urlKey, name string, own *config.Proxy) peer {
	p := peer{name: name, path: path, urlKey: path + "." + urlKey, proxy: "proxy"}
	if own != nil {
		p.proxy = path + ".proxy"
	}
	return p
}

// resolveError is the failure of a name's resolution.
type resolveError struct{ error }

func (e resolveError) Unwrap() error { return e.error }

// problem returns the problem that keeps a check from connecting to the peer.
func (p peer) problem(err error) *Problem {
	if refused, ok := errors.AsType[*proxy.Error](err); ok {
		return p.proxyProblem(refused)
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return p.untrusted(untrusted.Err)
	}
	var reason wire.Reason
	if failed, ok := errors.AsType[*wire.Error](err); ok {
		reason = failed.Reason
	}
	_, unresolved := errors.AsType[resolveError](err)
	_, noName := errors.AsType[*net.DNSError](err)
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, webhooks.ErrNotPublic):
		return &Problem{p.path + ".networks", fmt.Sprintf("%s is not a public address, and so is not connected to", p.name),
			"list its network in networks, such as [10.0.0.0/8]"}
	case unresolved, noName:
		return &Problem{p.urlKey, fmt.Sprintf("the name of %s cannot be resolved: %v", p.name, cause(err)),
			"correct the name, or the name servers of this machine (/etc/resolv.conf) or in dns.servers; in a network without external DNS, set proxy, which resolves names"}
	case reason == wire.TLSClientRejected:
		return &Problem{p.path + ".cert_file", fmt.Sprintf("%s rejects the client certificate: %v", p.name, cause(err)),
			"use the provider certificate that Apple issued for this app, with its private key in cert_key_file, and check that it is not revoked; or use a key_file"}
	case reason == wire.ALPNNotH2, notTLS:
		return &Problem{p.urlKey, fmt.Sprintf("%s does not offer HTTP/2 over TLS: %v", p.name, cause(err)),
			"check the URL and its port; if a firewall inspects TLS, exempt " + p.name + " from the inspection"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), reason == wire.ConnectTimeout, reason == wire.TLSHandshakeTimeout, reason == wire.Canceled:
		return &Problem{p.urlKey, p.name + " does not respond in time", p.openFirewall()}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Problem{p.urlKey, p.name + " refuses connections", "check the URL and its port, and " + p.openFirewall()}
	}
	return &Problem{p.urlKey, fmt.Sprintf("cannot connect to %s: %v", p.name, cause(err)), "check the URL, and " + p.openFirewall()}
}

func (p peer) openFirewall() string {
	return "allow outbound TCP connections to " + p.name + " in the firewall, or set proxy if only a proxy may connect to the Internet"
}

// cause returns the innermost error, which has no addresses and no names of packages in front of it.
func cause(err error) error {
	for {
		var next error
		switch wrapped := err.(type) {
		case interface{ Unwrap() error }:
			next = wrapped.Unwrap()
		case interface{ Unwrap() []error }:
			next = wrapped.Unwrap()[0]
		}
		if next == nil {
			return err
		}
		err = next
	}
}

func (p peer) proxyProblem(e *proxy.Error) *Problem {
	switch {
	case e.Status == http.StatusProxyAuthRequired:
		return &Problem{p.proxy + ".credentials_file", e.Error(), "put user:password of the proxy into the file, in one line"}
	case e.Address == "":
		return &Problem{p.proxy + ".url", e.Error(), "correct the address of the proxy, and check that this machine may connect to it; without proxy.url, HTTPS_PROXY names it"}
	case e.Timeout():
		return &Problem{p.proxy + ".url", e.Error(), "allow the proxy to connect to " + p.name}
	}
	return &Problem{p.proxy + ".url", e.Error(),
		"allow CONNECT to " + p.name + " in the rules of the proxy, or list the name in no_proxy if this machine may connect to it directly"}
}

// untrusted returns the problem of a server's certificate.
func (p peer) untrusted(err error) *Problem {
	seen := fmt.Sprintf("the certificate of %s is not trusted: %v", p.name, err)
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return &Problem{p.urlKey, seen, "use a URL with a name for which the certificate is valid"}
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return &Problem{p.urlKey, seen, "renew the certificate of the server; for a public service, correct this machine's clock (" + time.Now().UTC().Format(time.RFC3339) + ")"}
	}
	return &Problem{p.path + ".ca_file", seen,
		"set ca_file to the certificate authority of the server or of the firewall that inspects TLS; for a public service without such a firewall, remove ca_file and install the system's root certificates (package ca-certificates)"}
}
