// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
)

// response is the ResponseWriter of one request, with what its log line tells.
type response struct {
	http.ResponseWriter
	requestID string
	trace     string // the caller's traceparent, or empty
	app, key  string // names, once authorised
	status    int    // zero until the header is written
}

// WriteHeader notes the status.
func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write notes the status too.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observe gives every request its ID, a deadline for its body, a line in the log, and a problem document instead of
// a panic.
func (a *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		out := &response{ResponseWriter: w, requestID: requestID(r), trace: traceParent(r)}
		h := out.Header()
		h["X-Request-Id"] = []string{out.requestID}
		h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
		if r.ContentLength != 0 {
			// Also for answers that never look at the body: net/http reads some of it before it writes them.
			_ = http.NewResponseController(w).SetReadDeadline(started.Add(a.limits.BodyTimeout))
		}
		if out.trace != "" {
			r = r.WithContext(context.WithValue(r.Context(), traceKey{}, out.trace))
		}
		defer func() { a.finish(out, r, started, recover()) }()
		next.ServeHTTP(out, r)
	})
}

func (a *server) finish(w *response, r *http.Request, started time.Time, panicked any) {
	if panicked == http.ErrAbortHandler {
		panic(panicked)
	}
	if panicked != nil {
		a.logPanic(r.Context(), panicked, w.requestID)
		if w.status == 0 {
			(&problem{kind: internal, detail: "the gateway's log tells more under this request_id"}).reply(w.requestID).write(w)
		}
	}
	if a.observer != nil {
		a.observer(routeOf(r), w.status)
	}
	if !a.log.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	a.log.LogAttrs(r.Context(), slog.LevelDebug, "request",
		slog.String("method", r.Method), slog.String("route", routeOf(r)), slog.Int("status", w.status),
		slog.Duration("took", time.Since(started)), slog.String("app", w.app), slog.String("key", w.key),
		slog.String("request_id", w.requestID), slog.String("traceparent", w.trace))
}

// logPanic logs a panic by its type and place alone: its value may hold what a caller sent.
func (a *server) logPanic(ctx context.Context, panicked any, requestID string) {
	a.log.LogAttrs(ctx, slog.LevelError, "panic in a request", slog.String("type", fmt.Sprintf("%T", panicked)),
		slog.String("request_id", requestID), slog.String("stack", string(debug.Stack())))
}

// routeOf is the pattern that matched, never the path: a path can hold what its caller mistook for one.
func routeOf(r *http.Request) string {
	if route := chi.RouteContext(r.Context()); route != nil {
		return route.RoutePattern()
	}
	return r.Pattern
}

// requestID is the caller's own if it is short and plain, else a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-ID"); isPlain(id, 128) {
		return id
	}
	return uuid.NewString()
}

// isPlain reports whether s is 1 to most characters that need no quoting anywhere.
func isPlain(s string, most int) bool {
	if s == "" || len(s) > most {
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
