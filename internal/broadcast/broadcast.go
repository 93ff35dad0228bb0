// SPDX-License-Identifier: Apache-2.0

// Package broadcast sends a message to an audience of up to millions of devices, one line of an upload
// each. A line becomes a notification of the queue, and what happens to it is in the log: this package
// decides when lines are enqueued, and keeps no account of its own. It neither parses an audience nor
// renders a message.
package broadcast

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// State is where a broadcast is in its life.
type State string

// The states. Completed, Cancelled, Recalled and Expired are final, but Recall can follow each of them
// except Recalled.
const (
	Draft      State = "draft"
	Validating State = "validating"
	Ready      State = "ready"
	Running    State = "running"
	Paused     State = "paused"
	Recalling  State = "recalling"
	Completed  State = "completed"
	Cancelled  State = "cancelled"
	Recalled   State = "recalled"
	Expired    State = "expired"
)

// Command is what a caller wants to happen to a broadcast.
type Command string

// The commands.
const (
	Validate Command = "validate"
	Approve  Command = "approve"
	Start    Command = "start"
	Pause    Command = "pause"
	Resume   Command = "resume"
	Cancel   Command = "cancel"
	Recall   Command = "recall"
)

// Commands are all commands.
var Commands = []Command{Validate, Approve, Start, Pause, Resume, Cancel, Recall}

// transitions are the states in which a command changes something, and done those in which it has had its
// effect already: there it is repeated without an effect.
var transitions = map[Command]struct{ from, done []State }{
	Validate: {from: []State{Draft}, done: []State{Validating, Ready}},
	Approve:  {from: []State{Ready}},
	Start:    {from: []State{Ready}, done: []State{Running}},
	Pause:    {from: []State{Running, Recalling}, done: []State{Paused}},
	Resume:   {from: []State{Paused}, done: []State{Running, Recalling}},
	Cancel:   {from: []State{Ready, Running, Paused}, done: []State{Cancelled}},
	Recall:   {from: []State{Running, Paused, Completed, Cancelled, Expired}, done: []State{Recalling, Recalled}},
}

// Statuses returns the statuses of the events of broadcasts.
func Statuses() []push.Status {
	return []push.Status{tally.Started, tally.Running, tally.Paused, tally.Recalling, tally.Completed, tally.Cancelled, tally.Recalled, tally.Expired, tally.Deleted}
}

// IsFinal reports whether nothing more is sent, unless the broadcast is recalled.
func (s State) IsFinal() bool {
	return s == Completed || s == Cancelled || s == Recalled || s == Expired
}

// Definition is what the caller defines.
type Definition struct {
	// Name is for people.
	Name string `json:"name,omitempty"`
	// Definition is the message.
	audience.Definition
	Audience Audience          `json:"audience,omitzero"`
	Schedule audience.Schedule `json:"schedule,omitzero"`
	Rate     audience.Rate     `json:"rate,omitzero"`
	Canary   *Canary           `json:"canary,omitempty"`
	PauseIf  *PauseIf          `json:"pause_if,omitempty"`
	Recall   *RecallMessage    `json:"recall,omitempty"`
}

// Audience says who gets the message: the lines of an upload, or one topic, condition or channel.
type Audience struct {
	// Platform is that of lines that do not say theirs, and of the topic, condition or channel.
	Platform  push.Platform `json:"platform,omitempty"`
	Topic     string        `json:"topic,omitempty"`
	Condition string        `json:"condition,omitempty"`
	Channel   string        `json:"channel,omitempty"`
}

// maxTarget is more than a provider accepts. It bounds the size of the document.
const maxTarget = 4096

// target returns the single target, and false if the audience is uploaded.
func (a *Audience) target() (push.Target, bool) {
	t := push.Target{Topic: a.Topic, Condition: a.Condition, Channel: a.Channel}
	return t, t != push.Target{}
}

// Canary is a part of the audience that gets the message first.
type Canary struct {
	// Share of the lines that can be sent, such as "1%".
	Share Percent `json:"share"`
	// Wait is how long the others wait after the last notification of the canary was enqueued.
	Wait push.Duration `json:"wait,omitzero"`
}

// PauseIf has the limits at which a broadcast is paused automatically.
type PauseIf struct {
	// Refused and Unregistered are shares of the notifications that have ended. Zero means no limit.
	Refused      Percent `json:"refused,omitzero"`
	Unregistered Percent `json:"unregistered,omitzero"`
	// After is how many must have ended before. Zero means 100.
	After uint64 `json:"after,omitempty"`
}

const maxPauseAfter = 1_000_000_000

