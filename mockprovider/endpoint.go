// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider/ledger"
)

// endpoint is one address of one service.
type endpoint struct {
	mock    *Mock
	service string
	index   int
	addr    netip.AddrPort
	text    string // addr
	entry   *ledger.Endpoint
	does    service
	tls     *tls.Config
	http1   *handover // where HTTP/1.1 connections go; nil where the service speaks none
	wake    chan struct{}
	conns   sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while refused
	closing  bool
	refused  bool
	number   uint64
	open     map[*conn]struct{}
}

func (e *endpoint) address() string { return e.text }

// apple says whether the endpoint keeps the habits of Apple's connections: HTTP/2 only, and a stream limit that moves.
func (e *endpoint) apple() bool { return e.service == APNs || e.service == APNsManage }

// bind makes every service and its listeners.
func (m *Mock) bind() error {
	apnsAt, fcmAt := m.cfg.APNsListen, m.cfg.FCMListen
	anywhere := net.JoinHostPort(m.cfg.Listen, "0")
	if len(apnsAt) == 0 {
		apnsAt = slices.Repeat([]string{anywhere}, m.cfg.Endpoints)
	}
	if len(fcmAt) == 0 {
		fcmAt = slices.Repeat([]string{anywhere}, m.cfg.Endpoints)
	}
	apple := &apns{credentials: m.id.credentials, updates: m.updates, channels: newChannels(), clock: m.clock, started: time.Now()}
	for _, s := range []struct {
		name string
		at   []string
		does service
	}{
		{APNs, apnsAt, apple},
		{APNsManage, []string{or(m.cfg.APNsManageListen, anywhere)}, &apnsManage{apple}},
		{FCM, fcmAt, &fcm{project: m.cfg.ProjectID, access: m.access}},
		{OAuth, []string{or(m.cfg.OAuthListen, anywhere)},
			&oauth{account: m.id.account, access: m.access, lifetime: m.cfg.AccessTokenLifetime, clock: m.clock, url: m.TokenURL}},
		{WebPush, []string{or(m.cfg.WebPushListen, anywhere)}, &webPush{m.subscribers}},
	} {
		for i, at := range s.at {
			if err := m.listen(s.name, i, at, s.does); err != nil {
				return err
			}
		}
	}
	var err error
	m.admin, err = newAdmin(m, or(m.cfg.LedgerListen, anywhere))
	return err
}

// listen adds one endpoint.
func (m *Mock) listen(name string, index int, at string, does service) error {
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	e := &endpoint{
		mock: m, service: name, index: index, addr: addr, text: addr.String(),
		entry: &ledger.Endpoint{Service: name, Addr: addr.String(), Notifications: name != OAuth && name != APNsManage}, does: does, listener: listener,
		wake: make(chan struct{}, 1), open: map[*conn]struct{}{},
		tls: &tls.Config{
			Certificates: []tls.Certificate{m.id.leaf}, MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1"},
		},
	}
	if e.apple() {
		e.tls.NextProtos = []string{"h2"}
		e.tls.ClientAuth, e.tls.ClientCAs = tls.VerifyClientCertIfGiven, m.ClientTLS().RootCAs
	} else {
		e.http1 = newHandover(addr)
	}
	m.services[name] = append(m.services[name], e)
	return nil
}

// closeListeners undoes bind when New fails.
func (m *Mock) closeListeners() {
	for _, endpoints := range m.services {
		for _, e := range endpoints {
			_ = e.listener.Close()
		}
	}
}

// run accepts until ctx ends, then closes everything and returns when all connections have ended.
func (e *endpoint) run(ctx context.Context) error {
	defer e.conns.Wait()
	stop := context.AfterFunc(ctx, e.shutDown)
	defer stop()
	if e.http1 != nil {
		server := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second, ConnContext: e.http1.conn, ErrorLog: nil}
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

// accept takes connections until the listener is closed, then waits for the next one.
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
		e.welcome(nc.(*net.TCPConn))
	}
}

// welcome starts a connection.
func (e *endpoint) welcome(nc *net.TCPConn) {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		_ = nc.Close()
		return
	}
	e.number++
	c := newConn(e, nc, e.number)
	e.open[c] = struct{}{}
	e.mu.Unlock()
	e.mock.ledger.ConnOpened(e.entry)
	e.conns.Go(func() {
		c.run()
		e.mu.Lock()
		delete(e.open, c)
		e.mu.Unlock()
		e.mock.ledger.ConnClosed(e.entry)
	})
}

// refuse closes the listener or opens it again. Its port may be lost to another process in between; then it is tried
// again at the script's next change.
func (e *endpoint) refuse(yes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || yes == e.refused {
		return
	}
	if yes {
		_ = e.listener.Close()
		e.listener, e.refused = nil, true
		return
	}
	listener, err := net.Listen("tcp", e.text)
	if err != nil {
		e.mock.cfg.Logger.Error("cannot listen again after a refuse fault", "endpoint", e.text, "error", err)
		return
	}
	e.listener, e.refused = listener, false
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// standing are the connections at hand.
func (e *endpoint) standing() []*conn {
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
	for _, c := range e.standing() {
		c.shut()
	}
}
