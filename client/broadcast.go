// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/push"
)

// BroadcastState is where a broadcast is in its life.
type BroadcastState string

// The states of a broadcast.
const (
	BroadcastDraft      BroadcastState = "draft"
	BroadcastValidating BroadcastState = "validating"
	BroadcastReady      BroadcastState = "ready"
	BroadcastRunning    BroadcastState = "running"
	BroadcastPaused     BroadcastState = "paused"
	BroadcastRecalling  BroadcastState = "recalling"
	BroadcastCompleted  BroadcastState = "completed"
	BroadcastCancelled  BroadcastState = "cancelled"
	BroadcastRecalled   BroadcastState = "recalled"
	BroadcastExpired    BroadcastState = "expired"
)

// BroadcastCommand changes the state of a broadcast.
type BroadcastCommand string

// The commands of a broadcast. A command that has had its effect already changes nothing.
const (
	CommandValidate BroadcastCommand = "validate"
	CommandApprove  BroadcastCommand = "approve"
	CommandStart    BroadcastCommand = "start"
	CommandPause    BroadcastCommand = "pause"
	CommandResume   BroadcastCommand = "resume"
	CommandCancel   BroadcastCommand = "cancel"
	CommandRecall   BroadcastCommand = "recall"
)

// Broadcast is a broadcast and what has happened to it. Times that are not known are zero.
type Broadcast struct {
	ID    string         `json:"id"`
	App   string         `json:"app"`
	Name  string         `json:"name"`
	State BroadcastState `json:"state"`
	// Commands are those that are possible now.
	Commands []BroadcastCommand `json:"commands"`
	// PauseReason is "command", or the limit of pause_if that was exceeded.
	PauseReason string `json:"pause_reason"`
	// InRecall reports whether the recall has begun.
	InRecall bool `json:"in_recall"`
	// Problem says why the last validation has failed.
	Problem    string               `json:"problem"`
	Validation *BroadcastValidation `json:"validation"` // nil before it
	CreatedAt  time.Time            `json:"created_at"`
	StartedAt  time.Time            `json:"started_at"`
	RecalledAt time.Time            `json:"recalled_at"`
	// FinishedAt is when the last notification had ended.
	FinishedAt time.Time `json:"finished_at"`
	// Counts are nil before the validation, and RecallCounts before the recall.
	Counts       *BroadcastCounts `json:"counts"`
	RecallCounts *BroadcastCounts `json:"recall_counts"`
	// PerMinute is how many notifications have ended in the last minute, and ETA when the last one will
	// have ended at this rate.
	PerMinute int       `json:"per_minute"`
	ETA       time.Time `json:"eta"`

	// ETag identifies the state for CommandOptions.IfMatch. Elements of a list have none.
	ETag string `json:"-"`
	// JSON is the broadcast as the gateway sent it, with its definition.
	JSON json.RawMessage `json:"-"`
}

// UnmarshalJSON reads the JSON of the gateway and keeps it.
func (b *Broadcast) UnmarshalJSON(text []byte) error {
	type plain Broadcast
	err := json.Unmarshal(text, (*plain)(b))
	b.JSON = append([]byte(nil), text...)
	return err
}

// Definition returns the definition in JSON, which Broadcasts.Create and Broadcasts.Replace take.
func (b *Broadcast) Definition() (json.RawMessage, error) {
	var d struct {
		Name     json.RawMessage `json:"name,omitempty"`
		Language json.RawMessage `json:"language,omitempty"`
		Message  json.RawMessage `json:"message,omitempty"`
		Variants json.RawMessage `json:"variants,omitempty"`
		Audience json.RawMessage `json:"audience,omitempty"`
		Schedule json.RawMessage `json:"schedule,omitempty"`
		Rate     json.RawMessage `json:"rate,omitempty"`
		Canary   json.RawMessage `json:"canary,omitempty"`
		PauseIf  json.RawMessage `json:"pause_if,omitempty"`
		Recall   json.RawMessage `json:"recall,omitempty"`
	}
	err := json.Unmarshal(b.JSON, &d)
	if err != nil {
		return nil, fmt.Errorf("client: definition of a broadcast: %w", err)
	}
	return json.Marshal(d)
}

// Current returns the counts of what is going on: those of the recall if it has begun. It returns nil
// before the validation.
func (b *Broadcast) Current() *BroadcastCounts {
	if b.InRecall {
		return b.RecallCounts
	}
	return b.Counts
}

