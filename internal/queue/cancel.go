// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Cancel ends a notification that waits. The receipt tells how it stands then: cancelled, or what came first in the
// journal, which decides. The error is push.ErrNotFound, or one after which nobody can tell.
func (q *Queue) Cancel(ctx context.Context, app, id string) (push.Receipt, error) {
	receipt, err := q.cfg.Journal.Receipt(ctx, app, id)
	if errors.Is(err, push.ErrNotFound) { // another gateway may have accepted it a moment ago
		if err := q.cfg.Journal.WaitCaughtUp(ctx); err != nil {
			return push.Receipt{}, fmt.Errorf("queue: %w", err)
		}
		receipt, err = q.cfg.Journal.Receipt(ctx, app, id)
	}
	if err != nil || !isWaiting(receipt.Status()) {
		return receipt, err
	}
	cancelled := push.Receipt{ID: id, State: push.StatusCancelled, Attempts: receipt.Attempts}
	place, err := q.cfg.Journal.Append(ctx, push.Event{
		ID: id, App: app, At: time.Now().UTC(), Status: push.StatusCancelled, Receipt: &cancelled,
	})
	if err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	if err := q.cfg.Journal.WaitForSeq(ctx, place.Seq); err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	return q.cfg.Journal.Receipt(ctx, app, id)
}
