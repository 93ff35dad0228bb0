// SPDX-License-Identifier: Apache-2.0

package push

import (
	"math"
	"time"
)

// Attempt is one send on one endpoint.
type Attempt struct {
	Endpoint string // address and port
	// Environment is the one that the endpoint belongs to; empty where the
	// provider has but one, or a stand-in plays both.
	Environment Environment
	Started     time.Time
	Took        time.Duration
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
	// State is where a notification stands that the queue keeps and that has not come to its verdict, or never will:
	// queued, scheduled, sending or cancelled. Empty, and the verdict is its status.
	State Status
	Outcome
	Attempts []Attempt
}

// Status returns the state that the receipt tells.
func (r *Receipt) Status() Status {
	if r.State != "" {
		return r.State
	}
	return r.Outcome.Status()
}

// IsFinal reports whether the receipt is the last one: nothing more will become of its notification.
func (r *Receipt) IsFinal() bool {
	switch r.State {
	case StatusQueued, StatusScheduled, StatusSending:
		return false
	default:
		return true
	}
}

// Status is the state of a notification as receipts and history spell it.
type Status string

// The states. The first eight are ends, as is cancelled; the others belong to the queue.
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
	StatusSending      Status = "sending"
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

// MarshalJSON writes the receipt as the REST contract has it.
func (r Receipt) MarshalJSON() ([]byte, error) {
	return r.AppendJSON(make([]byte, 0, 256)), nil
}

// AppendJSON appends the receipt as the REST contract has it, so every name here is for good: durations in seconds
// (retry_after) and milliseconds (ms), an attempt's status by its verdict. It is by hand because a batch writes one
// for every notification.
func (r Receipt) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	b = appendNonEmpty(b, "id", r.ID)
	if r.Index != nil {
		b = appendInt(b, "index", *r.Index)
	}
	b = appendNonEmpty(b, "status", string(r.Status()))
	b = appendNonEmpty(b, "reason", r.Reason)
	b = appendNonEmpty(b, "field", r.Field)
	b = appendNonEmpty(b, "detail", r.Detail)
	b = appendNonEmpty(b, "provider_id", r.ProviderID)
	if r.RetryAfter > 0 {
		b = appendFloat(b, "retry_after", roundMillis(r.RetryAfter.Seconds()))
	}
	if r.ForgetToken {
		b = append(b, `"forget_token":true,`...)
	}
	b = appendTime(b, "dead_since", r.DeadSince)
	b = append(b, `"attempts":[`...)
	for i := range r.Attempts {
		if i > 0 {
			b = append(b, ',')
		}
		b = r.Attempts[i].appendJSON(b)
	}
	return append(b, "]}"...)
}

func (a *Attempt) appendJSON(b []byte) []byte {
	b = append(b, '{')
	b = appendNonEmpty(b, "endpoint", a.Endpoint)
	b = appendNonEmpty(b, "environment", string(a.Environment))
	b = appendNonEmpty(b, "status", a.Verdict.String())
	b = appendNonEmpty(b, "reason", a.Reason)
	if a.HTTP != 0 {
		b = appendInt(b, "http", a.HTTP)
	}
	b = appendTime(b, "at", a.Started.UTC().Truncate(time.Millisecond))
	b = appendFloat(b, "ms", roundMillis(float64(a.Took)/float64(time.Millisecond)))
	return appendClose(b)
}

// roundMillis keeps three digits behind the point: a receipt is read by people too.
func roundMillis(v float64) float64 { return math.Round(v*1000) / 1000 }
