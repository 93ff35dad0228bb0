// SPDX-License-Identifier: Apache-2.0

package history

// Status describes the history, for GET /v1/status and for metrics.
type Status struct {
	// Events counts the events received since the start, of all gateways.
	Events uint64 `json:"events"`
	// Lost counts the asynchronous events that could not be written.
	Lost uint64 `json:"lost"`
	// Behind is the number of messages in the stream that are not indexed yet.
	Behind uint64 `json:"behind"`
	// Rebuilt counts the rebuilds of the index.
	Rebuilt uint64 `json:"rebuilt"`
	// CaughtUp is false while the index is being rebuilt. Queries wait meanwhile.
	CaughtUp bool `json:"caught_up"`
}

// Status returns the current status.
func (h *History) Status() Status {
	newest, committed := h.counters.newest.Load(), h.counters.committed.Load()
	return Status{
		Events: h.counters.received.Load(), Lost: h.counters.lost.Load(), Rebuilt: h.counters.rebuilt.Load(),
		Behind: newest - min(newest, committed), CaughtUp: h.index.Load().caughtUp.Load(),
	}
}
