// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/tally"
)

// States are all states.
var States = []State{Draft, Validating, Ready, Running, Paused, Recalling, Completed, Cancelled, Recalled, Expired}

// The values of Broadcast.PauseReason: the command, or the limit of PauseIf that was exceeded.
const (
	pausedByCommand    = "command"
	pausedRefused      = "refused"
	pausedUnregistered = "unregistered"
)

// AutoPauseReasons are why PauseIf pauses a broadcast.
var AutoPauseReasons = []string{pausedRefused, pausedUnregistered}

// Status is the state of the broadcasts of an app, at most a second old.
type Status struct {
	App string
	// States are the numbers of broadcasts by state.
	States map[State]uint64
	// AutoPaused are the numbers of broadcasts that PauseIf has paused, by reason.
	AutoPaused map[string]uint64
	// Pending lines are not enqueued yet. Their broadcasts are running, paused or recalling.
	Pending uint64
	// Due lines are those of Pending that could be enqueued now, and Delayed are the broadcasts whose last
	// step has failed: of the broadcasts that this gateway works on. Enqueued is how many notifications it
	// has enqueued since its start.
	Due, Delayed, Enqueued uint64
}

// worker is the work on a broadcast.
type worker struct {
	app     string
	changed chan struct{} // receives a value when the broadcast has changed
	due     atomic.Uint64
	delayed atomic.Bool
}

// Status returns the state of the broadcasts of all apps that have any. It reads nothing from the storage.
func (m *Manager) Status() (all []Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.counted {
		s.Enqueued = m.enqueued[s.App]
		for _, w := range m.running {
			if w.app != s.App {
				continue
			}
			s.Due += w.due.Load()
			if w.delayed.Load() {
				s.Delayed++
			}
		}
		all = append(all, *s)
	}
	return all
}

// observe counts the broadcasts for Status, and measures their rates.
func (m *Manager) observe(all []*document) {
	counted := map[string]*Status{}
	for _, b := range all {
		if b.Deleted {
			continue
		}
		s := counted[b.App]
		if s == nil {
			s = &Status{App: b.App, States: map[State]uint64{}, AutoPaused: map[string]uint64{}}
			counted[b.App] = s
		}
		s.States[b.State]++
		if b.State == Paused && b.PauseReason != pausedByCommand {
			s.AutoPaused[b.PauseReason]++
		}
		s.Pending += m.measure(b)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counted = counted
}

// measure adds a sample for the rate of a broadcast, and returns how many lines are not enqueued.
func (m *Manager) measure(b *document) (pending uint64) {
	phase := tally.Send
	if b.InRecall {
		phase = tally.Recall
	}
	sends := b.State == Running || b.State == Recalling
	if !sends {
		m.rates.forget(b.ID)
	}
	if !sends && b.State != Paused {
		return 0
	}
	m.cfg.Queue.ReadTally(b.uuid(), func(t *tally.Tally) {
		if t == nil {
			return
		}
		if sends {
			m.rates.add(b.ID, t.Enqueued(phase)-uint64(t.Open(phase)), time.Now())
		}
		total := b.Validation.Valid
		if b.InRecall {
			total = t.Reached().GetCardinality()
		}
		pending = total - min(total, t.Enqueued(phase))
	})
	return pending
}

// countEnqueued adds notifications that were enqueued.
func (m *Manager) countEnqueued(app string, n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enqueued[app] += n
}
