// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// States returns where the notifications stand; those that nobody has heard of are missing. What this gateway has appended
// counts as the latest until the stream has told it: who decides by an order, such as between a cancel and an attempt, calls
// Reach first.
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

// snapshot is a row with what is not in the index yet.
type snapshot struct {
	row
	uncommitted []*eventHeader
	index       *index // that the row is of; one that is being made anew knows nothing of it yet
}

// lookup returns how the notifications stand, overlay and index together. It looks at the overlay first: what is committed
// in between is in both then, and its place tells.
func (h *History) lookup(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*snapshot, error) {
	idx, err := h.currentIndex(ctx)
	if err != nil {
		return nil, err
	}
	for {
		all, seen := h.overlay.lookup(ids)
		rows, err := idx.readFinder.load(ctx, ids)
		if err != nil {
			return nil, h.reportDamage(err)
		}
		if found, ok := mergeOverlay(ids, all, seen, rows); ok {
			for _, s := range found {
				s.index = idx
			}
			return found, nil
		}
	}
}

// mergeOverlay joins what the overlay had when it had seen so much with what the index had after that. It fails where the index
// may hold already, under a place, what was ours alone in the overlay.
func mergeOverlay(ids []uuid.UUID, all []uncommitted, seen uint64, rows map[uuid.UUID]*row) (map[uuid.UUID]*snapshot, bool) {
	found := make(map[uuid.UUID]*snapshot, len(ids))
	for i, id := range ids {
		s := &snapshot{row: row{id: id}}
		if r, ok := rows[id]; ok {
			s.row = *r
		}
		if s.lastOffset.Seq > seen && len(all[i].pending) > 0 {
			return nil, false
		}
		s.addUncommitted(all[i])
		if s.state.Status != "" {
			found[id] = s
		}
	}
	return found, true
}

func (s *snapshot) addUncommitted(f uncommitted) {
	for _, next := range f.received {
		if s.lastOffset.Before(next.offset) {
			s.uncommitted = append(s.uncommitted, next)
			s.apply(next)
		}
	}
	for _, next := range f.pending {
		s.uncommitted = append(s.uncommitted, next)
		s.state.apply(next)
		if s.app == "" {
			s.app, s.firstAt = next.app, next.at
		}
	}
}

// currentIndex returns the index once it has come up with the stream: one that is being made must not be asked.
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

// reportDamage takes note of damage that a reader has met, so that the index is made anew.
func (h *History) reportDamage(err error) error {
	if isDamaged(err) {
		h.cfg.Logger.Warn("history: the index is damaged", "err", err)
		select {
		case h.damageFound <- struct{}{}:
		default:
		}
	}
	return fmt.Errorf("history: the index: %w", err)
}

// Find returns how an app's notification stands, and its events, oldest first, as far as they are kept; the last ones may
// have no cursor yet. push.ErrNotFound if there are none.
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
	if !ok || s.app != app {
		return push.Receipt{}, nil, push.ErrNotFound
	}
	steps, err := h.timeline(ctx, s)
	if err != nil {
		return push.Receipt{}, nil, err
	}
	return buildReceipt(s, steps)
}

// Receipt returns how an app's notification stands; push.ErrNotFound if there is none.
func (h *History) Receipt(ctx context.Context, app, id string) (push.Receipt, error) {
	receipt, _, err := h.Find(ctx, app, id)
	return receipt, err
}

// timeline returns all steps of a notification: those in the index, then the fresh ones.
func (h *History) timeline(ctx context.Context, s *snapshot) ([]*eventHeader, error) {
	known := make(map[jetstream.Offset]bool, len(s.uncommitted))
	for _, f := range s.uncommitted {
		known[f.offset] = true
	}
	chunks, steps := map[uint64][][]byte{}, []*eventHeader{}
	for at := range s.offsets() {
		if known[at] {
			continue
		}
		items, ok := chunks[at.Seq]
		if !ok {
			var err error
			if items, err = h.items(ctx, s.index, at.Seq); err != nil {
				return nil, err
			}
			chunks[at.Seq] = items
		}
		if at.Index >= len(items) {
			continue // not kept any more
		}
		next, err := newEventHeader(at, items[at.Index])
		if err != nil {
			return nil, h.reportDamage(errors.Join(errDamaged, err))
		}
		steps = append(steps, next)
	}
	return append(steps, s.uncommitted...), nil
}

// items returns the items of a chunk, none if it is not kept any more.
func (h *History) items(ctx context.Context, from *index, seq uint64) ([][]byte, error) {
	var body []byte
	err := from.readDB.QueryRowContext(ctx, "SELECT body FROM chunk WHERE seq = ?", int64(seq)).Scan(&body)
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

// buildReceipt returns the receipt that tells the state, and the whole events.
func buildReceipt(s *snapshot, steps []*eventHeader) (receipt push.Receipt, events []push.Event, err error) {
	var walk State
	for _, next := range steps {
		e, err := next.event()
		if err != nil {
			return push.Receipt{}, nil, err
		}
		events = append(events, e)
		if walk.apply(next) && e.Receipt != nil {
			receipt = *e.Receipt
		}
	}
	receipt.ID = s.id.String()
	if receipt.Status() != s.state.Status {
		receipt.State = s.state.Status
	}
	return receipt, events, nil
}

// keyOwner is the notification that last came with an Idempotency-Key.
type keyOwner struct {
	id       uuid.UUID
	app      string
	bodyHash []byte // the hash of the body that came with the key
}

// findKey returns the notification that last came with a key, by the key's hash; nil if there is none, or it is too long
// ago.
func (h *History) findKey(ctx context.Context, key []byte) (*keyOwner, error) {
	idx, err := h.currentIndex(ctx)
	if err != nil {
		return nil, err
	}
	if s := h.overlay.byKey(key); s != nil {
		return &keyOwner{s.id, s.app, s.bodyHash}, nil
	}
	if !idx.keyFilter.mayContain(key) {
		return nil, nil
	}
	k := &keyOwner{}
	var id []byte
	since := time.Now().Add(-h.cfg.IdempotencyTTL)
	row := idx.readDB.QueryRowContext(ctx, "SELECT id, body FROM idempotency WHERE key = ? AND at >= ?", key, toMillis(since))
	if err := row.Scan(&id, &k.bodyHash); errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	} else if err != nil {
		return nil, h.reportDamage(err)
	}
	copy(k.id[:], id)
	found, err := h.lookup(ctx, []uuid.UUID{k.id})
	if s, ok := found[k.id]; ok {
		k.app = s.app
		return k, nil
	}
	return nil, err
}
