// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/wire"
)

const (
	// expiryMargin is how long before its expiry a token is no longer used.
	expiryMargin = 10 * time.Second
	// defaultLifetime applies to a token whose response has no expires_in, which RFC 6749 allows.
	defaultLifetime = 5 * time.Minute
	// freshAge is the age below which a refused token means that the account is invalid, not the
	// token.
	freshAge = time.Minute

	// The backoff after failed exchanges. It doubles with each failure.
	minBackoff, maxBackoff = time.Second, time.Minute
)

// token is one access token. It is immutable. Its times have a monotonic reading, so setting the
// wall clock does not affect them.
type token struct {
	bearer                        string
	fetchedAt, renewAt, expiresAt time.Time
}

// tokenCache holds the current access token.
type tokenCache struct {
	fetch   tokenSource
	log     *slog.Logger
	current atomic.Pointer[token]

	exchangeLock chan struct{} // a mutex that select can acquire; guards the fields below and the exchange
	lastErr      *tokenError   // the error of the last exchange; nil if it succeeded
	backoff      time.Duration // the wait after the next failure
}

func newTokenCache(fetch tokenSource, log *slog.Logger) *tokenCache {
	t := &tokenCache{fetch: fetch, log: log, exchangeLock: make(chan struct{}, 1), backoff: minBackoff}
	t.exchangeLock <- struct{}{}
	return t
}

// valid returns the current token, or nil if there is no valid one.
func (t *tokenCache) valid() *token {
	if current := t.current.Load(); current != nil && time.Until(current.expiresAt) > expiryMargin {
		return current
	}
	return nil
}

// token returns a token to send with. If there is no valid one, one caller fetches it and the
// others wait. After a failed exchange, callers get its error until the backoff ends.
func (t *tokenCache) token(ctx context.Context) (*token, error) {
	if current := t.valid(); current != nil {
		return current, nil
	}
	select {
	case <-t.exchangeLock:
	case <-ctx.Done():
		return nil, callerLeft(ctx)
	}
	defer func() { t.exchangeLock <- struct{}{} }()
	if current := t.valid(); current != nil {
		return current, nil
	}
	if t.lastErr != nil && time.Until(t.lastErr.until) > 0 {
		return nil, t.lastErr
	}
	return t.exchange(ctx)
}

// callerLeft returns the error of a caller that cancelled before anything was sent.
func callerLeft(ctx context.Context) error {
	return &wire.Error{Reason: wire.Canceled, Processed: wire.Never, Err: ctx.Err()}
}

// exchange fetches a token and makes it current. The caller holds exchangeLock.
func (t *tokenCache) exchange(ctx context.Context) (*token, error) {
	began := time.Now()
	response, err := t.fetch(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, callerLeft(ctx)
	}
	if err != nil {
		return nil, t.recordFailure(err)
	}
	lifetime := defaultLifetime
	if !response.Expiry.IsZero() {
		lifetime = time.Until(response.Expiry)
	}
	fresh := &token{bearer: "Bearer " + response.AccessToken, fetchedAt: began, renewAt: began.Add(renewalAge(lifetime)), expiresAt: began.Add(lifetime)}
	t.current.Store(fresh)
	t.lastErr, t.backoff = nil, minBackoff
	return fresh, nil
}

// renewalAge returns about half of a token's lifetime, so that an outage of the token endpoint
// shorter than the other half has no effect. The jitter keeps processes that start together from
// renewing together.
func renewalAge(lifetime time.Duration) time.Duration {
	return lifetime*9/20 + rand.N(lifetime/10+1)
}

// recordFailure records a failed exchange and the earliest time of the next one.
func (t *tokenCache) recordFailure(err error) *tokenError {
	o := judgeExchangeError(err)
	wait := max(o.RetryAfter, t.backoff*4/5+rand.N(t.backoff*2/5))
	t.backoff = min(2*t.backoff, maxBackoff)
	t.lastErr = &tokenError{outcome: o, until: time.Now().Add(wait)}
	t.log.Warn("fcm: cannot get an access token", "reason", o.Reason, "err", err, "retry_in", wait.String(),
		"current_token_valid", t.valid() != nil)
	return t.lastErr
}

// invalidate handles a refused token. It drops the token unless it was fetched less than freshAge
// ago, and reports whether a retry can use another one.
func (t *tokenCache) invalidate(used *token) bool {
	if t.current.Load() != used {
		return true
	}
	if time.Since(used.fetchedAt) < freshAge {
		return false
	}
	t.current.CompareAndSwap(used, nil)
	return true
}

// keepFresh renews the token before it expires, until ctx ends.
func (t *tokenCache) keepFresh(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-time.After(t.refresh(ctx)):
		case <-ctx.Done():
		}
	}
}

// refresh renews the token if it is due, and returns the time until the next renewal.
func (t *tokenCache) refresh(ctx context.Context) time.Duration {
	select {
	case <-t.exchangeLock:
	case <-ctx.Done():
		return 0
	}
	defer func() { t.exchangeLock <- struct{}{} }()
	if wait := t.untilNextExchange(); wait > 0 {
		return wait
	}
	_, _ = t.exchange(ctx) // recordFailure records and logs a failure
	return t.untilNextExchange()
}

// untilNextExchange returns the time until the next exchange.
func (t *tokenCache) untilNextExchange() time.Duration {
	if t.lastErr != nil {
		return time.Until(t.lastErr.until)
	}
	if current := t.current.Load(); current != nil {
		return time.Until(current.renewAt)
	}
	return 0
}
