// SPDX-License-Identifier: Apache-2.0

package api

import (
	"log/slog"
	"net/http"
	"time"
)

// ConnTimeouts limit the time of a connection without a request. Zero fields have their defaults.
type ConnTimeouts struct {
	// Header limits the time from the first byte of a request, and for the first request from the
	// start of the connection, to the end of its header. The default is 10 s.
	Header time.Duration
	// Idle limits the time between two requests, and for HTTP/2 also before the first one. The
	// default is 11 min: a proxy must close idle connections first, because it may have just sent a
	// request on one that the server closes, and common load balancers do so after 10 min.
	Idle time.Duration
}

// NewServer returns a server for h, the handler of New or one that wraps it, with limits for slow
// and greedy clients. It does not listen. h limits the time of a body itself, because a batch may
// take hours. logger gets the messages of net/http at debug level, because every client can cause
// them; nil discards them.
func NewServer(h http.Handler, t ConnTimeouts, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&t.Header, 10*time.Second)
	setDefault(&t.Idle, 11*time.Minute)
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: t.Header,
		IdleTimeout:       t.Idle,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}
