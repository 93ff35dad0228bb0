// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/wire"
)

const (
	// minLifetime and maxLifetime bound the lifetime of a token, whatever the response says.
	// Google issues tokens for at most 12 hours.
	minLifetime, maxLifetime = 10 * time.Second, 12 * time.Hour
	// defaultLifetime applies to a token whose response has no expires_in, which RFC 6749 allows.
	defaultLifetime = 5 * time.Minute
	// expiryMargin is how long before its expiry a token is no longer used, but at most a quarter
	// of its lifetime.
	expiryMargin = 10 * time.Second
	// freshAge is the age below which a refused token means that the account is invalid, not the
	// token.
	freshAge = time.Minute

	// The backoff after failed exchanges. It doubles with each failure.
	minBackoff, maxBackoff = time.Second, time.Minute
)

// token is one access token. It is immutable. Its times have a monotonic reading, so setting the
// wall clock does not affect them. renewAt is before usableUntil.
type token struct {
	bearer                          string
	fetchedAt, renewAt, usableUntil time.Time
}

// newToken returns the token of a response to a request that was sent at fetchedAt.
func newToken(response *oauth2.Token, fetchedAt time.Time) *token {
	lifetime := min(max(time.Until(response.Expiry), minLifetime), maxLifetime)
	return &token{
		bearer: "Bearer " + response.AccessToken, fetchedAt: fetchedAt, renewAt: fetchedAt.Add(renewalAge(lifetime)),
		usableUntil: fetchedAt.Add(lifetime - min(expiryMargin, lifetime/4)),
	}
}

// renewalAge returns about half of a token's lifetime, so that an outage of the token endpoint
// shorter than the other half has no effect. The jitter keeps processes that start together from
// renewing together.
func renewalAge(lifetime time.Duration) time.Duration {
	return lifetime*9/20 + rand.N(lifetime/10)
}

// tokenCache holds the current access token. At most one exchange is in flight. It is independent
// of the sends that wait for it, so a send that is cancelled does not abort it.
type tokenCache struct {
	fetch   tokenSource
	log     *slog.Logger
	current atomic.Pointer[token]

	mu       sync.Mutex
	inFlight *exchange     // nil without an exchange
	lastErr  *tokenError   // the error of the last exchange; nil if it succeeded
	backoff  time.Duration // the wait after the next failure
}

// exchange is an exchange in flight.
type exchange struct {
	done   chan struct{} // closed when it has ended
	cancel context.CancelFunc
}

func newTokenCache(fetch tokenSource, log *slog.Logger) *tokenCache {
	return &tokenCache{fetch: fetch, log: log, backoff: minBackoff}
}

// valid returns the current token, or nil if there is no valid one.
func (t *tokenCache) valid() *token {
	if current := t.current.Load(); current != nil && time.Until(current.usableUntil) > 0 {
		return current
	}
	return nil
}

// token returns a token to send with. If there is no valid one, it waits for an exchange. After a
// failed exchange, callers get its error until the backoff ends.
func (t *tokenCache) token(ctx context.Context) (*token, error) {
	for {
		if current := t.valid(); current != nil {
			return current, nil
		}
		e, err := t.startExchange()
		switch {
		case err != nil:
			return nil, err
		case e == nil: // another caller's exchange has just ended
			continue
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, &wire.Error{Reason: wire.Canceled, Processed: wire.Never, Err: ctx.Err()}
		}
	}
}

// startExchange starts an exchange if one is due, and returns the one in flight, or nil. The error
// is that of the last exchange, until its backoff ends.
func (t *tokenCache) startExchange() (*exchange, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.inFlight != nil:
		return t.inFlight, nil
	case t.lastErr != nil && time.Until(t.lastErr.until) > 0:
		return nil, t.lastErr
	case t.untilNextExchange() > 0:
		return nil, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.inFlight = &exchange{done: make(chan struct{}), cancel: cancel}
	go t.runExchange(ctx, t.inFlight)
	return t.inFlight, nil
}

// runExchange fetches a token and makes it current.
func (t *tokenCache) runExchange(ctx context.Context, e *exchange) {
	defer e.cancel()
	began := time.Now()
	var response *oauth2.Token
	err := panics.Recover(t.log, "FCM access token", func() (err error) {
		response, err = t.fetch(ctx)
		return err
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		t.current.Store(newToken(response, began))
		t.lastErr, t.backoff = nil, minBackoff
	case ctx.Err() == nil:
		t.recordFailure(err)
	}
	t.inFlight = nil
	close(e.done)
}

// recordFailure records a failed exchange and the earliest time of the next one. t.mu is held.
func (t *tokenCache) recordFailure(err error) {
	o := judgeExchangeError(err)
	wait := max(o.RetryAfter, t.backoff*4/5+rand.N(t.backoff*2/5))
	t.backoff = min(2*t.backoff, maxBackoff)
	t.lastErr = &tokenError{outcome: o, until: time.Now().Add(wait)}
	t.log.Warn("fcm: cannot get an access token", "reason", o.Reason, "err", err, "retry_in", wait.String(),
		"current_token_valid", t.valid() != nil)
}

// invalidate handles a refused token. It drops the token unless it was fetched less than freshAge
// ago and its renewal is not due, and reports whether a retry can use another one.
func (t *tokenCache) invalidate(used *token) bool {
	if t.current.Load() != used {
		return true
	}
	if time.Since(used.fetchedAt) < freshAge && time.Until(used.renewAt) > 0 {
		return false
	}
	t.current.CompareAndSwap(used, nil)
	return true
}

// keepFresh renews the token before it expires, until ctx ends. It then aborts an exchange in
// flight.
func (t *tokenCache) keepFresh(ctx context.Context) {
	for ctx.Err() == nil {
		var ended <-chan struct{}
		var due <-chan time.Time
		if e, _ := t.startExchange(); e != nil { // recordFailure logs a failure
			ended = e.done
		} else {
			due = time.After(t.untilDue())
		}
		select {
		case <-ended:
		case <-due:
		case <-ctx.Done():
			t.abort()
		}
	}
}

// abort ends an exchange in flight and waits for it.
func (t *tokenCache) abort() {
	t.mu.Lock()
	e := t.inFlight
	t.mu.Unlock()
	if e != nil {
		e.cancel()
		<-e.done
	}
}

// untilDue returns the time until the next exchange.
func (t *tokenCache) untilDue() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.untilNextExchange()
}

// untilNextExchange is untilDue for callers that hold t.mu.
func (t *tokenCache) untilNextExchange() time.Duration {
	if t.lastErr != nil {
		return time.Until(t.lastErr.until)
	}
	if current := t.current.Load(); current != nil {
		return time.Until(current.renewAt)
	}
	return 0
}
