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
	"github.com/sluice-push/sluice/push"
)

// fakeStorage is a queue and a history in memory, and the sender of a gateway that has them: it notes what is sent at once.
type fakeStorage struct {
	api.Sender
	refuse func(n *push.Notification) error // nil keeps all
	err    error                            // of the history's

	mu      sync.Mutex
	kept    []*push.Notification
	events  []push.Event
	oldest  int           // events before it are forgotten
	news    chan struct{} // closed with the next event
	keys    map[string]*claim
	readers int
}

// claim is a call with a key.
type claim struct {
	id   string
	body []byte
	done chan struct{}
}

var (
	_ api.Queue   = (*fakeStorage)(nil)
	_ api.History = (*fakeStorage)(nil)
)

// newTestAPIWithStorage opens a door with an archive behind it.
func newTestAPIWithStorage(t testing.TB, change ...func(*api.Config)) (*testAPI, *fakeStorage) {
	a := &fakeStorage{news: make(chan struct{}), keys: map[string]*claim{}}
	d := newTestAPI(t, append([]func(*api.Config){func(cfg *api.Config) {
		a.Sender = cfg.Sender
		cfg.Sender, cfg.Queue, cfg.History = a, a, a
	}}, change...)...)
	return d, a
}

// Send sends n at once.
func (a *fakeStorage) Send(ctx context.Context, n *push.Notification) push.Receipt {
	a.addEvent(push.Event{ID: n.ID, App: n.App, Status: push.StatusQueued, KeyHash: n.KeyHash, BodyHash: n.BodyHash})
	r := a.Sender.Send(ctx, n)
	a.addResult(r, n.App)
	return r
}

// addResult tells that a notification has come to r.
func (a *fakeStorage) addResult(r push.Receipt, app string) {
	a.addEvent(push.Event{ID: r.ID, App: app, Status: r.Status(), Receipt: &r})
}

func (a *fakeStorage) addEvent(e push.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.At, e.Cursor = time.Now(), strconv.Itoa(len(a.events)+1)
	a.events = append(a.events, e)
	close(a.news)
	a.news = make(chan struct{})
}

func (a *fakeStorage) Accept(_ context.Context, ns []*push.Notification) []error {
	errs := make([]error, len(ns))
	for i, n := range ns {
		if a.refuse != nil {
			if errs[i] = a.refuse(n); errs[i] != nil {
				continue
			}
		}
		a.mu.Lock()
		a.kept = append(a.kept, n)
		a.mu.Unlock()
		status := push.StatusQueued
		if n.SendAt.After(n.AcceptedAt) {
			status = push.StatusScheduled
		}
		a.addEvent(push.Event{ID: n.ID, App: n.App, Status: status, SendAt: n.SendAt, KeyHash: n.KeyHash, BodyHash: n.BodyHash})
	}
	return errs
}

func (a *fakeStorage) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.kept)
}

func (a *fakeStorage) Cancel(ctx context.Context, app, id string) (push.Receipt, error) {
	r, _, err := a.Find(ctx, app, id)
	if err == nil && !r.IsFinal() && r.State != push.StatusSending {
		r.State = push.StatusCancelled
		a.addResult(r, app)
	}
	return r, err
}

func (a *fakeStorage) Find(_ context.Context, app, id string) (push.Receipt, []push.Event, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return push.Receipt{}, nil, a.err
	}
	var timeline []push.Event
	r := push.Receipt{ID: id}
	for _, e := range a.events {
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

func (a *fakeStorage) Feed(ctx context.Context, app, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error] {
	return func(yield func(push.Event, error) bool) {
		a.mu.Lock()
		at, err := a.offset(after)
		a.readers++
		a.mu.Unlock()
		defer func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.readers--
		}()
		if err != nil {
			yield(push.Event{}, err)
			return
		}
		for ctx.Err() == nil {
			a.mu.Lock()
			events, news, trouble := slices.Clone(a.events[at:]), a.news, a.err
			a.mu.Unlock()
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
			if trouble != nil {
				yield(push.Event{}, trouble)
				return
			}
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
	}
}

// openFeeds is how many feeds are being read.
func (a *fakeStorage) openFeeds() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.readers
}

func (a *fakeStorage) offset(after string) (int, error) {
	switch after {
	case "":
		return len(a.events), nil
	case "oldest":
		return a.oldest, nil
	}
	at, err := strconv.Atoi(after)
	switch {
	case err != nil || at > len(a.events):
		return 0, push.ErrInvalidCursor
	case at < a.oldest:
		return 0, push.ErrCursorExpired
	}
	return at, nil
}

func (a *fakeStorage) Claim(ctx context.Context, n *push.Notification, stands func(*push.Receipt) bool) (func(), push.Receipt, error) {
	for {
		mine := &claim{id: n.ID, body: n.BodyHash, done: make(chan struct{})}
		a.mu.Lock()
		held := a.keys[string(n.KeyHash)]
		if held == nil {
			a.keys[string(n.KeyHash)] = mine
		}
		trouble := a.err
		a.mu.Unlock()
		if trouble != nil {
			return nil, push.Receipt{}, trouble
		}
		if held == nil {
			if r, body, found := a.lastCall(ctx, n); found && stands(&r) {
				a.release(mine, n)
				if !bytes.Equal(body, n.BodyHash) {
					return nil, r, push.ErrKeyReused
				}
				return nil, r, nil
			}
			return func() { a.release(mine, n) }, push.Receipt{}, nil
		}
		if !bytes.Equal(held.body, n.BodyHash) {
			return nil, push.Receipt{}, push.ErrKeyReused
		}
		select {
		case <-held.done:
		case <-ctx.Done():
			return nil, push.Receipt{}, push.ErrKeyInUse
		}
	}
}

func (a *fakeStorage) release(c *claim, n *push.Notification) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.keys, string(n.KeyHash))
	close(c.done)
}

// lastCall is what the last call with n's key has come to.
func (a *fakeStorage) lastCall(ctx context.Context, n *push.Notification) (r push.Receipt, body []byte, found bool) {
	a.mu.Lock()
	events := slices.Clone(a.events)
	a.mu.Unlock()
	for _, e := range slices.Backward(events) {
		if bytes.Equal(e.KeyHash, n.KeyHash) {
			r, _, err := a.Find(ctx, e.App, e.ID)
			return r, e.BodyHash, err == nil
		}
	}
	return r, nil, false
}
