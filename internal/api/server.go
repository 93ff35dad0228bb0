// SPDX-License-Identifier: Apache-2.0

package api

import (
	"log/slog"
	"net/http"
	"time"
)

// idleTimeout limits how long a connection may be without a request, also before its first one.
// Clients open more connections than they need and keep them; Go's keep them for 90 seconds. A
// shorter timeout can close a connection on which a request was just sent.
const idleTimeout = 2 * time.Minute

// NewServer returns a server for h, the handler of New or one that wraps it, with limits for slow
// and greedy clients. It does not listen. h limits the time of a body itself, because a batch may
// take hours. logger gets the messages of net/http at debug level, because every client can cause
// them; nil discards them.
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: idleTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}
