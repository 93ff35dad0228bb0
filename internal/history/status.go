// SPDX-License-Identifier: Apache-2.0

package history

// Status is how the history stands, for GET /v1/status and for metrics.
type Status struct {
	// Events counts those that this gateway has heard of since it began, its own and others'.
	Events uint64 `json:"events"`
	// Lost counts those that were noted and could not be written.
	Lost uint64 `json:"lost"`
	// Behind is how many chunks of the stream are not in the index yet.
	Behind uint64 `json:"behind"`
	// Rebuilt counts how often a damaged index has been made anew.
	Rebuilt uint64 `json:"rebuilt"`
	// CaughtUp is false while the index is being made, and answers have to wait.
	CaughtUp bool `json:"caught_up"`
}

// Status returns how the history stands now.
func (h *History) Status() Status {
	newest, last := h.counters.newest.Load(), h.counters.committed.Load()
	return Status{
		Events: h.counters.received.Load(), Lost: h.counters.lost.Load(), Rebuilt: h.counters.rebuilt.Load(),
		Behind: newest - min(newest, last), CaughtUp: h.index.Load().caughtUp.Load(),
	}
}
