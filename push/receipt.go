// SPDX-License-Identifier: Apache-2.0

package push

import (
	"math"
	"time"
)

// Attempt is one request to one endpoint.
type Attempt struct {
	Endpoint string // address and port
	// Environment is the environment of the endpoint. It is empty if the provider has only one, or
	// if a mock serves both.
	Environment Environment
	Started     time.Time
	Took        time.Duration
	Outcome
}

// Receipt is the state of a notification and all its attempts. Outcome is that of the last attempt,
// or the reason why there was none.
type Receipt struct {
	ID string
	// Index is the notification's position in its batch, from 0; nil outside a batch.
	Index *int
	// TargetIndex is the position of the target in a list of targets, from 0; nil without a list.
	TargetIndex *int
	// State is set while the queue holds the notification (queued, scheduled, sending) and after it
	// was cancelled. If it is empty, the verdict determines the status.
	State Status
	Outcome
	// Replaced is the target that the notification was sent to in place of its own, which is no longer
	// registered: the sender replaces its own by it. It is secret: do not log it.
	Replaced *Target
	// DryRun is set if the notification was only checked; Outcome is then the result of the checks.
	DryRun *DryRun
	// Warnings are those of the notification.
	Warnings []Warning
	Attempts []Attempt
}

// DryRun is the result of a dry run.
type DryRun struct {
	// Checked is what was checked and found right. It is empty if a check failed.
	Checked []DryRunCheck `json:"checked"`
	// Payload is what would be encrypted for the browser (Web Push).
	Payload string `json:"payload,omitempty"`
}

// DryRunCheck is a part of a notification that a dry run checks.
type DryRunCheck string

// The checks of a dry run. Only the last one asks the provider.
const (
	CheckedFields     DryRunCheck = "fields"     // the fields, their combination and the target's format
	CheckedPayload    DryRunCheck = "payload"    // the payload of the provider and its size
	CheckedCredential DryRunCheck = "credential" // the gateway has a credential and can sign with it
	CheckedProvider   DryRunCheck = "provider"   // the provider has validated the message and the target
)

// Reasons of notifications that were accepted into the queue and are not in it, although they have not
// ended. Nothing was sent unless the receipt has attempts.
const (
	// ReasonNotStored means that the gateway was interrupted while it accepted the notification, or
	// that the write failed.
	ReasonNotStored = "NOT_STORED"
	// ReasonTaskLost means that the disk or the cluster lost it.
	ReasonTaskLost = "TASK_LOST"
	// ReasonTaskMissing means that a cluster either lost it after the call had got its response, or never
	// stored it because the gateway was interrupted before. No record can tell which. An attempt is
	// not recorded, but the cluster may have lost that too.
	ReasonTaskMissing = "TASK_MISSING"
)

// NeverQueued reports whether the notification was never sent because it was not in the queue.
// Sending it again cannot duplicate it.
func (r *Receipt) NeverQueued() bool {
	return (r.Reason == ReasonNotStored || r.Reason == ReasonTaskLost) && len(r.Attempts) == 0
}

// Status returns State, or the status of the outcome if State is empty.
func (r *Receipt) Status() Status {
	if r.State != "" {
		return r.State
	}
	return r.Outcome.Status()
}

// IsFinal reports whether the notification has reached its final state.
func (r *Receipt) IsFinal() bool {
	switch r.State {
	case StatusQueued, StatusScheduled, StatusSending:
		return false
	default:
		return true
	}
}

// Status is the state of a notification in receipts and in the history.
type Status string

// The states. The first eight and cancelled are final; the others are states of the queue.
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

// Status returns the notification's state after this outcome. Unsent and Abandoned become
// unavailable: the sender can send again.
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

// MarshalJSON returns the receipt as the HTTP API defines it.
func (r Receipt) MarshalJSON() ([]byte, error) {
	return r.AppendJSON(make([]byte, 0, 256)), nil
}

// AppendJSON appends the receipt as the HTTP API defines it, so no name here may change.
// retry_after is in seconds, ms in milliseconds, and an attempt's status is its verdict. It does
// not use encoding/json because a batch writes one receipt per notification.
func (r Receipt) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	b = appendNonEmpty(b, "id", r.ID)
	if r.Index != nil {
		b = appendInt(b, "index", *r.Index)
	}
	if r.TargetIndex != nil {
		b = appendInt(b, "target_index", *r.TargetIndex)
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
	if r.Replaced != nil {
		b = append(appendClose(r.Replaced.appendFields(append(appendKey(b, "replaced"), '{'))), ',')
	}
	b = r.DryRun.appendField(b)
	b = appendWarnings(b, r.Warnings)
	b = append(b, `"attempts":[`...)
	for i := range r.Attempts {
		if i > 0 {
			b = append(b, ',')
		}
		b = r.Attempts[i].appendJSON(b)
	}
	return append(b, "]}"...)
}

func (d *DryRun) appendField(b []byte) []byte {
	if d == nil {
		return b
	}
	b = append(b, `"dry_run":{"checked":[`...)
	for i, checked := range d.Checked {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendQuoted(b, string(checked))
	}
	b = appendNonEmpty(append(b, "],"...), "payload", d.Payload)
	return append(appendClose(b), ',')
}

func appendWarnings(b []byte, warnings []Warning) []byte {
	if len(warnings) == 0 {
		return b
	}
	b = append(b, `"warnings":[`...)
	for i, w := range warnings {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, '{'), "field", w.Field)
		b = appendClose(appendString(b, "detail", w.Detail))
	}
	return append(b, "],"...)
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

// roundMillis rounds v to three decimal places, to keep receipts readable.
func roundMillis(v float64) float64 { return math.Round(v*1000) / 1000 }
