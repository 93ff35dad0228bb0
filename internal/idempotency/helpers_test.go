// SPDX-License-Identifier: Apache-2.0

package idempotency_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { os.Exit(jetstreamtest.Main(m).Run()) }

// fixture is an engine with a directory for the index of a history.
type fixture struct {
	*testing.T
	engineConfig jetstream.Config
	engine       *jetstream.Engine
	dir          string // of the index
	claimTTL     time.Duration
	queue        fullQueue
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureAt(t, jetstreamtest.Config(t, filepath.Join(t.TempDir(), "engine")))
}

func newFixtureAt(t *testing.T, engineConfig jetstream.Config) *fixture {
	t.Helper()
	f := &fixture{T: t, engineConfig: engineConfig, dir: t.TempDir()}
	jetstreamtest.Retry(t, engineConfig, func() (err error) {
		f.engine, err = jetstream.Open(t.Context(), engineConfig)
		return err
	})
	t.Cleanup(func() { _ = f.engine.Close() })
	return f
}

// keyHistory adapts a history to idempotency.History.
type keyHistory struct{ *history.History }

func (h keyHistory) LastUse(ctx context.Context, keyHash []byte) (*idempotency.Use, error) {
	use, err := h.History.LastUse(ctx, keyHash)
	return (*idempotency.Use)(use), err
}

// fullQueue is a queue that has every waiting notification.
type fullQueue struct{ unresolved chan func() } // receives what waits for a write without a response; nil without such a write

func (fullQueue) Confirm(context.Context, string) (bool, error) { return true, nil }

func (q fullQueue) AfterResolved(_ string, f func()) {
	if q.unresolved == nil {
		f()
	} else {
		q.unresolved <- f
	}
}

// testLog is a running Log with its history.
type testLog struct {
	*idempotency.Log
	*testing.T
	history *history.History
	log     *jetstream.Log
	engine  *jetstream.Engine
	stop    func()
}

// open opens a history and a Log, and runs them until stop is called or the test ends.
func (f *fixture) open() *testLog {
	f.Helper()
	l := &testLog{T: f.T, engine: f.engine}
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		if l.log, err = history.OpenLog(f.Context(), f.engine, ""); err != nil {
			return err
		}
		l.history, err = history.Open(f.Context(), history.Config{Engine: f.engine, Log: l.log, Dir: f.dir})
		return err
	})
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		l.Log, err = idempotency.NewLog(f.Context(), idempotency.LogConfig{
			Engine: f.engine, History: keyHistory{l.history}, Queue: f.queue, ClaimTTL: f.claimTTL,
		})
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	historyEnded, endHistory := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	go func() { ended <- l.history.Run(ctx) }()
	go func() { defer endHistory(); ended <- l.log.Run(ctx) }()
	go func() { ended <- l.Log.Run(historyEnded) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(testwait.For(f, ended, "the first end"), testwait.For(f, ended, "the second end"), testwait.For(f, ended, "the third end"), l.history.Close()); err != nil {
			f.Error(err)
		}
	})
	f.Cleanup(l.stop)
	return l
}

// appendEvents appends events.
func (l *testLog) appendEvents(events ...push.Event) {
	l.Helper()
	if _, err := l.history.Append(l.Context(), events...); err != nil {
		l.Fatal(err)
	}
}

func (l *testLog) find(id string) push.Receipt {
	l.Helper()
	receipt, _, err := l.history.Find(l.Context(), "shop", id)
	if err != nil {
		l.Fatal(err)
	}
	return receipt
}

func (l *testLog) claim(n *push.Notification) (release func(*push.Receipt), earlier push.Receipt) {
	l.Helper()
	release, earlier, err := l.Claim(l.Context(), n)
	if err != nil {
		l.Fatal(err)
	}
	return release, earlier
}

// claimWhenFree claims a key with a different body than the request before. In a cluster the release
// takes a moment.
func (f *fixture) claimWhenFree(l *testLog, n *push.Notification) (release func(*push.Receipt)) {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		release, _, err = l.Claim(f.Context(), n)
		return err
	})
	return release
}

// newID returns the ID of a new notification.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// newKeyed returns a notification with an Idempotency-Key.
func newKeyed(key, body string) *push.Notification {
	return &push.Notification{ID: newID(), App: "shop", Platform: push.APNs, KeyHash: []byte(key), BodyHash: []byte(body)}
}

// keyedEvent returns an event of n with its key.
func keyedEvent(n *push.Notification, status push.Status) push.Event {
	e := push.Event{ID: n.ID, App: "shop", At: time.Now(), Status: status, Platform: push.APNs, KeyHash: n.KeyHash, BodyHash: n.BodyHash}
	switch status {
	case push.StatusSending:
		e.Attempt = 1
	case push.StatusAccepted:
		e.Receipt = newReceipt(n, push.Accepted, push.Accepted)
	case push.StatusExpired:
		e.Receipt = newReceipt(n, push.Expired)
	}
	return e
}

// newReceipt returns the receipt of a notification that ended after attempts with these verdicts.
func newReceipt(n *push.Notification, verdict push.Verdict, attempts ...push.Verdict) *push.Receipt {
	r := &push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: verdict}}
	for _, v := range attempts {
		r.Attempts = append(r.Attempts, push.Attempt{Endpoint: "17.188.143.98:443", Outcome: push.Outcome{Verdict: v}})
	}
	return r
}

// fakeHistory is a history in memory that keeps keys for a day.
type fakeHistory struct {
	mu     sync.Mutex
	events []push.Event
}

func (f *fakeHistory) LastUse(_ context.Context, keyHash []byte) (use *idempotency.Use, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var id string
	for _, e := range f.events {
		if bytes.Equal(e.KeyHash, keyHash) && time.Since(e.At) <= 24*time.Hour {
			id, use = e.ID, &idempotency.Use{App: e.App, BodyHash: e.BodyHash}
		}
	}
	for _, e := range f.events {
		if e.ID != id {
			continue
		}
		use.Receipt = push.Receipt{ID: id, State: e.Status}
		if e.Receipt != nil {
			use.Receipt = *e.Receipt
		}
		use.Sending = e.Status == push.StatusSending
	}
	return use, nil
}

func (f *fakeHistory) WaitCaughtUp(context.Context) error { return nil }

func (f *fakeHistory) Append(_ context.Context, events ...push.Event) (jetstream.Offset, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, events...)
	return jetstream.Offset{}, nil
}

func (f *fakeHistory) AfterWrites(written func()) { written() }
