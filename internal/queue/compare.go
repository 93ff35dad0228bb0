// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// compare compares the tasks with the journal after records of the log were damaged. The journal may
// have read these records before. A notification whose task is damaged ends as unknown. A task whose
// last attempt is damaged is in doubt. No task is sent meanwhile.
func (q *Queue) compare(ctx context.Context) error {
	ids, err := q.cfg.Journal.Unfinished(ctx, q.cfg.Log.LastSeq())
	if err != nil {
		return err
	}
	var lost []string
	for _, id := range ids {
		found, err := q.compareTask(ctx, id.String())
		if err != nil {
			return err
		}
		if !found {
			lost = append(lost, id.String())
		}
	}
	return q.cfg.endAllMissing(ctx, lost)
}

// compareTask returns whether the notification has a task.
func (q *Queue) compareTask(ctx context.Context, id string) (found bool, err error) {
	task, err := q.find(ctx, id)
	if err != nil && !isDamaged(err) {
		return false, err
	}
	states, err := q.cfg.Journal.States(ctx, []string{id})
	if err != nil {
		return false, err
	}
	return q.setInDoubt(task, states[id]), nil
}

// setInDoubt applies the attempts in the journal to a task. It returns false if there is no such task.
func (q *Queue) setInDoubt(task jetstream.Offset, s State) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.table.find(task)
	if f == nil {
		return false
	}
	p := q.table.started[task]
	if s.Status == push.StatusSending && s.Attempt > p.attempts {
		p.attempts, p.writer = s.Attempt, nil
		q.table.started[task] = p
		q.table.setSending(f, task.Index, nil, true)
		q.table.setLater(f, task.Index, false)
	}
	return true
}
