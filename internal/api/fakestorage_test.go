// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// fakeStorage is a queue and a history in memory. It is also the sender of a gateway with storage,
// and records the notifications that are sent synchronously.
type fakeStorage struct {
	panicOnFeed bool // set while no feed runs

	api.Sender
	refuse func(n *push.Notification) error // nil accepts all
	err    error                            // returned by the history

	mu      sync.Mutex
	queued  []*push.Notification
	events  []push.Event
	oldest  int           // earlier events have expired
	news    chan struct{} // closed by the next event
	readers int
	query   push.Query // of the last search

	statsQuery push.StatsQuery // of the last call of Stats
}

var (
	_ api.Queue           = (*fakeStorage)(nil)
	_ api.History         = (*fakeStorage)(nil)
	_ idempotency.History = (*fakeStorage)(nil)
	_ idempotency.Queue   = (*fakeStorage)(nil)
)

// newTestAPIWithStorage returns an API with a fakeStorage.
func newTestAPIWithStorage(t testing.TB, change ...func(*testConfig)) (*testAPI, *fakeStorage) {
	store := &fakeStorage{news: make(chan struct{})}
	keys, err := idempotency.NewLog(t.Context(), idempotency.LogConfig{History: store, Queue: store})
	if err != nil {
		t.Fatal(err)
	}
	ts := newTestAPI(t, append([]func(*testConfig){func(cfg *testConfig) {
		store.Sender = cfg.Sender
		cfg.Sender, cfg.Queue, cfg.History, cfg.Idempotency = store, store, store, keys
	}}, change...)...)
	return ts, store
}

// Send sends n synchronously.
func (f *fakeStorage) Send(ctx context.Context, n *push.Call) *push.Receipt {
	f.addEvent(push.Event{ID: n.ID, App: n.App, Status: push.StatusQueued, KeyHash: n.KeyHash, BodyHash: n.BodyHash})
	r := f.Sender.Send(ctx, n)
	f.addResult(*r, n.App)
	return r
}

func (f *fakeStorage) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, f.Send)
}

// addResult records that a notification ended in r.
func (f *fakeStorage) addResult(r push.Receipt, app string) {
	f.addEvent(push.Event{ID: r.ID, App: app, Status: r.Status(), Receipt: &r})
}

func (f *fakeStorage) addEvent(e push.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.At, e.Cursor = time.Now(), strconv.Itoa(len(f.events)+1)
	f.events = append(f.events, e)
	close(f.news)
	f.news = make(chan struct{})
}

func (f *fakeStorage) Accept(_ context.Context, ns []*push.Notification) []error {
	errs := make([]error, len(ns))
	for i, n := range ns {
		if f.refuse != nil {
			if errs[i] = f.refuse(n); errs[i] != nil {
				continue
			}
		}
		f.mu.Lock()
		f.queued = append(f.queued, n)
		f.mu.Unlock()
		status := push.StatusQueued
		if n.SendAt.After(n.AcceptedAt) {
			status = push.StatusScheduled
		}
		f.addEvent(push.Event{ID: n.ID, App: n.App, Status: status, SendAt: n.SendAt, KeyHash: n.KeyHash, BodyHash: n.BodyHash})
	}
	return errs
}

func (f *fakeStorage) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queued)
}

func (f *fakeStorage) Cancel(ctx context.Context, app, id string) (push.Receipt, error) {
	r, _, err := f.Find(ctx, app, id)
	if err == nil && !r.IsFinal() && r.State != push.StatusSending {
		r.State = push.StatusCancelled
		f.addResult(r, app)
	}
	return r, err
}

func (f *fakeStorage) Find(_ context.Context, app, id string) (push.Receipt, []push.Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return push.Receipt{}, nil, f.err
	}
	var timeline []push.Event
	r := push.Receipt{ID: id}
	for _, e := range f.events {
		if e.ID != id || e.App != app {
			continue
		}
		timeline = append(timeline, e)
		if r.State = e.Status; e.Receipt != nil {
			r = *e.Receipt
		}
	}
	if timeline == nil {
		return r, nil, push.ErrNotFound
	}
	return r, timeline, nil
}

