// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// waiter is somebody who waits for entries.
type waiter struct {
	query   Query
	want    int
	missing int
	enough  chan struct{} // closed when none is missing
}

// Await waits until at least n entries match, those that are there already included, and returns all that match, oldest
// first. Its error is ctx's, with how many there were.
func (l *Ledger) Await(ctx context.Context, q Query, n int) ([]Entry, error) {
	w := l.watch(q, n)
	defer l.unwatch(w)
	select {
	case <-w.enough:
		return l.Entries(q), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("mockprovider: %d of %d entries match%s: %w (the ledger has %d in all)",
			l.Count(q), n, q.words(), ctx.Err(), l.Summary().Entries)
	}
}

// Expect wants exactly n matching entries, waits up to a minute for the last of them, and fails the test otherwise.
// It cannot know of those that come later: for n = 0 wait first for what must come.
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
		tb.Fatalf("mockprovider: %d entries match%s, want %d", len(found), q.words(), n)
	}
	return found
}

func (l *Ledger) watch(q Query, n int) *waiter {
	w := &waiter{query: q, want: n, enough: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.missing = n - l.count(&q); w.missing <= 0 {
		close(w.enough)
		return w
	}
	l.waiters = append(l.waiters, w)
	return w
}

func (l *Ledger) unwatch(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters = slices.DeleteFunc(l.waiters, func(other *waiter) bool { return other == w })
}

// tell counts a new entry for those who wait. mu is held.
func (l *Ledger) tell(r *record, seq uint64) {
	for _, w := range l.waiters {
		if w.missing == 0 || seq <= w.query.After || !w.query.matches(r) {
			continue
		}
		if w.missing--; w.missing == 0 {
			close(w.enough)
		}
	}
}

// words lists what a query asks for. A device token is not spelled out.
func (q Query) words() string {
	var b strings.Builder
	add := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, " %s=%s", name, value)
		}
	}
	add("service", q.Service)
	add("endpoint", q.Endpoint)
	add("id", q.ID)
	add("reason", q.Reason)
	add("status", fmt.Sprint(q.Status))
	add("after", fmt.Sprint(q.After))
	if q.Token != "" {
		add("token", "…")
	}
	if q.Accepted != nil {
		add("accepted", fmt.Sprint(*q.Accepted))
	}
	return b.String()
}
