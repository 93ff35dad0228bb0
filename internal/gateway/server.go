// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
)

// currentAPI is the API of whatever house stands.
func (g *Gateway) currentAPI() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.current.Load().api.ServeHTTP(w, r) })
}

// newAPI returns the HTTP face of a house.
func (g *Gateway) newAPI(cfg *config.Config) (http.Handler, error) {
	apps := make(map[string]api.App, len(cfg.Apps))
	for name, app := range cfg.Apps {
		apps[name] = api.App{Keys: apiKeys(app.Keys)}
	}
	limits := cfg.Limits
	return api.New(api.Config{
		Sender: g.sender(), Idempotency: &g.idempotency, Workers: &g.workers, Channels: g, Queue: g.storage.apiQueue(), History: g.storage.apiHistory(), Draining: g.drainStarted,
		Apps: apps, Logger: g.log, Ready: g.notReady, Observe: g.metrics.Request, Status: func() any { return g.Status() },
		Limits: api.Limits{
			Body: int(limits.Body), Item: int(limits.BatchItem), Batch: limits.Batch, InFlight: limits.BatchInFlight, BodyTimeout: limits.BodyTimeout,
			SendTimeout: limits.SendTimeout,
		},
	})
}

func apiKeys(configured []config.Key) []api.Key {
	keys := make([]api.Key, len(configured))
	for i, k := range configured {
		keys[i] = api.Key{Name: k.Name, Hash: k.Hash, Scopes: k.Scopes}
	}
	return keys
}

// adminHandler returns what the admin listener answers.
func (g *Gateway) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", g.metrics.Handler())
	mux.HandleFunc("GET "+AuditPath, g.handleAudit)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// apiServer returns the server of the API. It speaks HTTP/1.1, and HTTP/2 to those who begin with it (RFC 9113 §3.3), as
// client does: many calls share a connection, which says honestly what it has not processed when it ends.
func (g *Gateway) apiServer(base context.Context) *http.Server {
	s := g.newServer(base, g.withLoadReport(g.currentAPI()))
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams}
	s.ConnState = g.loadReporter.trackConn
	return s
}

// maxStreams bounds what one HTTP/2 connection can have in flight. What is granted is less, as a rule, and told by the
// signals.
const maxStreams = 1000

// newServer returns a server that slow and greedy callers cannot exhaust. Bodies have their own time limit, in rest. base
// ends requests that outlive the drain.
func (g *Gateway) newServer(base context.Context, handler http.Handler) *http.Server {
	s := api.NewServer(handler, g.log)
	s.BaseContext = func(net.Listener) context.Context { return base }
	return s
}

// serve is Serve, for which a server that was closed is no failure.
func serve(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
