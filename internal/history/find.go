// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// States returns the states of notifications; unknown ones are missing. Events that this gateway
// has appended count as the latest until they are stored.
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
		states[id.String()] = s.state
	}
	return states, nil
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
	return buildReceipt(s, s.headers)
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
