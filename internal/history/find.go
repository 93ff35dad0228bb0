// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// States returns the states of notifications; unknown ones are missing. Events that this gateway
// has appended count as the latest until they arrive from the stream. A caller that depends on
// their order, for instance between a cancellation and an attempt, calls WaitForSeq first.
func (h *History) States(ctx context.Context, ids []string) (map[string]State, error) {
	keys := make([]uuid.UUID, 0, len(ids))
	for _, id := range ids {
		if key, err := uuid.Parse(id); err == nil {
			keys = append(keys, key)
		}
	}
	found, err := h.lookup(ctx, keys)
	if err != nil {
		return nil, err
	}
	states := make(map[string]State, len(found))
	for id, s := range found {
		states[id.String()] = s.row.state
	}
	return states, nil
}

// snapshot is a row of the index with the uncommitted events of the notification.
type snapshot struct {
	row
	uncommitted []*eventHeader
	index       *index // of the row; an index that is being rebuilt may not have it
}

// lookup returns snapshots of notifications. It reads the overlay before the index: an event that
// is committed in between is then in both, and its offset shows that.
func (h *History) lookup(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*snapshot, error) {
	if h.entries != nil {
		return h.lookupLog(ctx, ids)
	}
	idx, err := h.currentIndex(ctx)
	if err != nil {
		return nil, err
	}
	for {
		overlays, lastSeq := h.overlay.lookup(ids)
		rows, err := idx.readFinder.load(ctx, ids)
		if err != nil {
			return nil, h.reportDamage(err)
		}
		if found, ok := mergeOverlay(ids, overlays, lastSeq, rows); ok {
			for _, s := range found {
				s.index = idx
			}
			return found, nil
		}
	}
}

// mergeOverlay merges events of the overlay, as of lastSeq, with rows that were read later. It
// returns false if an event that was pending in the overlay may already be in the row: a pending
// event has no offset.
func mergeOverlay(ids []uuid.UUID, overlays []uncommitted, lastSeq uint64, rows map[uuid.UUID]*row) (map[uuid.UUID]*snapshot, bool) {
	found := make(map[uuid.UUID]*snapshot, len(ids))
	for i, id := range ids {
		s := &snapshot{row: row{id: id}}
		if r, ok := rows[id]; ok {
			s.row = *r
		}
		if s.lastOffset.Seq > lastSeq && len(overlays[i].pending) > 0 {
			return nil, false
		}
		s.addUncommitted(overlays[i])
		if s.state.Status != "" {
			found[id] = s
		}
	}
	return found, true
}

func (s *snapshot) addUncommitted(u uncommitted) {
	for _, hdr := range u.received {
		if s.lastOffset.Before(hdr.offset) {
			s.uncommitted = append(s.uncommitted, hdr)
			s.apply(hdr)
		}
	}
	for _, hdr := range u.pending {
		s.uncommitted = append(s.uncommitted, hdr)
		s.state.apply(hdr)
		if s.app == "" {
			s.app, s.firstAt = hdr.app, hdr.at
		}
	}
}

// currentIndex waits until the index has caught up with the stream and returns it.
func (h *History) currentIndex(ctx context.Context) (*index, error) {
	for {
		idx := h.index.Load()
		if idx.caughtUp.Load() {
			return idx, nil
		}
		if err := h.WaitCaughtUp(ctx); err != nil {
			return nil, err
		}
		if idx == h.index.Load() {
			idx.caughtUp.Store(true)
		}
	}
}

// reportDamage wraps an error of the index. If the error means that the index is damaged, it
// triggers a rebuild.
func (h *History) reportDamage(err error) error {
	if isDamaged(err) {
		h.cfg.Logger.Warn("index damaged", "err", err)
		select {
		case h.damageFound <- struct{}{}:
		default:
		}
	}
	return fmt.Errorf("history: index: %w", err)
}

// Find returns the receipt and the events of an app's notification, oldest first. The latest events
// may not have a cursor yet, and old ones may be deleted. The error is push.ErrNotFound if the app
// has no such notification.
func (h *History) Find(ctx context.Context, app, id string) (push.Receipt, []push.Event, error) {
	key, err := uuid.Parse(id)
	if err != nil {
		return push.Receipt{}, nil, push.ErrNotFound
	}
	found, err := h.lookup(ctx, []uuid.UUID{key})
	if err != nil {
		return push.Receipt{}, nil, err
	}
	s, ok := found[key]
	if !ok || app != "" && s.app != app {
		return push.Receipt{}, nil, push.ErrNotFound
	}
	headers, err := h.timeline(ctx, s)
	if err != nil {
		return push.Receipt{}, nil, err
	}
	return buildReceipt(s, headers)
}

// Events returns the events of a notification of any app, as Find does. There are none if it is not
// found.
func (h *History) Events(ctx context.Context, id string) ([]push.Event, error) {
	_, events, err := h.Find(ctx, "", id)
	if errors.Is(err, push.ErrNotFound) {
		return nil, nil
	}
	return events, err
}

// Receipt returns the receipt of an app's notification; push.ErrNotFound if there is none.
func (h *History) Receipt(ctx context.Context, app, id string) (push.Receipt, error) {
	receipt, _, err := h.Find(ctx, app, id)
	return receipt, err
}

// timeline returns all events of a notification: those in the index, then the uncommitted ones.
func (h *History) timeline(ctx context.Context, s *snapshot) ([]*eventHeader, error) {
	seen := make(map[jetstream.Offset]bool, len(s.uncommitted))
	for _, hdr := range s.uncommitted {
		seen[hdr.offset] = true
	}
	messages, headers := map[uint64][][]byte{}, []*eventHeader{}
	for offset := range s.offsets() {
		if seen[offset] {
			continue
		}
		items, ok := messages[offset.Seq]
		if !ok {
			var err error
			if items, err = h.items(ctx, s.index, offset.Seq); err != nil {
				return nil, err
			}
			messages[offset.Seq] = items
		}
		if offset.Index >= len(items) {
			continue // deleted
		}
		hdr, err := newEventHeader(offset, items[offset.Index])
		if err != nil {
			return nil, h.reportDamage(errors.Join(errDamaged, err))
		}
		headers = append(headers, hdr)
	}
	return append(headers, s.uncommitted...), nil
}

// items returns the items of a message, or nil if it is deleted.
func (h *History) items(ctx context.Context, idx *index, seq uint64) ([][]byte, error) {
	var body []byte
	err := idx.readDB.QueryRowContext(ctx, "SELECT body FROM message WHERE seq = ?", int64(seq)).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, h.reportDamage(err)
	}
	var items [][]byte
	for _, item := range jetstream.Items(body) {
		items = append(items, item)
	}
	return items, nil
}

// buildReceipt returns the receipt that belongs to the state, and the decoded events.
func buildReceipt(s *snapshot, headers []*eventHeader) (receipt push.Receipt, events []push.Event, err error) {
	var state State
	for _, hdr := range headers {
		e, err := hdr.event()
		if err != nil {
			return push.Receipt{}, nil, err
		}
		events = append(events, e)
		if state.apply(hdr) && e.Receipt != nil {
			receipt = *e.Receipt
		}
	}
	receipt.ID = s.id.String()
	if receipt.Status() != s.state.Status {
		receipt.State = s.state.Status
	}
	return receipt, events, nil
}