// IsFinished reports whether all notifications have ended. A recall can follow, unless the broadcast is
// recalled.
func (b *Broadcast) IsFinished() bool { return !b.FinishedAt.IsZero() }

// BroadcastValidation is what a validation has found. Lines is the sum of the three after it.
type BroadcastValidation struct {
	Lines      int       `json:"lines"`
	Valid      int       `json:"valid"`
	Invalid    int       `json:"invalid"`
	Duplicates int       `json:"duplicates"`
	Devices    int       `json:"unique_devices"` // an estimate; 0 for a topic, condition or channel
	At         time.Time `json:"at"`

	Platforms map[push.Platform]int `json:"platforms"` // valid lines
	TimeZones map[string]int        `json:"time_zones"`
}

// BroadcastCounts are lines by what happened to them. Total is the sum of all others.
type BroadcastCounts struct {
	Total int `json:"total"`
	// Pending lines are not enqueued, or never will be after the end.
	Pending int `json:"pending"`
	// Queued notifications have no result.
	Queued int `json:"queued"`
	// The others have ended with this status.
	Accepted     int `json:"accepted"`
	Unregistered int `json:"unregistered"`
	Refused      int `json:"refused"`
	Throttled    int `json:"throttled"`
	Unauthorized int `json:"unauthorized"`
	Unavailable  int `json:"unavailable"`
	Unknown      int `json:"unknown"`
	Expired      int `json:"expired"`
	Cancelled    int `json:"cancelled"`
	// By has a count for each combination that occurs.
	By []BroadcastCount `json:"by"`
}

// Ended returns the number of notifications that have a result.
func (c *BroadcastCounts) Ended() int { return c.Total - c.Pending - c.Queued }

// Reached returns the number of notifications that were accepted, or may have been: those that a recall
// sends its message to.
func (c *BroadcastCounts) Reached() int { return c.Accepted + c.Unknown }

// BroadcastCount is the number of notifications with a result.
type BroadcastCount struct {
	Status   push.Status   `json:"status"`
	Reason   string        `json:"reason"`
	Platform push.Platform `json:"platform"`
	Variant  string        `json:"variant"`
	Count    int           `json:"count"`
}

// BroadcastDevices are the estimated numbers of unique devices in the audiences of broadcasts.
type BroadcastDevices struct {
	// Devices is the number in all audiences together: a device in several of them counts once.
	Devices int `json:"unique_devices"`
	// StandardError is that of each number, as a fraction of it.
	StandardError float64           `json:"standard_error"`
	Broadcasts    []AudienceDevices `json:"broadcasts"`
}

// AudienceDevices is the estimated number of unique devices in the audience of one broadcast.
type AudienceDevices struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Devices int    `json:"unique_devices"`
}

// InvalidLine says why a line of an audience is not sent.
type InvalidLine struct {
	Line   int    `json:"line"` // counted from 1, with the header and empty lines
	Reason string `json:"reason"`
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// BroadcastPreviews are how the messages of a broadcast look.
type BroadcastPreviews struct {
	Message []BroadcastPreview `json:"message"`
	Recall  []BroadcastPreview `json:"recall"` // empty without a recall message
}

// BroadcastPreview is how a message looks for one platform, variant and language.
type BroadcastPreview struct {
	Platform push.Platform `json:"platform"`
	Variant  string        `json:"variant"`
	Language string        `json:"language"`
	// Missing are the variables without a default. The text has their names instead.
	Missing []string `json:"missing"`
	// Request is what the provider gets, and Problem says why it cannot be made. Without both, the
	// broadcast does not reach the platform.
	Request  *BroadcastRequest `json:"request"`
	Problem  string            `json:"problem"`
	Warnings []push.Warning    `json:"warnings"`

	// JSON is the preview as the gateway sent it, with the notification.
	JSON json.RawMessage `json:"-"`
}

// UnmarshalJSON reads the JSON of the gateway and keeps it.
func (p *BroadcastPreview) UnmarshalJSON(text []byte) error {
	type plain BroadcastPreview
	err := json.Unmarshal(text, (*plain)(p))
	p.JSON = append([]byte(nil), text...)
	return err
}

// BroadcastRequest is what a provider gets for a message, without the credential.
type BroadcastRequest struct {
	Method  string `json:"method"`
	URL     string `json:"url"`
	Headers []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"headers"`
	// Payload is the body; for Web Push, before its encryption.
	Payload string `json:"payload"`
}
