// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/identity"
)

// currentAPI returns a handler that calls the API of the current snapshot.
func (g *Gateway) currentAPI() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.current.Load().api.ServeHTTP(w, r) })
}

// newAPI returns the API for a configuration.
func (g *Gateway) newAPI(cfg *config.Config, auth *identity.Authenticator) (*api.Handler, error) {
	limits := cfg.Limits
	return api.New(api.Config{
		Sender: g.sender(), Idempotency: g.idempotencyStore(), Channels: g, Topics: g, Queue: g.storage.apiQueue(), History: g.storage.apiHistory(), Broadcasts: g.storage.apiBroadcasts(), Draining: g.drainStarted,
		Auth: auth, Logger: g.log, TrustedProxies: prefixes(cfg.TrustedProxies), Ready: g.publicNotReady, Audit: g.audit, AuditSends: cfg.AuditLog.Sends, Observe: g.metrics.Request, Tracer: &g.tracer, Refused: func(kind identity.Kind, reason string) { g.metrics.Refused(string(kind), reason) }, Status: func(apps []string) any { return g.Status().forApps(apps) },
		Limits: api.Limits{
			Body: int(limits.Body), Item: int(limits.BatchItem), Batch: limits.Batch, InFlight: limits.BatchInFlight, BodyTimeout: limits.BodyTimeout,
			SendTimeout: limits.SendTimeout,
		},
	})
}

// idempotencyStore returns the store of Idempotency-Keys: the history, or memory without a queue.
func (g *Gateway) idempotencyStore() idempotency.Store {
	if g.storage == nil {
		return &g.idempotency
	}
	return g.storage
}

// adminHandler returns the handler of the admin listener.
func (g *Gateway) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", g.metrics.Handler())
	mux.HandleFunc("GET "+AuditPath, g.handleAudit)
	mux.HandleFunc("GET /v1/status", g.handleStatus)
	mux.HandleFunc("GET /readyz", g.handleReady)
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {}) // for probes without a client certificate
	mux.Handle(console.Path, g.newConsole())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/mutex", mutexProfile)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return g.auditAdmin(mux)
}

// mutexProfile responds with a profile of the waits for locks. The first request starts the
// measurement, which then samples one in a hundred waits.
func mutexProfile(w http.ResponseWriter, r *http.Request) {
	runtime.SetMutexProfileFraction(100)
	pprof.Handler("mutex").ServeHTTP(w, r)
}

// apiServer returns the server of the API. It supports HTTP/1.1, and HTTP/2 over TLS or with prior
// knowledge (RFC 9113 §3.3), which package client uses: many calls share a connection, and GOAWAY
// tells which requests were not processed.
func (g *Gateway) apiServer(base context.Context) *http.Server {
	s := g.newServer(base, g.withLoadReport(g.currentAPI()), g.conns)
	g.setTLS(s, 0)
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	s.Protocols.SetHTTP2(true) // with TLS
	s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams}
	return s
}

// maxStreams limits the concurrent requests on one HTTP/2 connection. The load report usually
// recommends fewer.
const maxStreams = 1000

// newServer returns a server with limits against slow and greedy clients. Package api limits the
// time for bodies. The end of base aborts requests that are still in progress after the drain.
func (g *Gateway) newServer(base context.Context, handler http.Handler, conns *connLimiter) *http.Server {
	limits := g.current.Load().cfg.Limits
	s := api.NewServer(handler, api.ConnTimeouts{Header: limits.HeaderTimeout, Idle: limits.IdleTimeout}, g.log)
	s.BaseContext = func(net.Listener) context.Context { return base }
	s.ConnState = conns.track
	return s
}

// serve calls s.Serve or, with TLS, s.ServeTLS. It returns nil if the server was closed.
func serve(s *http.Server, l net.Listener) (err error) {
	if s.TLSConfig != nil {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
