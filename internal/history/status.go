// SPDX-License-Identifier: Apache-2.0

package history

// Status describes the history, for GET /v1/status and for metrics.
type Status struct {
	// Events counts the events received since the start, of all gateways.
	Events uint64 `json:"events"`
	// Lost counts the asynchronous events that could not be written.
	Lost uint64 `json:"lost"`
	// LagBatches is the number of messages in the stream that are not indexed yet.
	LagBatches uint64 `json:"lag_batches"`
	// IndexRebuilds counts the rebuilds of the index.
	IndexRebuilds uint64 `json:"index_rebuilds"`
	// CaughtUp is false while the index is being rebuilt. Queries wait meanwhile.
	CaughtUp bool `json:"caught_up"`
}

// Status returns the current status.
func (h *History) Status() Status {
	if h.entries != nil {
		return Status{Events: h.counters.received.Load(), IndexRebuilds: h.counters.indexRebuilds.Load(), CaughtUp: true}
	}
	newest, committed := h.counters.newest.Load(), h.counters.committed.Load()
	return Status{
		Events: h.counters.received.Load(), Lost: h.counters.lost.Load(), IndexRebuilds: h.counters.indexRebuilds.Load(),
		LagBatches: newest - min(newest, committed), CaughtUp: h.index.Load().caughtUp.Load(),
	}
}
