// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/proxy"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/wire"
)

// proxyKey is what a proxy is made from. Equal ones share the proxy, so that equal settings are equal.
type proxyKey struct {
	digest string
	roots  *rootCAs
}

// proxy returns the proxy of a block, or that of the file if the block does not exist.
func (f *files) proxy(path string, block *config.Proxy) (*proxy.Proxy, error) {
	if block == nil {
		return f.fileProxy, nil
	}
	if block.URL == "" {
		return f.environmentProxy()
	}
	roots, err := f.rootCAs(path, block.CAFile)
	if err != nil {
		return nil, err
	}
	cfg := proxy.Config{RootCAs: roots.certPool()}
	var credentials []byte
	if block.URL != config.NoProxyURL {
		if cfg.URL, err = url.Parse(string(block.URL)); err != nil {
			return nil, keyError(path, "url", err)
		}
		if cfg.URL.User, credentials, err = proxyCredentials(path, block.CredentialsFile); err != nil {
			return nil, err
		}
	}
	names := make([]string, len(block.NoProxy))
	for i, name := range block.NoProxy {
		names[i] = string(name)
	}
	cfg.NoProxy = strings.Join(names, ",")
	key := proxyKey{digest([]byte(block.URL), credentials, []byte(cfg.NoProxy)), roots}
	return f.proxies.get(key, func() (*proxy.Proxy, error) {
		p, err := proxy.New(cfg)
		if err != nil {
			return nil, keyError(path, "url", err)
		}
		return p, nil
	})
}

// environmentProxy returns the proxy of HTTPS_PROXY, or nil. The environment does not change while the
// process runs.
func (f *files) environmentProxy() (*proxy.Proxy, error) {
	p, err := proxy.FromEnvironment()
	if p == nil {
		return nil, err
	}
	return f.proxies.get(proxyKey{digest: "environment"}, func() (*proxy.Proxy, error) { return p, nil })
}

// proxyCredentials reads user:password from a file. Its error contains neither.
func proxyCredentials(path string, file config.File) (*url.Userinfo, []byte, error) {
	if file == "" {
		return nil, nil, nil
	}
	text, err := readFile(path, "credentials_file", file)
	if err != nil {
		return nil, nil, err
	}
	line := strings.TrimRight(string(text), "\r\n")
	user, password, found := strings.Cut(line, ":")
	if !found || user == "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, nil, keyError(path, "credentials_file", fmt.Errorf("%q: must contain user:password in one line", string(file)))
	}
	return url.UserPassword(user, password), text, nil
}

// proxyOrigin returns where a proxy was configured, for display.
func proxyOrigin(block config.ProxyBlock) string {
	if block.Proxy.URL == "" {
		return "HTTPS_PROXY"
	}
	return block.Path
}

// logProxies logs through which proxies the gateway connects.
func (g *Gateway) logProxies(snap *snapshot) {
	for _, block := range snap.cfg.Proxies() {
		if p, err := snap.files.proxy(block.Path, block.Proxy); err == nil && p != nil {
			g.log.Info("proxy for outbound connections", "proxy", p.String(), "from", proxyOrigin(block), "no_proxy", p.NoProxy())
		}
	}
}

// proxyChecks returns a check for each proxy.
func proxyChecks(snap *snapshot) (checks []Check) {
	for _, block := range snap.cfg.Proxies() {
		p, err := snap.files.proxy(block.Path, block.Proxy)
		if err != nil || p == nil || block.Proxy.URL == config.NoProxyURL {
			continue
		}
		found := fmt.Sprintf("%s accepts connections", p)
		if block.Proxy.URL == "" {
			found += ", from the environment variable HTTPS_PROXY"
		}
		if p.NoProxy() != "" {
			found += "; not used for " + p.NoProxy()
		}
		checks = append(checks, Check{Key: block.Path, Verify: func(ctx context.Context) (string, error) {
			err := p.Verify(ctx)
			if failed, ok := errors.AsType[*proxy.Error](err); ok {
				err = peer{proxy: block.Path}.proxyProblem(failed)
			}
			return found, err
		}})
	}
	return checks
}

