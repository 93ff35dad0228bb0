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
	// spare is how long before its end a token is not used any more.
	spare = 10 * time.Second
	// unstatedLife is the life of a token whose answer names none (RFC 6749
	// lets it).
	unstatedLife = 5 * time.Minute
	// justFetched is the age under which a refused token speaks against the
	// account and not against the token.
	justFetched = time.Minute

	// The wait after an exchange that failed: doubled each time.
	leastWait, greatestWait = time.Second, time.Minute
)

// token is one access token. It does not change. Its times have a monotonic
// reading: setting the wall clock moves none of them.
type token struct {
	bearer                   string
	fetched, renewal, expiry time.Time
}

// tokens keeps the current access token.
type tokens struct {
	fetch   source
	log     *slog.Logger
	current atomic.Pointer[token]

	turn chan struct{} // holds one thing for whoever may exchange; it guards what is below
	last *denial       // what the last exchange failed of; nil when it did not
	wait time.Duration // after the next failure
}

func newTokens(fetch source, log *slog.Logger) *tokens {
	t := &tokens{fetch: fetch, log: log, turn: make(chan struct{}, 1), wait: leastWait}
	t.turn <- struct{}{}
	return t
}

// good returns the current token, or nil when there is none to send with.
func (t *tokens) good() *token {
	if now := t.current.Load(); now != nil && time.Until(now.expiry) > spare {
		return now
	}
	return nil
}

// token returns a token to send with. Where there is none, one of those who
// ask fetches it and the others wait; and nobody asks again before the wait
// after a failure is over.
func (t *tokens) token(ctx context.Context) (*token, error) {
	if now := t.good(); now != nil {
		return now, nil
	}
	select {
	case <-t.turn:
	case <-ctx.Done():
		return nil, left(ctx)
	}
	defer func() { t.turn <- struct{}{} }()
	if now := t.good(); now != nil {
		return now, nil
	}
	if t.last != nil && time.Until(t.last.until) > 0 {
		return nil, t.last
	}
	return t.exchange(ctx)
}

// left is the error of a caller who left before anything was sent.
func left(ctx context.Context) error {
	return &wire.Error{Reason: wire.Cancelled, Processed: wire.Never, Err: ctx.Err()}
}

// exchange fetches a token and makes it current. The caller holds turn.
func (t *tokens) exchange(ctx context.Context) (*token, error) {
	began := time.Now()
	answer, err := t.fetch(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, left(ctx)
	}
	if err != nil {
		return nil, t.deny(err)
	}
	life := unstatedLife
	if !answer.Expiry.IsZero() {
		life = time.Until(answer.Expiry)
	}
	fresh := &token{bearer: "Bearer " + answer.AccessToken, fetched: began, renewal: began.Add(half(life)), expiry: began.Add(life)}
	t.current.Store(fresh)
	t.last, t.wait = nil, leastWait
	return fresh, nil
}

// half returns about half of a token's life: an outage of the token endpoint
// that is shorter than the other half is never felt. The jitter keeps
// processes that started together from renewing together.
func half(life time.Duration) time.Duration {
	return life*9/20 + rand.N(life/10+1)
}

// deny remembers a failed exchange, and when the next may be.
func (t *tokens) deny(err error) *denial {
	o := judgeExchange(err)
	wait := max(o.RetryAfter, t.wait*4/5+rand.N(t.wait*2/5))
	t.wait = min(2*t.wait, greatestWait)
	t.last = &denial{outcome: o, until: time.Now().Add(wait)}
	t.log.Warn("fcm: the token endpoint gave no access token", "reason", o.Reason, "cause", err, "again_in", wait,
		"still_sending", t.good() != nil)
	return t.last
}

// drop answers a refused token: it is not used again, unless it was fetched
// just now, and drop reports whether another one is to be had.
func (t *tokens) drop(used *token) bool {
	if t.current.Load() != used {
		return true
	}
	if time.Since(used.fetched) < justFetched {
		return false
	}
	t.current.CompareAndSwap(used, nil)
	return true
}

// keepFresh renews the token in good time until ctx ends.
func (t *tokens) keepFresh(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-time.After(t.refresh(ctx)):
		case <-ctx.Done():
		}
	}
}

// refresh renews the token if it is time, and returns how long that is over.
func (t *tokens) refresh(ctx context.Context) time.Duration {
	select {
	case <-t.turn:
	case <-ctx.Done():
		return 0
	}
	defer func() { t.turn <- struct{}{} }()
	if rest := t.rest(); rest > 0 {
		return rest
	}
	_, _ = t.exchange(ctx) // a failure is remembered, and logged
	return t.rest()
}

// rest returns how long the next exchange can wait.
func (t *tokens) rest() time.Duration {
	if t.last != nil {
		return time.Until(t.last.until)
	}
	if now := t.current.Load(); now != nil {
		return time.Until(now.renewal)
	}
	return 0
}
