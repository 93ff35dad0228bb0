// SPDX-License-Identifier: Apache-2.0

package history

// Status describes the history, for GET /v1/status and for metrics.
type Status struct {
	// Events counts the events received since the start, of all gateways.
	Events uint64 `json:"events"`
	// LagBatches is the number of messages of a cluster's stream that this gateway has not received yet.
	LagBatches uint64 `json:"lag_batches"`
	// IndexRebuilds counts the rebuilds of the index.
	IndexRebuilds uint64 `json:"index_rebuilds"`
	// CaughtUp is false after the start until the index has all events. Queries wait meanwhile.
	CaughtUp bool `json:"caught_up"`
}

// Status returns the current status.
func (h *History) Status() Status {
	return Status{Events: h.received.Load(), LagBatches: h.cfg.Log.Behind(), IndexRebuilds: h.indexRebuilds.Load(), CaughtUp: h.caughtUp.Load()}
}
