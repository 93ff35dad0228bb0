// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	logrecord "github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// Line is what the log says about the notification of a line of a broadcast.
type Line struct {
	push.BroadcastLine
	Platform push.Platform
	// Status and Reason are those of its first valid end. Without an end, Status is queued.
	Status push.Status
	Reason string
	// Twice is set if it has two different ends, and Lost if it has neither an end nor a task.
	Twice, Lost bool
}

// Broadcast reads the notifications of a broadcast from the stream of events as Run does, and calls f with
// each, in no particular order. started is false if the stream does not have the start of the broadcast, so
// that notifications may be missing.
func Broadcast(ctx context.Context, e *jetstream.Engine, cfg Config, id uuid.UUID, f func(Line)) (started bool, err error) {
	s, err := openStore(ctx)
	if err != nil {
		return false, fmt.Errorf("audit: %w", err)
	}
	of := &broadcast{id: id}
	a := &auditor{cfg: cfg, engine: e, js: e.JetStream(), store: s, seed: maphash.MakeSeed(), controls: controls{}, of: of}
	if err = errors.Join(a.readLines(ctx, f), s.close()); err != nil {
		return false, fmt.Errorf("audit: %w", err)
	}
	return of.started, nil
}

// readLines calls f with each notification.
func (a *auditor) readLines(ctx context.Context, f func(Line)) error {
	if _, err := a.readEvents(ctx, 0, false); err != nil {
		return err
	}
	var n *notification
	report := func() {
		if n == nil {
			return
		}
		l := Line{Platform: n.first.Platform, Status: push.StatusQueued, Twice: n.ends > 1, Lost: n.ends == 0 && !n.queued || n.lost}
		l.BroadcastLine, _ = push.ParseBroadcastLine(n.first.ID)
		if n.valid != nil {
			l.Status, l.Reason = n.valid.Status, n.valid.reason
		}
		f(l)
	}
	for r, err := range a.store.records(ctx) {
		if err != nil {
			return err
		}
		if n == nil || n.first.ID != r.ID {
			report()
			n = &notification{first: r}
		}
		n.apply(r)
	}
	report()
	return nil
}

// broadcast restricts an audit to the notifications of a broadcast. A nil broadcast restricts nothing.
type broadcast struct {
	id      uuid.UUID
	started bool // the log has its first control record
}

func (b *broadcast) includes(item []byte) bool {
	if b == nil {
		return true
	}
	if !logrecord.IsRecord(item) {
		return false
	}
	id, _ := logrecord.ID(item)
	l, ok := push.ParseBroadcastLine(id)
	return id == b.id || ok && l.Broadcast == b.id
}

// The statuses of control records that have a meaning here.
const (
	statusStarted   = "broadcast.started"
	statusRunning   = "broadcast.running"
	statusRecalling = "broadcast.recalling"
)

func (b *broadcast) applyControl(item []byte) {
	if b == nil {
		return
	}
	h, err := logrecord.ParseHeader(item)
	b.started = b.started || err == nil && h.Status == statusStarted
}

// controls are the last control records of broadcasts. They decide whether attempts are valid.
type controls map[uuid.UUID]control

type control struct {
	status   push.Status
	revision int
}

func (c controls) apply(item []byte) error {
	h, err := logrecord.ParseHeader(item)
	if err == nil && h.Reschedules >= c[h.ID].revision && h.Status != statusStarted {
		c[h.ID] = control{h.Status, h.Reschedules}
	}
	return err
}

// hold reports whether no attempt at a notification may start.
func (c controls) hold(id uuid.UUID) bool {
	if len(c) == 0 {
		return false
	}
	l, ok := push.ParseBroadcastLine(id)
	last, known := c[l.Broadcast]
	if !ok || !known {
		return false
	}
	if l.Recall {
		return last.status != statusRecalling
	}
	return last.status != statusRunning
}
