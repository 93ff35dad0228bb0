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
	// expiryMargin is how long before its end a token is not used any more.
	expiryMargin = 10 * time.Second
	// defaultLifetime is the life of a token whose answer names none (RFC 6749
	// lets it).
	defaultLifetime = 5 * time.Minute
	// freshAge is the age under which a refused token speaks against the
	// account and not against the token.
	freshAge = time.Minute

	// The wait after an exchange that failed: doubled each time.
	minBackoff, maxBackoff = time.Second, time.Minute
)

// token is one access token. It does not change. Its times have a monotonic
// reading: setting the wall clock moves none of them.
type token struct {
	bearer                        string
	fetchedAt, renewAt, expiresAt time.Time
}

// tokenCache keeps the current access token.
type tokenCache struct {
	fetch   tokenSource
	log     *slog.Logger
	current atomic.Pointer[token]

	exchangeLock chan struct{} // holds one thing for whoever may exchange; it guards what is below
	lastErr      *tokenError   // what the last exchange failed of; nil when it did not
	backoff      time.Duration // after the next failure
}

func newTokens(fetch tokenSource, log *slog.Logger) *tokenCache {
	t := &tokenCache{fetch: fetch, log: log, exchangeLock: make(chan struct{}, 1), backoff: minBackoff}
	t.exchangeLock <- struct{}{}
	return t
}

// valid returns the current token, or nil when there is none to send with.
func (t *tokenCache) valid() *token {
	if now := t.current.Load(); now != nil && time.Until(now.expiresAt) > expiryMargin {
		return now
	}
	return nil
}

// token returns a token to send with. Where there is none, one of those who
// ask fetches it and the others wait; and nobody asks again before the wait
// after a failure is over.
func (t *tokenCache) token(ctx context.Context) (*token, error) {
	if now := t.valid(); now != nil {
		return now, nil
	}
	select {
	case <-t.exchangeLock:
	case <-ctx.Done():
		return nil, callerLeft(ctx)
	}
	defer func() { t.exchangeLock <- struct{}{} }()
	if now := t.valid(); now != nil {
		return now, nil
	}
	if t.lastErr != nil && time.Until(t.lastErr.until) > 0 {
		return nil, t.lastErr
	}
	return t.exchange(ctx)
}

// callerLeft is the error of a caller who left before anything was sent.
func callerLeft(ctx context.Context) error {
	return &wire.Error{Reason: wire.Cancelled, Processed: wire.Never, Err: ctx.Err()}
}

// exchange fetches a token and makes it current. The caller holds turn.
func (t *tokenCache) exchange(ctx context.Context) (*token, error) {
	began := time.Now()
	answer, err := t.fetch(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, callerLeft(ctx)
	}
	if err != nil {
		return nil, t.recordFailure(err)
	}
	life := defaultLifetime
	if !answer.Expiry.IsZero() {
		life = time.Until(answer.Expiry)
	}
	fresh := &token{bearer: "Bearer " + answer.AccessToken, fetchedAt: began, renewAt: began.Add(renewalAge(life)), expiresAt: began.Add(life)}
	t.current.Store(fresh)
	t.lastErr, t.backoff = nil, minBackoff
	return fresh, nil
}

// renewalAge returns about half of a token's life: an outage of the token endpoint
// that is shorter than the other half is never felt. The jitter keeps
// processes that started together from renewing together.
func renewalAge(life time.Duration) time.Duration {
	return life*9/20 + rand.N(life/10+1)
}

// recordFailure remembers a failed exchange, and when the next may be.
func (t *tokenCache) recordFailure(err error) *tokenError {
	o := judgeExchangeError(err)
	wait := max(o.RetryAfter, t.backoff*4/5+rand.N(t.backoff*2/5))
	t.backoff = min(2*t.backoff, maxBackoff)
	t.lastErr = &tokenError{outcome: o, until: time.Now().Add(wait)}
	t.log.Warn("fcm: the token endpoint gave no access token", "reason", o.Reason, "cause", err, "again_in", wait,
		"still_sending", t.valid() != nil)
	return t.lastErr
}

// invalidate answers a refused token: it is not used again, unless it was fetched
// just now, and drop reports whether another one is to be had.
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

// keepFresh renews the token in good time until ctx ends.
func (t *tokenCache) keepFresh(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-time.After(t.refresh(ctx)):
		case <-ctx.Done():
		}
	}
}

// refresh renews the token if it is time, and returns how long that is over.
func (t *tokenCache) refresh(ctx context.Context) time.Duration {
	select {
	case <-t.exchangeLock:
	case <-ctx.Done():
		return 0
	}
	defer func() { t.exchangeLock <- struct{}{} }()
	if rest := t.untilNextExchange(); rest > 0 {
		return rest
	}
	_, _ = t.exchange(ctx) // a failure is remembered, and logged
	return t.untilNextExchange()
}

// untilNextExchange returns how long the next exchange can wait.
func (t *tokenCache) untilNextExchange() time.Duration {
	if t.lastErr != nil {
		return time.Until(t.lastErr.until)
	}
	if now := t.current.Load(); now != nil {
		return time.Until(now.renewAt)
	}
	return 0
}
