// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// modelStates says which state a command leads to. Commands that are missing are not possible. What has
// started a recall, or needs an approval, is decided in model.next.
var modelStates = map[broadcast.State]map[broadcast.Command]broadcast.State{
	broadcast.Draft:      {broadcast.Validate: broadcast.Validating},
	broadcast.Validating: {broadcast.Validate: broadcast.Validating},
	broadcast.Ready: {broadcast.Validate: broadcast.Ready, broadcast.Approve: broadcast.Ready, broadcast.Start: broadcast.Running,
		broadcast.Cancel: broadcast.Cancelled},
	broadcast.Running: {broadcast.Start: broadcast.Running, broadcast.Resume: broadcast.Running, broadcast.Pause: broadcast.Paused,
		broadcast.Cancel: broadcast.Cancelled, broadcast.Recall: broadcast.Recalling},
	broadcast.Paused: {broadcast.Pause: broadcast.Paused, broadcast.Resume: broadcast.Running, broadcast.Cancel: broadcast.Cancelled,
		broadcast.Recall: broadcast.Recalling},
	broadcast.Recalling: {broadcast.Recall: broadcast.Recalling, broadcast.Resume: broadcast.Recalling, broadcast.Pause: broadcast.Paused},
	broadcast.Completed: {broadcast.Recall: broadcast.Recalling},
	broadcast.Cancelled: {broadcast.Cancel: broadcast.Cancelled, broadcast.Recall: broadcast.Recalling},
	broadcast.Recalled:  {broadcast.Recall: broadcast.Recalled},
}

// model is a broadcast that a test gives random commands. Validations and attempts wait until the test lets
// them go on, so that the model knows the state after each step.
type model struct {
	*testNode
	cfg    nodeConfig
	random *rand.Rand
	gate   gate // of validations
	log    []string

	id                         string
	state                      broadcast.State
	started, approved, recalls bool
	view                       *broadcast.View // after the last step
}

// gate holds callers of pass while it is closed.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil while it is open
}

func (g *gate) set(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
	}
	if g.closed = nil; closed {
		g.closed = make(chan struct{})
	}
}

func (g *gate) channel() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

func (g *gate) pass() {
	if c := g.channel(); c != nil {
		select {
		case <-c:
		case <-time.After(testwait.Bound):
		}
	}
}

const modelLines = 20

// TestCommandsFollowModel executes random commands, uploads, changes of the definition and restarts. After each
// one, the state is that of the model, and the counts add up to the audience. What is not possible changes nothing.
func TestCommandsFollowModel(t *testing.T) {
	seeds, steps := 3, 150
	if raceEnabled {
		seeds = 1
	}
	for range seeds {
		seed := rand.Uint64()
		m := &model{random: rand.New(rand.NewPCG(seed, 0)), cfg: nodeConfig{dir: t.TempDir(), sender: newFakeSender(), grace: time.Millisecond}}
		m.cfg.sender.(*fakeSender).answer = func(n *push.Notification) push.Outcome {
			return push.Outcome{Verdict: []push.Verdict{push.Accepted, push.Accepted, push.Unregistered, push.Unknown}[n.Token[len(n.Token)-1]%4]}
		}
		m.cfg.change = func(c *broadcast.Config) {
			check := c.Check
			c.ApproveAbove, c.Check = modelLines/2, func(n *push.Notification) error {
				m.gate.pass()
				return check(n)
			}
		}
		m.testNode = newTestNode(t, m.cfg)
		t.Cleanup(func() { m.hold(false) })
		m.hold(true)
		for range steps {
			m.step()
			if t.Failed() {
				t.Fatalf("seed %d: %s", seed, strings.Join(m.log, ", "))
			}
		}
		m.hold(false)
		m.settle()
		m.checkSent()
		m.stop()
	}
}

// hold holds validations and attempts, or lets them go on.
func (m *model) hold(on bool) {
	m.gate.set(on)
	s := m.cfg.sender.(*fakeSender)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold != nil {
		close(s.hold)
	}
	if s.hold = nil; on {
		s.hold = make(chan struct{})
	}
}

