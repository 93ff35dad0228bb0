// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// waiter is one call of Await.
type waiter struct {
	query   Query
	want    int
	missing int
	done    chan struct{} // closed when missing reaches 0
}

// Await waits until at least n entries match, including those that are already stored, and returns
// all that match, oldest first. If ctx ends first, the error wraps ctx.Err() and has the number of
// entries that matched.
func (l *Ledger) Await(ctx context.Context, q Query, n int) ([]Entry, error) {
	w := l.addWaiter(q, n)
	defer l.removeWaiter(w)
	select {
	case <-w.done:
		return l.Entries(q), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("ledger: %d of %d entries match%s: %w (the ledger has %d entries in total)",
			l.Count(q), n, q.describe(), ctx.Err(), l.Summary().Entries)
	}
}

// TB is the part of *testing.T that Expect needs.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Expect waits up to a minute until n entries match, and fails the test unless exactly n do. It
// returns as soon as n match, so it does not notice entries that arrive later: before a call with
// n = 0, wait for whatever must come first.
func (l *Ledger) Expect(tb TB, q Query, n int) []Entry {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	found, err := l.Await(ctx, q, n)
	if err != nil {
		tb.Fatalf("%v", err)
		return nil
	}
	if q.Limit == 0 && len(found) != n {
		tb.Fatalf("ledger: %d entries match%s, want %d", len(found), q.describe(), n)
	}
	return found
}

func (l *Ledger) addWaiter(q Query, n int) *waiter {
	w := &waiter{query: q, want: n, done: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.missing = n - l.count(&q); w.missing <= 0 {
		close(w.done)
		return w
	}
	l.waiters = append(l.waiters, w)
	return w
}

func (l *Ledger) removeWaiter(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters = slices.DeleteFunc(l.waiters, func(other *waiter) bool { return other == w })
}

// notify counts a new record for the waiters that it matches. mu is held.
func (l *Ledger) notify(r *Record, seq uint64) {
	for _, w := range l.waiters {
		if w.missing == 0 || seq <= w.query.After || !w.query.matches(r) {
			continue
		}
		if w.missing--; w.missing == 0 {
			close(w.done)
		}
	}
}
