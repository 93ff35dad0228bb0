// SPDX-License-Identifier: Apache-2.0

package api

import (
	"log/slog"
	"net/http"
	"time"
)

// idleTimeout is how long a connection may be without a request, also before its first one: clients dial more than they need
// and keep what they have to spare, Go's for 90 seconds. Who ends it sooner than they do may end a request that is just
// on its way.
const idleTimeout = 2 * time.Minute

// NewServer returns a server for h, New's handler or one around it, with the bounds that slow and greedy clients need; it
// listens nowhere yet. The time for a body is h's own to bound: a batch may come in slowly for hours. logger gets
// what net/http has to say, at debug level, for any stranger can cause it; nil discards it.
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
