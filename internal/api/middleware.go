// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/tracing"
	"github.com/sluice-push/sluice/push"
)

// response is the http.ResponseWriter of one request, with the values for its log line.
type response struct {
	http.ResponseWriter
	requestID string
	call      tracing.Call
	app, key  string // names, set by authorize
	access    access // set by authorize
	problem   string // slug of the problem that is the response, or empty
	cause     string // of the problem
	count     int    // notifications of a request that sends, or registrations of one that subscribes
	subject   string // topic of a request that subscribes, for the audit log
	status    int    // zero until the header is written
}

// WriteHeader records the status.
func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write records the status 200 if there was no WriteHeader.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// unauthorizedBodyTimeout limits the time for the body of a request that is not authorized.
const unauthorizedBodyTimeout = time.Second

// setBodyDeadline sets the deadline of the body, if there is one. It is needed even if the handler
// does not read the body: net/http reads part of it before it writes the response.
func setBodyDeadline(w http.ResponseWriter, r *http.Request, deadline time.Time) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(deadline)
	}
}

// observe assigns an ID to every request, sets the deadline of its body, logs it, and responds to a
// panic with a problem document.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		out := &response{ResponseWriter: w, requestID: requestID(r, start)}
		if trace := traceContext(r.Header); isTraced(r.URL.Path) {
			out.call = s.tracer.StartCall(trace, start)
		} else {
			out.call.Trace = trace
		}
		h := out.Header()
		h["X-Request-Id"] = []string{out.requestID}
		h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
		setBodyDeadline(w, r, start.Add(unauthorizedBodyTimeout))
		defer func() { s.finish(out, r, start, recover()) }()
		next.ServeHTTP(out, r)
	})
}

func (s *server) finish(w *response, r *http.Request, start time.Time, panicked any) {
	if panicked == http.ErrAbortHandler {
		panic(panicked)
	}
	if panicked != nil {
		s.logPanic(r.Context(), panicked, w.requestID)
		if w.status == 0 {
			(&problem{kind: internal, detail: "the gateway's log has details under this request_id"}).reply(w.requestID).write(w)
		}
	}
	if s.observer != nil {
		s.observer(routeOf(r), w.status)
	}
	w.call.End(r, routeOf(r), w.app, w.requestID, w.status)
	if s.audit != nil {
		s.auditRequest(w, r)
	}
	if !s.log.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	s.log.LogAttrs(r.Context(), slog.LevelDebug, "request",
		slog.String("method", r.Method), slog.String("route", routeOf(r)), slog.Int("status", w.status),
		slog.String("took", time.Since(start).String()), slog.String("app", w.app), slog.String("key", w.key), slog.String("caller", callerName(r)), slog.String("address", CallerAddress(r, s.trustedProxies)),
		slog.String("request_id", w.requestID), slog.String("traceparent", w.call.Trace.TraceParent))
}

// isTraced reports whether requests to a path have spans: those for apps, except for event feeds, which
// last for hours.
func isTraced(path string) bool {
	return strings.HasPrefix(path, beforeApp) && !strings.HasSuffix(path, "/events")
}

// traceContext returns the trace context of a request, which is empty if its traceparent is invalid. Use
// it only for traces and logs.
func traceContext(h http.Header) (t push.TraceContext) {
	if t.TraceParent = push.ParseTraceParent(h.Get("Traceparent")); t.TraceParent != "" {
		t.TraceState = push.ParseTraceState(h["Tracestate"])
	}
	return t
}

// callerName returns the name in the caller's certificate, or "" without one.
func callerName(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return ""
	}
	return identity.CertificateName(r.TLS.PeerCertificates[0])
}

// CallerAddress returns the IP address of the caller. Each trusted proxy appends the address of its
// peer to X-Forwarded-For, so the last one that is not trusted is that of the caller. What a caller
// has put before it is not believed. The peer of a Unix socket is a local proxy, and is trusted if
// there are trusted proxies at all.
func CallerAddress(r *http.Request, trusted []netip.Prefix) string {
	isTrusted := func(addr netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(network netip.Prefix) bool { return network.Contains(addr) })
	}
	address := ""
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr := peer.Addr().Unmap()
		if address = addr.String(); !isTrusted(addr) {
			return address
		}
	} else if len(trusted) == 0 {
		return ""
	}
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, text := range slices.Backward(forwarded) {
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			break
		}
		addr = addr.Unmap().WithZone("")
		if address = addr.String(); !isTrusted(addr) {
			break
		}
	}
	return address
}

// logPanic logs the type and stack of a panic, but not its value: the value can contain data of the
// request.
func (s *server) logPanic(ctx context.Context, panicked any, requestID string) {
	s.log.LogAttrs(ctx, slog.LevelError, "panic in request", slog.String("type", fmt.Sprintf("%T", panicked)),
		slog.String("request_id", requestID), slog.String("stack", string(debug.Stack())))
}

// routeOf returns the pattern that matched. It is not the path, because a path can contain a secret
// that the client put there by mistake.
func routeOf(r *http.Request) string {
	if route := chi.RouteContext(r.Context()); route != nil {
		return route.RoutePattern()
	}
	return r.Pattern
}

// requestID returns the X-Request-ID of the request if it is short and plain, otherwise a new one.
func requestID(r *http.Request, now time.Time) string {
	if id := r.Header.Get("X-Request-Id"); isPlain(id, 128) {
		return id
	}
	return ids.next(now)
}

// isPlain reports whether s has 1 to maxLen characters, none of which needs quoting anywhere.
func isPlain(s string, maxLen int) bool {
	if s == "" || len(s) > maxLen {
		return false
	}
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