// RecallMessage is sent to the devices that have got the message, or may have.
type RecallMessage struct {
	audience.Definition
	Rate audience.Rate `json:"rate,omitzero"`
}

// Percent is a share such as "2.5%" in JSON.
type Percent float64

// UnmarshalText accepts a number above 0 and up to 100, followed by a percent sign.
func (p *Percent) UnmarshalText(text []byte) error {
	number, found := strings.CutSuffix(string(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if !found || err != nil || math.IsNaN(v) || v <= 0 || v > 100 {
		return errors.New(`must be a percentage above 0 and at most 100, such as "2.5%"`)
	}
	*p = Percent(v)
	return nil
}

// MarshalText returns the text that UnmarshalText reads.
func (p Percent) MarshalText() ([]byte, error) {
	return []byte(strconv.FormatFloat(float64(p), 'f', -1, 64) + "%"), nil
}

// of returns the share of n, rounded up.
func (p Percent) of(n uint64) uint64 { return uint64(math.Ceil(float64(p) * float64(n) / 100)) }

// Broadcast is a broadcast as callers see it.
type Broadcast struct {
	ID  string `json:"id"`
	App string `json:"app"`
	Definition
	State State `json:"state"`
	// PauseReason says why State is paused: the command, or what PauseIf has found.
	PauseReason string `json:"pause_reason,omitempty"`
	// InRecall is set from the start of the recall on.
	InRecall   bool        `json:"in_recall,omitempty"`
	Upload     *Upload     `json:"upload,omitempty"`
	Validation *Validation `json:"validation,omitempty"`
	// Problem says why the last validation, or the broadcast, could not go on.
	Problem string `json:"problem,omitempty"`

	CreatedAt  time.Time `json:"created_at"`
	CreatedBy  string    `json:"created_by,omitempty"`
	ChangedBy  []string  `json:"changed_by,omitempty"` // the other callers that have changed the definition or the audience
	ApprovedBy string    `json:"approved_by,omitempty"`
	StartedBy  string    `json:"started_by,omitempty"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	RecalledAt time.Time `json:"recalled_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	// CanaryUntil is when the others follow the canary. It is set when the whole canary is enqueued.
	CanaryUntil time.Time `json:"canary_until,omitzero"`

	// Revision changes with each change of the broadcast.
	Revision uint64 `json:"-"`
}

// document is a broadcast as it is stored.
type document struct {
	Broadcast
	// UploadAfter is a message before those of the current upload.
	UploadAfter uint64 `json:"upload_after,omitempty"`
	// Plan are the messages that hold what the validation has found, and Listing those with the lines that
	// cannot be sent.
	Plan    pieces         `json:"plan_pieces,omitempty"`
	Listing []listingPiece `json:"listing_pieces,omitempty"`
	// Sketch are the messages that hold the sketch of the devices.
	Sketch pieces `json:"sketch_pieces,omitempty"`
	// EndedAtResume is how many notifications had ended when a caller resumed the broadcast: it knew what their
	// results were.
	EndedAtResume uint64 `json:"ended_at_resume,omitempty"`
	// Results are the messages that hold the tally. They are set when nothing of the broadcast is open.
	Results pieces `json:"result_pieces,omitempty"`
	// Deleted is set while the data of the broadcast is being deleted. No command is possible any more.
	Deleted bool `json:"deleted,omitempty"`
}

// Upload is how far the audience is uploaded.
type Upload struct {
	Format   audience.Format `json:"format"`
	Bytes    int64           `json:"bytes"`
	Complete bool            `json:"complete"`
}

// Validation is what a validation has found.
type Validation struct {
	Lines      uint64                   `json:"lines"`
	Valid      uint64                   `json:"valid"`
	Invalid    uint64                   `json:"invalid"`
	Duplicates uint64                   `json:"duplicates"`
	Devices    uint64                   `json:"unique_devices,omitzero"` // zero for a topic, condition or channel
	Platforms  map[push.Platform]uint64 `json:"platforms,omitempty"`
	Zones      map[string]uint64        `json:"time_zones,omitempty"`
	At         time.Time                `json:"at"`
}

// Errors of a Manager, besides those of the queue.
var (
	// ErrNotFound means that the app has no such broadcast.
	ErrNotFound = errors.New("broadcast: the app has no broadcast with this ID")
	// ErrChanged means that the broadcast is not at the expected revision.
	ErrChanged = errors.New("broadcast: the broadcast has changed meanwhile")
)

// ConflictError means that a command is not possible now.
type ConflictError struct {
	State   State
	Allowed []Command // now
	Detail  string
}

// Error returns the detail.
func (e *ConflictError) Error() string { return "broadcast: " + e.Detail }

// AllowedCommands returns the commands that change something now.
func (b *Broadcast) AllowedCommands() (allowed []Command) {
	for _, c := range Commands {
		switch {
		case !slices.Contains(transitions[c].from, b.State):
		case b.InRecall && (c == Cancel || c == Recall):
		case c == Recall && b.StartedAt.IsZero(): // nothing was sent
		case c == Approve && b.ApprovedBy != "":
		default:
			allowed = append(allowed, c)
		}
	}
	return allowed
}

// isAuthor reports whether a caller has created or changed the broadcast.
func (b *Broadcast) isAuthor(caller string) bool {
	return caller == b.CreatedBy || slices.Contains(b.ChangedBy, caller)
}

// addAuthor adds a caller that changes the broadcast, and reports whether it is new.
func (b *Broadcast) addAuthor(caller string) bool {
	if b.isAuthor(caller) {
		return false
	}
	b.ChangedBy = append(b.ChangedBy, caller)
	return true
}

func (b *Broadcast) conflict(format string, args ...any) error {
	return &ConflictError{b.State, b.AllowedCommands(), fmt.Sprintf(format, args...)}
}

// check reports whether a command may be applied. done is set if it has had its effect already.
func (b *Broadcast) check(c Command) (done bool, err error) {
	if slices.Contains(transitions[c].done, b.State) || c == Approve && b.State == Ready && b.ApprovedBy != "" {
		return true, nil
	}
	if !slices.Contains(b.AllowedCommands(), c) {
		return false, b.conflict("%s is not possible while the broadcast is %s", c, b.State)
	}
	return false, nil
}

// check returns a *strictjson.Error if the definition is not valid.
func (d *Definition) check() error {
	if _, err := audience.Compile(&d.Definition); err != nil {
		return err
	}
	if err := d.Audience.check(); err != nil {
		return err
	}
	for _, part := range []struct {
		field string
		err   error
	}{{"schedule", d.checkSchedule()}, {"rate", d.Rate.Check()}, {"recall", d.Recall.check()}} {
		if part.err != nil {
			return prefixed(part.field, part.err)
		}
	}
	switch {
	case len(d.Name) > 200:
		return invalid("name", "must have at most 200 bytes")
	case d.Canary != nil && d.Canary.Share == 0:
		return invalid("canary.share", `must be a percentage such as "1%"`)
	case d.PauseIf != nil && d.PauseIf.After > maxPauseAfter:
		return invalid("pause_if.after", "must be a whole number from 1 to 1,000,000,000")
	}
	return nil
}

func (d *Definition) checkSchedule() error {
	now := time.Now()
	if d.isOver(now) {
		return invalid("expires_at", "must be in the future")
	}
	_, err := audience.NewPlan(&d.Schedule, now)
	return err
}

// isOver reports whether the broadcast has expired.
func (d *Definition) isOver(now time.Time) bool {
	end := time.Time(d.Schedule.ExpiresAt)
	return !end.IsZero() && !now.Before(end)
}

func (a *Audience) check() error {
	set := 0
	for _, value := range [...]string{a.Topic, a.Condition, a.Channel} {
		if value != "" {
			set++
		}
		if len(value) > maxTarget {
			return invalid("audience", fmt.Sprintf("must have values of at most %d bytes", maxTarget))
		}
	}
	switch {
	case set > 1:
		return invalid("audience", "must be uploaded, or have one of topic, condition and channel")
	case a.Channel != "" && cmp.Or(a.Platform, push.APNs) != push.APNs:
		return invalid("audience.platform", "must be apns with a channel")
	case a.Topic+a.Condition != "" && cmp.Or(a.Platform, push.FCM) != push.FCM:
		return invalid("audience.platform", "must be fcm with a topic or condition")
	}
	return nil
}

func (r *RecallMessage) check() error {
	if r == nil {
		return nil
	}
	if _, err := audience.Compile(&r.Definition); err != nil {
		return err
	}
	if err := r.Rate.Check(); err != nil {
		return prefixed("rate", err)
	}
	return nil
}

func invalid(field, detail string) error {
	return &strictjson.Error{Reason: strictjson.InvalidField, Field: field, Detail: detail}
}

// prefixed returns an error whose field is part of another one.
func prefixed(field string, err error) error {
	if e, ok := errors.AsType[*strictjson.Error](err); ok {
		within := *e
		within.Field = strings.TrimSuffix(field+"."+e.Field, ".")
		return &within
	}
	return err
}