// Search returns one notification, or the error of the cursor.
func (f *fakeStorage) Search(_ context.Context, app string, q push.Query) (push.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.query = q
	switch q.Cursor {
	case "":
		now := time.Now()
		return push.Page{NextCursor: "2.0", Notifications: []push.Summary{{
			ID: "019b4c5d-77b0-7d3e-9a51-3f0e6b1c2d4a", Status: push.StatusRefused, Reason: "BadDeviceToken", Platform: push.APNs, Lane: push.LaneBulk,
			Tags: []string{app}, CreatedAt: now, UpdatedAt: now, SendAt: now, AttemptCount: 1,
		}}}, f.err
	case "1.0":
		return push.Page{}, push.ErrCursorExpired
	default:
		return push.Page{}, push.ErrInvalidCursor
	}
}

func (f *fakeStorage) Stats(_ context.Context, app string, q push.StatsQuery) (push.Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.statsQuery = q
	now, latency := time.Now().UTC(), &push.Latency{P50: 1, P95: 2, P99: 3.5}
	return push.Stats{Since: now, Until: now, Total: 3, Latency: latency, Counts: []push.Count{
		{Hour: now.Truncate(time.Hour), Status: push.StatusRefused, Reason: "BadDeviceToken", Platform: push.APNs, Count: 3, Latency: latency},
	}}, f.err
}

func (f *fakeStorage) Feed(ctx context.Context, app, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error] {
	return func(yield func(push.Event, error) bool) {
		if f.panicOnFeed {
			panic(canary)
		}
		f.mu.Lock()
		at, err := f.offset(after)
		f.readers++
		f.mu.Unlock()
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.readers--
		}()
		if err != nil {
			yield(push.Event{}, err)
			return
		}
		for ctx.Err() == nil {
			f.mu.Lock()
			events, news, err := slices.Clone(f.events[at:]), f.news, f.err
			f.mu.Unlock()
			for _, e := range events {
				at++
				if e.App == app && want(&e) && !yield(e, nil) {
					return
				}
				mark := push.Event{Cursor: e.Cursor}
				if e.App == app && !want(&e) && want(&mark) && !yield(mark, nil) {
					return
				}
			}
			if err != nil {
				yield(push.Event{}, err)
				return
			}
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
	}
}

// openFeeds returns the number of open feeds.
func (f *fakeStorage) openFeeds() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readers
}

func (f *fakeStorage) offset(after string) (int, error) {
	switch after {
	case "":
		return len(f.events), nil
	case "oldest":
		return f.oldest, nil
	}
	at, err := strconv.Atoi(after)
	switch {
	case err != nil || at > len(f.events):
		return 0, push.ErrInvalidCursor
	case at < f.oldest:
		return 0, push.ErrCursorExpired
	}
	return at, nil
}

// LastUse returns the last request with a key.
func (f *fakeStorage) LastUse(ctx context.Context, keyHash []byte) (*idempotency.Use, error) {
	f.mu.Lock()
	events, err := slices.Clone(f.events), f.err
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Backward(events) {
		if bytes.Equal(e.KeyHash, keyHash) {
			r, _, err := f.Find(ctx, e.App, e.ID)
			return &idempotency.Use{App: e.App, BodyHash: e.BodyHash, Receipt: r}, err
		}
	}
	return nil, nil
}

func (f *fakeStorage) WaitCaughtUp(context.Context) error { return nil }

func (f *fakeStorage) Append(_ context.Context, events ...push.Event) (jetstream.Offset, error) {
	for _, e := range events {
		f.addEvent(e)
	}
	return jetstream.Offset{}, nil
}

func (f *fakeStorage) AfterWrites(written func()) { written() }

// Confirm reports that a notification is in the queue.
func (f *fakeStorage) Confirm(context.Context, string) (bool, error) { return true, nil }

func (f *fakeStorage) AfterResolved(_ string, then func()) { then() }
