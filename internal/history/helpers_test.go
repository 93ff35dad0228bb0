// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { os.Exit(jetstreamtest.Main(m).Run()) }

// fixture is an engine in a folder of its own, or in an account of its own on a cluster, with one history or several.
type fixture struct {
	*testing.T
	engineConfig jetstream.Config
	engine       *jetstream.Engine
	dir          string // of the index
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureAt(t, jetstreamtest.Config(t, filepath.Join(t.TempDir(), "engine")))
}

func newFixtureAt(t *testing.T, where jetstream.Config) *fixture {
	t.Helper()
	h := &fixture{T: t, engineConfig: where, dir: t.TempDir()}
	jetstreamtest.Retry(t, where, func() (err error) {
		h.engine, err = jetstream.Open(t.Context(), where)
		return err
	})
	t.Cleanup(func() { _ = h.engine.Close() })
	return h
}

// testHistory is a history that runs.
type testHistory struct {
	*history.History
	*testing.T
	engine *jetstream.Engine
	stop   func()
}

// open opens the house's history and runs it until stop, or until the test ends.
func (h *fixture) open() *testHistory { return h.openWith(history.Config{}) }

func (h *fixture) openWith(cfg history.Config) *testHistory {
	h.Helper()
	cfg.Engine = h.engine
	if cfg.Dir == "" {
		cfg.Dir = h.dir
	}
	var opened *history.History
	jetstreamtest.Retry(h, h.engineConfig, func() (err error) {
		opened, err = history.Open(h.Context(), cfg)
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- opened.Run(ctx) }()
	stopped := false
	r := &testHistory{History: opened, T: h.T, engine: h.engine, stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			h.Error(err)
		}
		if err := opened.Close(); err != nil {
			h.Error(err)
		}
	}}
	h.Cleanup(r.stop)
	return r
}

// appendEvents appends events and waits until they have been heard of.
func (r *testHistory) appendEvents(events ...push.Event) jetstream.Offset {
	r.Helper()
	at, err := r.Append(r.Context(), events...)
	if err != nil {
		r.Fatal(err)
	}
	if err := r.WaitForSeq(r.Context(), at.Seq); err != nil {
		r.Fatal(err)
	}
	return at
}

func (r *testHistory) find(app, id string) (push.Receipt, []push.Event) {
	r.Helper()
	receipt, events, err := r.Find(r.Context(), app, id)
	if err != nil {
		r.Fatal(err)
	}
	return receipt, events
}

// noon is the instant of most events in the tests. It is close to the present, for retention and keys count from the wall clock.
var noon = time.Now().UTC().Truncate(time.Millisecond)

// newID returns a new notification's name.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

func newEvent(id string, status push.Status) push.Event {
	e := push.Event{ID: id, App: "shop", At: noon, Status: status, Platform: push.APNs}
	switch status {
	case push.StatusSending:
		e.Attempt = 1
	case push.StatusAccepted:
		e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Accepted}, Attempts: []push.Attempt{
			{Endpoint: "17.188.143.98:443", Started: noon, Took: 40 * time.Millisecond, Outcome: push.Outcome{Verdict: push.Accepted, HTTP: 200}},
		}}
	case push.StatusUnregistered:
		e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unregistered}}
		e.Target = &push.Target{Token: "dead"}
	}
	return e
}

// lifecycle is the events of one that was queued, sent and accepted.
func lifecycle(id string) []push.Event {
	return []push.Event{newEvent(id, push.StatusQueued), newEvent(id, push.StatusSending), newEvent(id, push.StatusAccepted)}
}

// waitIndexed waits until the index holds all that is in the stream.
func (r *testHistory) waitIndexed() {
	r.Helper()
	if err := r.WaitCaughtUp(r.Context()); err != nil {
		r.Fatal(err)
	}
	for r.Status().Behind > 0 {
		runtime.Gosched()
	}
}

func (r *testHistory) state(id string) history.State {
	r.Helper()
	states, err := r.States(r.Context(), []string{id})
	if err != nil {
		r.Fatal(err)
	}
	return states[id]
}