// step does one random thing.
func (m *model) step() {
	m.t.Helper()
	if m.id == "" || m.random.IntN(8) == 0 && m.view.State.IsFinal() && !m.view.FinishedAt.IsZero() {
		if m.id != "" {
			m.checkSent()
		}
		m.sender.mu.Lock()
		m.sender.sent = map[string]int{}
		m.sender.mu.Unlock()
		m.log = []string{"create"}
		m.id, m.state, m.started, m.approved, m.recalls = m.create(simple, lines(modelLines)), broadcast.Draft, false, false, false
		m.settle()
		return
	}
	switch n := m.random.IntN(20); n {
	case 0, 1:
		m.log = append(m.log, "restart")
		m.gate.set(false) // a validation cannot be interrupted
		m.stop()
		m.testNode = newTestNode(m.t, m.cfg)
		m.settle()
		m.gate.set(true)
	case 2, 3, 4:
		m.log = append(m.log, "go on")
		m.hold(false)
		m.settle()
		m.hold(true)
	case 5:
		m.change("upload", func(revision uint64) error {
			_, _, err := m.Upload(m.t.Context(), app, m.id, broadcast.UploadRequest{Format: audience.NDJSON, Replace: true, Revision: revision, Caller: "creator"}, strings.NewReader(lines(modelLines)))
			return err
		})
	case 6:
		m.change("replace", func(revision uint64) error {
			_, err := m.Replace(m.t.Context(), app, "creator", m.id, revision, definition(m.t, simple))
			return err
		})
	default:
		all := broadcast.Commands
		if n > 12 && len(m.view.Commands) > 0 {
			all = m.view.Commands
		}
		m.command(all[m.random.IntN(len(all))])
	}
}

// revision draws an expected revision, which is wrong if stale is set.
func (m *model) revision() (revision uint64, stale bool) {
	switch m.random.IntN(4) {
	case 0:
		return m.view.Revision, false
	case 1:
		return m.view.Revision - 1, true
	}
	return 0, false
}

// change uploads an audience, or replaces the definition.
func (m *model) change(what string, do func(revision uint64) error) {
	m.t.Helper()
	revision, stale := m.revision()
	m.log = append(m.log, fmt.Sprint(what, " while ", m.state))
	possible := m.state == broadcast.Draft || m.state == broadcast.Ready
	if m.checkError(do(revision), possible, stale) {
		m.state, m.approved = broadcast.Draft, false
	}
	m.settle()
}

// command executes a command.
func (m *model) command(c broadcast.Command) {
	m.t.Helper()
	revision, stale := m.revision()
	caller := []string{"creator", "starter"}[m.random.IntN(2)]
	next, possible := m.next(c, caller)
	m.log = append(m.log, fmt.Sprintf("%s by %s while %s", c, caller, m.state))
	_, err := m.Do(m.t.Context(), app, m.id, broadcast.CommandRequest{Command: c, Caller: caller, Revision: revision})
	before := m.view
	if !m.checkError(err, possible, stale) {
		next = m.state
	}
	repeated := next == m.state && !(c == broadcast.Approve && err == nil && !m.approved)
	if err == nil {
		m.approved = m.approved || c == broadcast.Approve
		m.started = m.started || next == broadcast.Running
		m.recalls = m.recalls || next == broadcast.Recalling
	}
	m.state = next
	m.settle()
	if (m.view.Revision == before.Revision) != repeated {
		m.t.Errorf("%s has changed the broadcast from revision %d to %d", c, before.Revision, m.view.Revision)
	}
}

// next returns the state that a command leads to, and whether it is possible.
func (m *model) next(c broadcast.Command, caller string) (broadcast.State, bool) {
	next, possible := modelStates[m.state][c]
	switch {
	case c == broadcast.Approve && m.approved, !possible:
	case c == broadcast.Approve:
		possible = caller != "creator"
	case c == broadcast.Start && m.state == broadcast.Ready:
		possible = m.approved
	case c == broadcast.Recall && m.state == broadcast.Cancelled:
		possible = m.started && !m.recalls
	case m.state == broadcast.Paused && m.recalls && c == broadcast.Resume:
		next = broadcast.Recalling
	case m.state == broadcast.Paused && m.recalls:
		possible = c == broadcast.Pause
	}
	return next, possible
}

