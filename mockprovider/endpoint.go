// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider/apns"
	"github.com/sluice-push/sluice/mockprovider/fcm"
	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/ledger"
	"github.com/sluice-push/sluice/mockprovider/oauth"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// endpoint is one address of one service.
type endpoint struct {
	mock   *Mock
	addr   netip.AddrPort
	script script.Endpoint
	ledger ledger.Endpoint
	serve  connectFunc
	tls    *tls.Config
	http2  h2.Config
	http1  *http1Listener // nil if the service does not support HTTP/1.1
	wake   chan struct{}  // wakes accept when there is a new listener
	dates  dates
	conns  sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	closing  bool
	refused  bool
	accepted uint64 // connections so far
	open     map[*conn]struct{}
}

// connectFunc returns a service for a new connection. cert is the verified certificate of the client,
// or nil.
type connectFunc func(cert *x509.Certificate) script.Service

// bind makes every service and its listeners.
func (m *Mock) bind() error {
	apnsAddrs, fcmAddrs := m.cfg.APNsListen, m.cfg.FCMListen
	freePort := net.JoinHostPort(m.cfg.Listen, "0")
	if len(apnsAddrs) == 0 {
		apnsAddrs = slices.Repeat([]string{freePort}, m.cfg.Endpoints)
	}
	if len(fcmAddrs) == 0 {
		fcmAddrs = slices.Repeat([]string{freePort}, m.cfg.Endpoints)
	}
	clock := func(service string) func() time.Time {
		return func() time.Time { return m.injector.Now(service) }
	}
	push := apns.New(m.id.credentials, m.cfg.TokenUpdateEvery, clock(APNs))
	google := fcm.New(m.cfg.ProjectID, m.accessTokens)
	token := oauth.New(m.id.account, m.accessTokens, m.cfg.AccessTokenLifetime, clock(OAuth), m.TokenURL)
	for _, s := range []struct {
		name  string
		addrs []string
		serve connectFunc
	}{
		{APNs, apnsAddrs, func(cert *x509.Certificate) script.Service { return push.Conn(cert) }},
		{APNsManage, []string{cmp.Or(m.cfg.APNsManageListen, freePort)}, func(cert *x509.Certificate) script.Service { return push.ManageConn(cert) }},
		{FCM, fcmAddrs, func(*x509.Certificate) script.Service { return google }},
		{OAuth, []string{cmp.Or(m.cfg.OAuthListen, freePort)}, func(*x509.Certificate) script.Service { return token }},
		{WebPush, []string{cmp.Or(m.cfg.WebPushListen, freePort)}, func(*x509.Certificate) script.Service { return m.webPush }},
	} {
		for i, addr := range s.addrs {
			if err := m.listen(s.name, i, addr, s.serve); err != nil {
				return err
			}
		}
	}
	if err := m.certify(append(slices.Concat(apnsAddrs, fcmAddrs), m.cfg.APNsManageListen, m.cfg.OAuthListen, m.cfg.WebPushListen)); err != nil {
		return err
	}
	var err error
	m.admin, err = newAdmin(m, cmp.Or(m.cfg.LedgerListen, freePort))
	return err
}

// certify gives all endpoints a certificate for the configured addresses, those that the endpoints
// listen on, and Config.Advertise.
func (m *Mock) certify(configured []string) error {
	hosts := map[string]bool{m.cfg.Advertise: true}
	for _, addr := range configured {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			hosts[host] = true
		}
	}
	for _, endpoints := range m.services {
		for _, e := range endpoints {
			hosts[e.addr.Addr().WithZone("").String()] = true
		}
	}
	cert, err := newServerCertificate(slices.Sorted(maps.Keys(hosts)))
	for _, endpoints := range m.services {
		for _, e := range endpoints {
			e.tls.Certificates = []tls.Certificate{cert}
		}
	}
	return err
}

// googleStreams is the stream limit of Google's services, on which clients rely.
const googleStreams = 100

