// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"time"

	"github.com/sluice-push/sluice/push"
)

// Depth is the number of due tasks of an app and lane, including those in flight.
type Depth struct {
	App   string    `json:"app"`
	Lane  push.Lane `json:"lane"`
	Tasks int       `json:"tasks"`
}

// Status describes the queue, for GET /v1/status and for metrics.
type Status struct {
	// Waiting lists the due tasks by app and lane.
	Waiting []Depth `json:"waiting"`
	// Bytes is the size of the due tasks on disk, LaterBytes that of scheduled and rescheduled
	// ones. MaxBytes bounds each.
	Bytes      uint64 `json:"bytes"`
	LaterBytes uint64 `json:"later_bytes"`
	MaxBytes   int64  `json:"max_bytes"`
	// Oldest is when the oldest due task was stored; zero if none is due.
	Oldest time.Time `json:"-"`
}
