// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"slices"

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
	headers := decisiveEvents(s)
	receipt, _, err := buildReceipt(s, headers)
	if err != nil {
		return nil, err
	}
	inQueue := slices.ContainsFunc(headers, func(hdr *eventHeader) bool { return isWaiting(hdr.status) })
	return &KeyUse{App: s.app, BodyHash: bodyHash, Receipt: receipt, Sending: s.state.Status == push.StatusSending && !inQueue, Attempt: s.state.Attempt}, nil
}

// decisiveEvents returns the events that determine the state of a notification: none if it waits,
// the end if it has ended, and otherwise all.
func decisiveEvents(s *snapshot) []*eventHeader {
	switch {
	case isWaiting(s.state.Status):
		return nil
	case s.state.Ended() && s.state.Offset.Seq > 0:
		return slices.DeleteFunc(slices.Clone(s.headers), func(hdr *eventHeader) bool { return hdr.offset != s.state.Offset })
	default:
		return s.headers
	}
}