// byProxy is how a service is reached: directly, or through a proxy.
type byProxy struct {
	proxy *proxy.Proxy // nil for direct connections
	// target is what the proxy connects to, host:port. It is empty for the addresses of endpoints.
	target string
}

// way returns how the service at base is reached.
func (s *settings) way(base *url.URL) byProxy {
	target := hostPort(base)
	_, isAddress := netip.ParseAddr(base.Hostname())
	switch {
	case !s.proxy.Use(target):
		return byProxy{}
	case s.endpoints != "" || isAddress == nil:
		return byProxy{proxy: s.proxy}
	default:
		return byProxy{s.proxy, target}
	}
}

// hostPort returns host:port of an https URL.
func hostPort(base *url.URL) string {
	return net.JoinHostPort(base.Hostname(), fmt.Sprint(portOf(base)))
}

// dialContext returns the DialContext of the connections, or nil for the default.
func (w byProxy) dialContext() func(ctx context.Context, network, address string) (net.Conn, error) {
	if w.proxy == nil {
		return nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if w.target != "" {
			address = w.target
		}
		conn, err := w.proxy.DialContext(ctx, network, address)
		if failure, ok := errors.AsType[*proxy.Error](err); ok && !errors.Is(err, context.Canceled) {
			return nil, &wire.Error{Reason: wire.ProxyFailed, Processed: wire.Never, EndpointAtFault: true, Err: failure}
		}
		return conn, err
	}
}

// slots returns the addresses of a service whose name the proxy resolves: one for each connection that
// a pool of this size needs, and as many again, so that connections that fail or get old are replaced.
// They are keys of the pool, and are never dialed: each dial asks the proxy for the name. They are in
// the discard prefix of RFC 6666.
func (w byProxy) slots(size int) (addrs pool.Static) {
	prefix := netip.MustParseAddr("100::").As16()
	for i := range 2 * size {
		prefix[15] = byte(i + 1)
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom16(prefix), 443))
	}
	return addrs
}

// endpointName returns the name of a slot, such as api.push.apple.com:443#3.
func (w byProxy) endpointName(slot netip.AddrPort) string {
	return fmt.Sprintf("%s#%d", w.target, slot.Addr().As16()[15])
}

// transportKey is what a transport for tokens is made from.
type transportKey struct {
	roots *rootCAs
	proxy *proxy.Proxy
}

// tokenClient returns the HTTP client for a token endpoint.
func (f *files) tokenClient(key transportKey) *http.Client {
	client, _ := f.tokenClients.get(key, func() (*http.Client, error) { // never fails
		t := newTokenTransport(key.roots, key.proxy)
		if environment, _ := f.environmentProxy(); key.proxy != environment { // proxy is set, to none or to another one
			t.http.Proxy = nil
		}
		return &http.Client{Transport: t}, nil
	})
	return client
}

// tokenTransport sends requests over TLS through the proxy, and others, which are for the metadata
// servers of clouds, directly. Exchanges are rare, and a replaced client must not keep connections, so
// it keeps none between exchanges.
type tokenTransport struct{ https, http *http.Transport }

func newTokenTransport(roots *rootCAs, p *proxy.Proxy) *tokenTransport {
	t := &tokenTransport{}
	t.https = http.DefaultTransport.(*http.Transport).Clone()
	t.https.DisableKeepAlives = true
	t.https.TLSClientConfig = &tls.Config{RootCAs: roots.certPool(), MinVersion: tls.VersionTLS12}
	t.http = t.https.Clone() // with HTTP_PROXY
	t.https.Proxy, t.https.DialContext = nil, p.DialContext
	return t
}

func (t *tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return t.https.RoundTrip(r)
	}
	return t.http.RoundTrip(r)
}
