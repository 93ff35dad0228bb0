// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { os.Exit(jetstreamtest.Main(m).Run()) }

// fixture is an engine with a directory for an index. A test can open several histories on it.
type fixture struct {
	*testing.T
	engineConfig jetstream.Config
	engine       *jetstream.Engine
	log          *jetstream.Log
	dir          string // of the index
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
	f.runLog()
	return f
}

// runLog opens the log and runs it until the test ends.
func (f *fixture) runLog() {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		f.log, err = history.OpenLog(f.Context(), f.engine, "")
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.log.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := testwait.For(f, ended, "the end of the log"); err != nil {
			f.Error(err)
		}
	})
}

// testHistory is a running history.
type testHistory struct {
	*history.History
	*testing.T
	engine *jetstream.Engine
	stop   func()
}

// open opens a history and runs it until stop is called or the test ends.
func (f *fixture) open() *testHistory { return f.openWith(history.Config{}) }

func (f *fixture) openWith(cfg history.Config) *testHistory {
	f.Helper()
	cfg.Engine, cfg.Log = f.engine, f.log
	if cfg.Dir == "" {
		cfg.Dir = f.dir
	}
	var opened *history.History
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		opened, err = history.Open(f.Context(), cfg)
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- opened.Run(ctx) }()
	stopped := false
	h := &testHistory{History: opened, T: f.T, engine: f.engine, stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := testwait.For(f, ended, "the end"); err != nil {
			f.Error(err)
		}
		if err := opened.Close(); err != nil {
			f.Error(err)
		}
	}}
	f.Cleanup(h.stop)
	return h
}

// appendEvents appends events.
func (h *testHistory) appendEvents(events ...push.Event) jetstream.Offset {
	h.Helper()
	at, err := h.Append(h.Context(), events...)
	if err != nil {
		h.Fatal(err)
	}
	return at
}

func (h *testHistory) find(app, id string) (push.Receipt, []push.Event) {
	h.Helper()
	receipt, events, err := h.Find(h.Context(), app, id)
	if err != nil {
		h.Fatal(err)
	}
	return receipt, events
}

// eventTime is the time of most events in the tests. It is recent, because keys and events expire.
var eventTime = time.Now().UTC().Truncate(time.Millisecond)

// newID returns the ID of a new notification.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

func newEvent(id string, status push.Status) push.Event {
	e := push.Event{ID: id, App: "shop", At: eventTime, Status: status, Platform: push.APNs}
	switch status {
	case push.StatusSending:
		e.Attempt = 1
	case push.StatusAccepted:
		e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Accepted}, Attempts: []push.Attempt{
			{Endpoint: "17.188.143.98:443", Started: eventTime, Took: 40 * time.Millisecond, Outcome: push.Outcome{Verdict: push.Accepted, HTTP: 200}},
		}}
	case push.StatusUnregistered:
		e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unregistered}}
		e.Target = &push.Target{Token: "unregistered"}
	}
	return e
}

// lifecycle returns the events of a notification that was queued, sent and accepted.
func lifecycle(id string) []push.Event {
	return []push.Event{newEvent(id, push.StatusQueued), newEvent(id, push.StatusSending), newEvent(id, push.StatusAccepted)}
}

// waitIndexed waits until all events of the stream are in the index.
func (h *testHistory) waitIndexed() {
	h.Helper()
	if err := h.WaitCaughtUp(h.Context()); err != nil {
		h.Fatal(err)
	}
	testwait.Until(h, func() bool { return h.Status().LagBatches == 0 }, "all events are in the index")
}

func (h *testHistory) state(id string) history.State {
	h.Helper()
	states, err := h.States(h.Context(), []string{id})
	if err != nil {
		h.Fatal(err)
	}
	return states[id]
}

// newKeyed returns a notification with an Idempotency-Key.
func newKeyed(key, body string) *push.Notification {
	return &push.Notification{ID: newID(), App: "shop", Platform: push.APNs, KeyHash: []byte(key), BodyHash: []byte(body)}
}

// keyedEvent returns an event of n with its key.
func keyedEvent(n *push.Notification, status push.Status) push.Event {
	e := newEvent(n.ID, status)
	e.KeyHash, e.BodyHash = n.KeyHash, n.BodyHash
	return e
}
