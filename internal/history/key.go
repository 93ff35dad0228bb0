// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// KeyUse is the notification that last used an Idempotency-Key.
type KeyUse struct {
	App      string
	BodyHash []byte       // of the body that came with the key
	Receipt  push.Receipt // the current one; attempts of a waiting notification are left out
	// Sending is true if the notification was sent synchronously and has not ended.
	Sending bool
	Attempt int // number of attempts started
}

// LastUse returns the notification that last used a key, by the hash of the key. It returns nil if
// there is none or it has expired. It reads as few events as possible.
func (h *History) LastUse(ctx context.Context, keyHash []byte) (*KeyUse, error) {
	id, bodyHash, err := h.findKey(ctx, keyHash)
	if err != nil || id == uuid.Nil {
		return nil, err
	}
	found, err := h.lookup(ctx, []uuid.UUID{id})
	s, ok := found[id]
	if err != nil || !ok {
		return nil, err
	}
	headers, err := h.decisiveEvents(ctx, s)
	if err != nil {
		return nil, err
	}
	receipt, _, err := buildReceipt(s, headers)
	if err != nil {
		return nil, err
	}
	inQueue := slices.ContainsFunc(headers, func(hdr *eventHeader) bool { return isWaiting(hdr.status) })
	return &KeyUse{App: s.app, BodyHash: bodyHash, Receipt: receipt, Sending: s.state.Status == push.StatusSending && !inQueue, Attempt: s.state.Attempt}, nil
}

// findKey returns the ID of the notification that last used a key, and the hash of its body. The ID is
// uuid.Nil if there is none.
func (h *History) findKey(ctx context.Context, keyHash []byte) (id uuid.UUID, bodyHash []byte, err error) {
	if h.entries != nil {
		return h.findKeyInLog(ctx, keyHash)
	}
	idx, err := h.currentIndex(ctx)
	if err != nil {
		return uuid.Nil, nil, err
	}
	if hdr := h.overlay.byKey(keyHash); hdr != nil {
		return hdr.id, hdr.bodyHash, nil
	}
	if !idx.keyFilter.mayContain(keyHash) {
		return uuid.Nil, nil, nil
	}
	var text []byte
	since := time.Now().Add(-h.cfg.IdempotencyTTL)
	row := idx.readDB.QueryRowContext(ctx, "SELECT id, body FROM idempotency WHERE key = ? AND at >= ?", keyHash, toMillis(since))
	if err := row.Scan(&text, &bodyHash); errors.Is(err, sql.ErrNoRows) {
		return uuid.Nil, nil, nil
	} else if err != nil {
		return uuid.Nil, nil, h.reportDamage(err)
	}
	copy(id[:], text)
	return id, bodyHash, nil
}

// decisiveEvents returns the events that determine the state of a notification: none if it waits,
// the end if it has ended, and otherwise all.
func (h *History) decisiveEvents(ctx context.Context, s *snapshot) ([]*eventHeader, error) {
	switch {
	case isWaiting(s.state.Status):
		return nil, nil
	case !s.state.Ended() || len(s.uncommitted) > 0:
		return h.timeline(ctx, s)
	}
	end := &snapshot{index: s.index, row: row{encodedOffsets: binary.AppendUvarint(binary.AppendUvarint(nil, s.state.Offset.Seq), uint64(s.state.Offset.Index))}}
	return h.timeline(ctx, end)
}
