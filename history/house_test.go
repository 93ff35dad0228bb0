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

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/engine/enginetest"
	"github.com/sluice-push/sluice/history"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m).Run()) }

// house is an engine in a folder of its own, or in an account of its own on a cluster, with one history or several.
type house struct {
	*testing.T
	where  engine.Config
	engine *engine.Engine
	dir    string // of the index
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return newHouseAt(t, enginetest.Config(t, filepath.Join(t.TempDir(), "engine")))
}

func newHouseAt(t *testing.T, where engine.Config) *house {
	t.Helper()
	h := &house{T: t, where: where, dir: t.TempDir()}
	enginetest.Insist(t, where, func() (err error) {
		h.engine, err = engine.Open(t.Context(), where)
		return err
	})
	t.Cleanup(func() { _ = h.engine.Close() })
	return h
}

// running is a history that runs.
type running struct {
	*history.History
	*testing.T
	engine *engine.Engine
	stop   func()
}

// open opens the house's history and runs it until stop, or until the test ends.
func (h *house) open() *running { return h.openWith(history.Config{}) }

func (h *house) openWith(cfg history.Config) *running {
	h.Helper()
	cfg.Engine = h.engine
	if cfg.Dir == "" {
		cfg.Dir = h.dir
	}
	var opened *history.History
	enginetest.Insist(h, h.where, func() (err error) {
		opened, err = history.Open(h.Context(), cfg)
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- opened.Run(ctx) }()
	stopped := false
	r := &running{History: opened, T: h.T, engine: h.engine, stop: func() {
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

// append appends events and waits until they have been heard of.
func (r *running) append(events ...push.Event) engine.Place {
	r.Helper()
	at, err := r.Append(r.Context(), events...)
	if err != nil {
		r.Fatal(err)
	}
	if err := r.Reach(r.Context(), at.Seq); err != nil {
		r.Fatal(err)
	}
	return at
}

func (r *running) find(app, id string) (push.Receipt, []push.Event) {
	r.Helper()
	receipt, events, err := r.Find(r.Context(), app, id)
	if err != nil {
		r.Fatal(err)
	}
	return receipt, events
}

// noon is the instant of most events in the tests. It is close to the present, for retention and keys count from the wall clock.
var noon = time.Now().UTC().Truncate(time.Millisecond)

// id returns a new notification's name.
func id() string { return uuid.Must(uuid.NewV7()).String() }

func event(id string, status push.Status) push.Event {
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

// life is the events of one that was queued, sent and accepted.
func life(id string) []push.Event {
	return []push.Event{event(id, push.StatusQueued), event(id, push.StatusSending), event(id, push.StatusAccepted)}
}

// indexed waits until the index holds all that is in the stream.
func (r *running) indexed() {
	r.Helper()
	if err := r.Caught(r.Context()); err != nil {
		r.Fatal(err)
	}
	for r.Status().Behind > 0 {
		runtime.Gosched()
	}
}

func (r *running) state(id string) history.State {
	r.Helper()
	states, err := r.States(r.Context(), []string{id})
	if err != nil {
		r.Fatal(err)
	}
	return states[id]
}