// listen adds one endpoint.
func (m *Mock) listen(service string, index int, listenAddr string, serve connectFunc) error {
	listener, err := net.Listen("tcp", listenAddr)
	if err != nil {
		return err
	}
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	e := &endpoint{
		mock: m, addr: addr, serve: serve, listener: listener,
		script: script.Endpoint{Service: service, Index: index, Addr: addr.String()},
		ledger: ledger.Endpoint{Service: service, Addr: addr.String(), Notifications: service != OAuth && service != APNsManage},
		wake:   make(chan struct{}, 1), open: map[*conn]struct{}{},
		tls: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if service == APNs || service == APNsManage {
		e.tls.NextProtos = []string{"h2"}
		e.tls.ClientAuth, e.tls.ClientCAs = tls.VerifyClientCertIfGiven, m.ClientTLS().RootCAs
		e.http2 = h2.Config{Streams: m.cfg.Streams, MaxHeaderList: 8000}
	} else {
		e.tls.NextProtos = []string{"h2", "http/1.1"}
		e.http2 = h2.Config{Streams: h2.Streams{Start: googleStreams, Max: googleStreams, Strict: m.cfg.Streams.Strict}, EndOnViolation: true, MaxHeaderList: 64 << 10}
		e.http1 = newHTTP1Listener(addr)
	}
	m.services[service] = append(m.services[service], e)
	return nil
}

// closeListeners closes what bind has opened, after a failure of New.
func (m *Mock) closeListeners() {
	for _, endpoints := range m.services {
		for _, e := range endpoints {
			_ = e.listener.Close()
		}
	}
}

// run accepts connections until ctx ends, then closes all of them and returns when they have ended.
func (e *endpoint) run(ctx context.Context) error {
	defer e.conns.Wait()
	stop := context.AfterFunc(ctx, e.shutDown)
	defer stop()
	if e.http1 != nil {
		server := &http.Server{Handler: http.HandlerFunc(serveHTTP1), ReadHeaderTimeout: 10 * time.Second, ConnContext: connContext}
		e.conns.Go(func() { _ = server.Serve(e.http1) })
		defer func() { _ = server.Close() }()
	}
	for ctx.Err() == nil {
		if err := e.accept(ctx); err != nil {
			return err
		}
	}
	return nil
}

// accept accepts connections until the listener is closed. If there is no listener, it waits for the
// next one.
func (e *endpoint) accept(ctx context.Context) error {
	e.mu.Lock()
	listener := e.listener
	e.mu.Unlock()
	if listener == nil {
		select {
		case <-ctx.Done():
		case <-e.wake:
		}
		return nil
	}
	for {
		nc, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		e.startConn(nc.(*net.TCPConn))
	}
}

// startConn starts serving a connection.
func (e *endpoint) startConn(nc *net.TCPConn) {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		_ = nc.Close()
		return
	}
	e.accepted++
	c := newConn(e, nc, e.accepted)
	e.open[c] = struct{}{}
	e.mu.Unlock()
	e.mock.ledger.ConnOpened(&e.ledger)
	e.conns.Go(func() {
		c.run()
		e.mu.Lock()
		delete(e.open, c)
		e.mu.Unlock()
		e.mock.ledger.ConnClosed(&e.ledger)
	})
}

// refuse closes the listener, or with on = false opens it again. If another process has taken the
// port in the meantime, the next change of the script tries again.
func (e *endpoint) refuse(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || on == e.refused {
		return
	}
	if on {
		_ = e.listener.Close()
		e.listener, e.refused = nil, true
		return
	}
	listener, err := net.Listen("tcp", e.addr.String())
	if err != nil {
		e.mock.cfg.Logger.Error("cannot listen again after a refuse fault", "endpoint", e.script.Addr, "err", err)
		return
	}
	e.listener, e.refused = listener, false
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// openConns returns the open connections.
func (e *endpoint) openConns() []*conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*conn, 0, len(e.open))
	for c := range e.open {
		all = append(all, c)
	}
	return all
}

// shutDown closes the listener and all connections.
func (e *endpoint) shutDown() {
	e.mu.Lock()
	e.closing = true
	if e.listener != nil {
		_ = e.listener.Close()
	}
	if e.http1 != nil {
		_ = e.http1.Close()
	}
	e.mu.Unlock()
	for _, c := range e.openConns() {
		c.wire.Close()
	}
}
