// SPDX-License-Identifier: Apache-2.0

package push

import "time"

// StatsQuery says which notifications are counted, and how. Zero fields select all.
type StatsQuery struct {
	// Since and Until bound the time at which notifications ended. They are rounded to whole hours, Since
	// down and Until up.
	Since, Until time.Time
	Tag          string
	// By are the properties by which notifications are counted, without duplicates. None means status,
	// reason and platform.
	By []StatsBy
}

// StatsBy is a property by which notifications are counted.
type StatsBy string

// The properties.
const (
	ByStatus   StatsBy = "status"
	ByReason   StatsBy = "reason"
	ByPlatform StatsBy = "platform"
	ByHour     StatsBy = "hour" // in which it ended
)

// Stats counts notifications that have ended.
type Stats struct {
	// Since and Until are the time for which the counts are complete. Since is later than that of the
	// query if older notifications are deleted, or are too many to be counted by tag.
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Total  uint64    `json:"total"`
	Counts []Count   `json:"counts"`
	// Latency is that of all.
	Latency *Latency `json:"latency_ms,omitempty"`
}

// Count is a number of notifications with the same properties. It has those of StatsQuery.By.
type Count struct {
	Hour     time.Time `json:"hour,omitzero"`
	Status   Status    `json:"status,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Platform Platform  `json:"platform,omitempty"`
	Count    uint64    `json:"count"`
	Latency  *Latency  `json:"latency_ms,omitempty"`
}

// Latency has percentiles of the time from acceptance to the end, in milliseconds, accurate to 7 %. It
// includes the wait for send_at.
type Latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}
