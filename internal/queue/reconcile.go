// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"encoding/json"
	"errors"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// reconcileWrite finds out which tasks were persisted after a write whose result is unknown, and
// returns their IDs. It waits until the engine is writable: by then a write in progress has either
// happened or will not happen. The caller's Idempotency-Key stays claimed during that time, so a
// repeated call does not store a task twice. If ctx ends first, no task counts as persisted. before
// is the last sequence of each stream before the write.
func (q *Queue) reconcileWrite(ctx context.Context, tasks []*task, before [2]uint64) map[string]bool {
	persisted, ids := map[string]bool{}, make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	check := func() error {
		if err := q.cfg.Engine.Ready(); errors.Is(err, jetstream.ErrUnwritable) {
			return err
		}
		// In this order, because a task may move from the first stream to the second.
		for i, handle := range []*streamHandle{q.tasks, q.scheduled} {
			if err := handle.addIDsAfter(ctx, before[i], persisted); err != nil {
				return err
			}
		}
		return q.addKnownIDs(ctx, ids, persisted)
	}
	for check() != nil && sleep(ctx, retryInterval) {
	}
	return persisted
}

// addKnownIDs adds the IDs that are in the journal: a consumer has already processed them.
func (q *Queue) addKnownIDs(ctx context.Context, ids []string, known map[string]bool) error {
	if err := q.cfg.Journal.WaitCaughtUp(ctx); err != nil {
		return err
	}
	states, err := q.cfg.Journal.States(ctx, ids)
	for id, s := range states {
		known[id] = known[id] || s.Status != ""
	}
	return err
}

// addIDsAfter adds the IDs of the tasks in messages after seq.
func (s *streamHandle) addIDsAfter(ctx context.Context, seq uint64, ids map[string]bool) error {
	for {
		m, err := s.stream.GetMsg(ctx, seq+1, natsjs.WithGetMsgSubject(">"))
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		seq = m.Sequence
		for _, data := range jetstream.Items(m.Data) {
			var t struct {
				ID string `json:"id"`
			}
			if json.Unmarshal(data, &t) == nil {
				ids[t.ID] = true
			}
		}
	}
}
