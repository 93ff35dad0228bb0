// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Cancel cancels a notification that is queued or scheduled, and returns its receipt. The receipt
// is not cancelled if another event, such as an attempt, came first in the journal. The error is
// push.ErrNotFound if the app has no such notification; after any other error it may or may not be
// cancelled.
func (q *clusterQueue) Cancel(ctx context.Context, app, id string) (push.Receipt, error) {
	receipt, err := q.cfg.Journal.Receipt(ctx, app, id)
	if errors.Is(err, push.ErrNotFound) { // another gateway may have accepted it recently
		if err := q.cfg.Journal.WaitCaughtUp(ctx); err != nil {
			return push.Receipt{}, fmt.Errorf("queue: %w", err)
		}
		receipt, err = q.cfg.Journal.Receipt(ctx, app, id)
	}
	if err != nil || !isWaiting(receipt.Status()) {
		return receipt, err
	}
	events, err := q.cfg.Journal.Events(ctx, id)
	if err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	cancelled := push.Receipt{ID: id, State: push.StatusCancelled, Attempts: receipt.Attempts}
	offset, err := q.cfg.Journal.Append(ctx, push.Event{
		ID: id, App: app, At: time.Now().UTC(), Status: push.StatusCancelled, Tags: tagsOf(events), Receipt: &cancelled,
	})
	if err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	if err := q.cfg.Journal.WaitForSeq(ctx, offset.Seq); err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	return q.cfg.Journal.Receipt(ctx, app, id)
}
