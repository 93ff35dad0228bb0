// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// trimFraction is the part of the stream that Trim deletes at most.
const trimFraction = 8

// Trim deletes the oldest events to free disk space: an eighth of the stream, but none that were stored
// at the given time or later. It returns false if there is nothing to delete. The index follows.
func (h *History) Trim(ctx context.Context, before time.Time) (trimmed bool, err error) {
	info, err := h.cfg.Log.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("history: %w", err)
	}
	state := info.State
	if state.Msgs == 0 || !state.FirstTime.Before(before) {
		return false, nil
	}
	end := state.FirstSeq + (state.LastSeq-state.FirstSeq)/trimFraction + 1 // the first message that stays
	if end, err = h.firstSince(ctx, before, state.FirstSeq+1, end); err != nil {
		return false, err
	}
	return h.deleteBefore(ctx, end)
}

// firstSince returns the first message from one sequence on, and before another, that was stored at a
// time or later, or the other.
func (h *History) firstSince(ctx context.Context, since time.Time, from, end uint64) (uint64, error) {
	for from < end {
		middle := from + (end-from)/2
		at, err := h.storedAt(ctx, middle)
		if err != nil {
			return 0, err
		}
		if at.Before(since) {
			from = middle + 1
		} else {
			end = middle
		}
	}
	return end, nil
}

// storedAt returns when a message, or the next one after it, was stored. It returns the current time if
// there is none.
func (h *History) storedAt(ctx context.Context, seq uint64) (time.Time, error) {
	m, err := h.stream.GetMsg(ctx, seq, natsjs.WithGetMsgSubject(">"))
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("history: %w", err)
	}
	return m.Time, nil
}