// checkError checks the error of a request, and reports whether it had an effect.
func (m *model) checkError(err error, possible, stale bool) bool {
	m.t.Helper()
	conflict, isConflict := errors.AsType[*broadcast.ConflictError](err)
	switch {
	case stale:
		if !errors.Is(err, broadcast.ErrChanged) {
			m.t.Errorf("%v, want %v", err, broadcast.ErrChanged)
		}
	case possible:
		if err != nil {
			m.t.Errorf("%v", err)
		}
	case !isConflict || conflict.State != m.state:
		m.t.Errorf("%v, want a conflict while %s", err, m.state)
	}
	return err == nil
}

// settle waits until nothing changes any more without a command, and compares the broadcast with the model.
func (m *model) settle() {
	m.t.Helper()
	isHeld := m.gate.channel() != nil
	testwait.Until(m.t, func() bool {
		m.view = m.get(m.id)
		switch v := m.view; v.State {
		case broadcast.Validating:
			return isHeld
		case broadcast.Running:
			return v.Counts.Pending == 0 && m.isHeld(v.Counts)
		case broadcast.Recalling:
			return m.isHeld(v.Counts) || v.Counts.Queued == 0 && v.RecallCounts.Pending == 0 && m.isHeld(v.RecallCounts)
		case broadcast.Cancelled:
			return !v.FinishedAt.IsZero() || v.Counts != nil && m.isHeld(v.Counts)
		default:
			return !v.State.IsFinal() || !v.FinishedAt.IsZero()
		}
	}, "nothing changes")
	v, open := m.view, uint64(0)
	if v.Counts != nil {
		open = v.Counts.Queued
	}
	switch {
	case m.state == broadcast.Validating && v.State == broadcast.Ready && !isHeld:
		m.state = broadcast.Ready
	case m.state == broadcast.Running && open == 0:
		m.state = broadcast.Completed
	case m.state == broadcast.Recalling && open == 0 && v.RecallCounts != nil && v.RecallCounts.Pending+v.RecallCounts.Queued == 0:
		m.state = broadcast.Recalled
	}
	if v.State != m.state || v.InRecall != m.recalls || (v.ApprovedBy != "") != m.approved {
		m.t.Errorf("%s, in recall: %v, approved by %q, want %s, %v, %v", v.State, v.InRecall, v.ApprovedBy, m.state, m.recalls, m.approved)
	}
	m.checkCounts("message", v.Counts, modelLines)
	if v.RecallCounts != nil {
		m.checkCounts("recall", v.RecallCounts, v.Counts.Accepted+v.Counts.Unknown)
	}
}

// isHeld reports whether all notifications in the queue wait until the test lets them go on.
func (m *model) isHeld(c *broadcast.Counts) bool {
	m.sender.mu.Lock()
	defer m.sender.mu.Unlock()
	return c.Queued > 0 && c.Queued == m.sender.held
}

func (m *model) checkCounts(what string, c *broadcast.Counts, total uint64) {
	m.t.Helper()
	if c == nil {
		return
	}
	sum, by := c.Pending+c.Queued+c.Accepted+c.Unregistered+c.Unknown+c.Cancelled, c.Pending
	for _, row := range c.By {
		by += row.Count
	}
	if c.Total != total || sum != total || by != total {
		m.t.Errorf("%s: %+v, want %d in all", what, c, total)
	}
}

// checkSent compares what the sender has received with the results of a broadcast.
func (m *model) checkSent() {
	m.t.Helper()
	if m.view.Validation == nil {
		return
	}
	sent := m.sender.counted()
	for _, r := range m.results(m.id) {
		token := fmt.Sprintf("%06d", r.Line)
		message, recall := sent["Hello "+token], sent["Sorry "+token]
		arrived := r.Status == "accepted" || r.Status == "unknown"
		if message > 1 || recall > 1 || arrived && message == 0 || recall == 1 && !arrived || m.state == broadcast.Recalled && arrived && recall == 0 {
			m.t.Errorf("line %d is %s: %d messages and %d recalls", r.Line, r.Status, message, recall)
		}
	}
}
