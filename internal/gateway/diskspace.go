// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
)

const (
	diskCheckInterval = time.Second
	// recentHistory is the part of the history that is never deleted for disk space: the attempts in
	// flight are in it.
	recentHistory = 5 * time.Minute
)

// trimHistory deletes the oldest events while the disk is too full for new notifications, until ctx ends.
// It keeps those that Idempotency-Keys need (idempotencyTTL) or, when even the reserve for accepted
// notifications is in use, the recent ones. The log keeps those since the oldest task in the queue was
// stored.
func (st *storage) trimHistory(ctx context.Context) error {
	ticker := time.NewTicker(diskCheckInterval)
	defer ticker.Stop()
	for trimming := false; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		keep := st.idempotencyTTL
		switch err := st.Queue.Ready(); {
		case !errors.Is(err, jetstream.ErrFull):
			trimming = false
			continue
		case st.engine.UsesReserve():
			keep = recentHistory
		}
		before := time.Now().Add(-keep)
		trimmed, err := st.Trim(ctx, before)
		switch {
		case err != nil && ctx.Err() == nil:
			st.log.Warn("cannot delete the oldest events to free disk space", "err", err)
		case trimmed && !trimming:
			trimming = true
			st.trims.Add(1)
			st.log.Warn("disk nearly full; deleting the oldest events (lower history.max_bytes)", "kept_since", before.UTC().Format(time.RFC3339))
		}
	}
}
