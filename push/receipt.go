// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json"
	"math"
	"time"
)

// Attempt is one send on one endpoint.
type Attempt struct {
	Endpoint string // address and port
	Started  time.Time
	Took     time.Duration
	Outcome
}

// Receipt tells the truth about a notification: its end, and every attempt on
// the way. Outcome is that of the last attempt, or of the reason why there was
// none.
type Receipt struct {
	ID string
	// Index is the notification's place in its batch, counted from 0; nil
	// outside a batch.
	Index *int
	Outcome
	Attempts []Attempt
}

// Status is the state of a notification as receipts and history spell it.
type Status string

// The states. The first eight are ends; the last three belong to the queue.
const (
	StatusAccepted     Status = "accepted"
	StatusUnregistered Status = "unregistered"
	StatusRefused      Status = "refused"
	StatusThrottled    Status = "throttled"
	StatusUnauthorized Status = "unauthorized"
	StatusUnavailable  Status = "unavailable"
	StatusUnknown      Status = "unknown"
	StatusExpired      Status = "expired"
	StatusQueued       Status = "queued"
	StatusScheduled    Status = "scheduled"
	StatusCancelled    Status = "cancelled"
)

// Status returns the state that this outcome leaves a notification in. What
// was never sent is unavailable to its sender: it can be sent again.
func (o Outcome) Status() Status {
	switch o.Verdict {
	case Accepted:
		return StatusAccepted
	case Unregistered:
		return StatusUnregistered
	case Refused:
		return StatusRefused
	case Throttled:
		return StatusThrottled
	case Unauthorized:
		return StatusUnauthorized
	case Unknown:
		return StatusUnknown
	case Expired:
		return StatusExpired
	default:
		return StatusUnavailable
	}
}

// receiptJSON and attemptJSON are the JSON form of a receipt: part of the
// contract with users, so every name here is for good.
type receiptJSON struct {
	ID          string        `json:"id,omitempty"`
	Index       *int          `json:"index,omitempty"`
	Status      Status        `json:"status"`
	Reason      string        `json:"reason,omitempty"`
	Field       string        `json:"field,omitempty"`
	Detail      string        `json:"detail,omitempty"`
	ProviderID  string        `json:"provider_id,omitempty"`
	RetryAfter  float64       `json:"retry_after,omitempty"`
	ForgetToken bool          `json:"forget_token,omitempty"`
	DeadSince   time.Time     `json:"dead_since,omitzero"`
	Attempts    []attemptJSON `json:"attempts"`
}

type attemptJSON struct {
	Endpoint string    `json:"endpoint"`
	Status   string    `json:"status"`
	Reason   string    `json:"reason,omitempty"`
	HTTP     int       `json:"http,omitempty"`
	At       time.Time `json:"at,omitzero"`
	MS       float64   `json:"ms"`
}

// MarshalJSON writes the receipt as the REST contract has it: durations in
// seconds (retry_after) and milliseconds (ms), an attempt's status by its
// verdict.
func (r Receipt) MarshalJSON() ([]byte, error) {
	out := receiptJSON{
		ID: r.ID, Index: r.Index, Status: r.Status(), Reason: r.Reason, Field: r.Field, Detail: r.Detail,
		ProviderID: r.ProviderID, RetryAfter: round(r.RetryAfter.Seconds()), ForgetToken: r.ForgetToken,
		DeadSince: r.DeadSince, Attempts: make([]attemptJSON, len(r.Attempts)),
	}
	for i, a := range r.Attempts {
		out.Attempts[i] = attemptJSON{
			Endpoint: a.Endpoint, Status: a.Verdict.String(), Reason: a.Reason, HTTP: a.HTTP,
			At: a.Started.UTC().Truncate(time.Millisecond), MS: round(float64(a.Took) / float64(time.Millisecond)),
		}
	}
	return json.Marshal(out)
}

// round keeps three digits behind the point: a receipt is read by people too.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }
