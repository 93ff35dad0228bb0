// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"encoding/json"
	"errors"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// reconcileWrite looks which of the tasks are safe after a write of which the engine could not tell. It waits until the engine can
// write again: by then what was under way is there, or never will be. So the caller's Idempotency-Key stays claimed until
// the truth is known, and a repeat of the call does not double what was kept. If ctx ends first nobody knows, and none
// counts as kept. before is the last chunk of each stream that came before the tasks.
func (q *Queue) reconcileWrite(ctx context.Context, tasks []*task, before [2]uint64) map[string]bool {
	kept, ids := map[string]bool{}, make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	look := func() error {
		if err := q.cfg.Engine.Ready(); errors.Is(err, jetstream.ErrUnwritable) {
			return err
		}
		for i, k := range []*streamHandle{q.tasks, q.scheduled} { // the way that a task goes that is put back
			if err := k.addIDsAfter(ctx, before[i], kept); err != nil {
				return err
			}
		}
		return q.addKnownIDs(ctx, ids, kept)
	}
	for look() != nil && sleep(ctx, retryInterval) {
	}
	return kept
}

// addKnownIDs adds the IDs that the journal knows: they have been worked on already.
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

// addIDsAfter adds the IDs of the tasks in the chunks behind seq.
func (k *streamHandle) addIDsAfter(ctx context.Context, seq uint64, ids map[string]bool) error {
	for {
		m, err := k.stream.GetMsg(ctx, seq+1, natsjs.WithGetMsgSubject(">"))
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		seq = m.Sequence
		for _, text := range jetstream.Items(m.Data) {
			var t struct {
				ID string `json:"id"`
			}
			if json.Unmarshal(text, &t) == nil {
				ids[t.ID] = true
			}
		}
	}
}
