// SPDX-License-Identifier: Apache-2.0

// Package tally keeps what happened to each line of a broadcast. A tally is a fold of the records in the
// log, so it says at any moment what the log says. It does no I/O.
package tally

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/sluice-push/sluice/push"
)

// Phase is what the notifications of a broadcast are for.
type Phase int

// The phases.
const (
	Send   Phase = iota // the message
	Recall              // the compensating message
	phases
)

// PhaseOf returns the phase of a line.
func PhaseOf(l push.BroadcastLine) Phase {
	if l.Recall {
		return Recall
	}
	return Send
}

// Position is the offset of a record in the log.
type Position struct {
	Seq   uint64
	Index int
}

// Class is what notifications are counted by besides their results.
type Class struct {
	Platform push.Platform `json:"platform"`
	Variant  uint8         `json:"variant"`
}

// Result is how notifications have ended. Notifications that have not ended have none.
type Result struct {
	Class
	Status push.Status `json:"status"`
	Reason string      `json:"reason,omitempty"`
}

// compare orders results.
func (r Result) compare(other Result) int {
	return cmp.Or(strings.Compare(string(r.Status), string(other.Status)), strings.Compare(r.Reason, other.Reason),
		strings.Compare(string(r.Platform), string(other.Platform)), cmp.Compare(r.Variant, other.Variant))
}

// Tally is the state of a broadcast in the log. Methods of a Tally do not lock.
type Tally struct {
	// Status and Revision are those of the last control record, and Since is the message of the first one.
	Status   push.Status
	Revision uint64
	Since    uint64
	phases   [phases]lines
}

// lines is the state of the lines in a phase.
type lines struct {
	enqueued *roaring.Bitmap
	classes  map[Class]uint64 // of enqueued
	ended    map[Result]*roaring.Bitmap
	open     map[uint32]Position // the tasks of lines that have not ended
}

// New returns the tally of a broadcast without lines.
func New(since uint64) *Tally {
	t := &Tally{Since: since}
	for i := range t.phases {
		t.phases[i] = lines{enqueued: roaring.New(), classes: map[Class]uint64{}, ended: map[Result]*roaring.Bitmap{}, open: map[uint32]Position{}}
	}
	return t
}

// The statuses of broadcasts in control records, and so in events.
const (
	Started   push.Status = "broadcast.started" // the tally begins
	Running   push.Status = "broadcast.running"
	Paused    push.Status = "broadcast.paused"
	Recalling push.Status = "broadcast.recalling"
	Completed push.Status = "broadcast.completed"
	Cancelled push.Status = "broadcast.cancelled"
	Recalled  push.Status = "broadcast.recalled"
	Expired   push.Status = "broadcast.expired"
	Deleted   push.Status = "broadcast.deleted" // the tally is not needed any more
)

// Allows reports whether attempts at notifications of a phase may start.
func (t *Tally) Allows(p Phase) bool {
	return t.Status == Running && p == Send || t.Status == Recalling && p == Recall
}

// IsFinal reports whether no further line will be enqueued, except by a recall.
func (t *Tally) IsFinal() bool { return slices.Contains(final, t.Status) }

var final = []push.Status{Completed, Cancelled, Recalled, Expired}

// Enqueue adds a line with the position of its task. It returns false if the line was added before: then
// the task must not be sent.
func (t *Tally) Enqueue(l push.BroadcastLine, platform push.Platform, at Position) (added bool) {
	p := &t.phases[PhaseOf(l)]
	if !p.enqueued.CheckedAdd(l.Line) {
		return false
	}
	p.classes[Class{platform, l.Variant}]++
	p.open[l.Line] = at
	return true
}

// Move sets the position of a task that was written again.
func (t *Tally) Move(l push.BroadcastLine, at Position) {
	p := &t.phases[PhaseOf(l)]
	if _, ok := p.open[l.Line]; ok {
		p.open[l.Line] = at
	}
}

// End sets the result of a line. It has no effect if the line has ended.
func (t *Tally) End(l push.BroadcastLine, platform push.Platform, status push.Status, reason string) {
	p := &t.phases[PhaseOf(l)]
	if _, ok := p.open[l.Line]; !ok {
		return
	}
	delete(p.open, l.Line)
	r := Result{Class{platform, l.Variant}, status, reason}
	if p.ended[r] == nil {
		p.ended[r] = roaring.New()
	}
	p.ended[r].Add(l.Line)
}

// Task returns the task of a line that has not ended.
func (t *Tally) Task(l push.BroadcastLine) (task Position, ok bool) {
	task, ok = t.phases[PhaseOf(l)].open[l.Line]
	return task, ok
}

// Open returns how many lines have not ended, and OpenTasks their tasks.
func (t *Tally) Open(p Phase) int { return len(t.phases[p].open) }

// OpenLines returns the lines that have not ended.
func (t *Tally) OpenLines(p Phase) *roaring.Bitmap {
	open := roaring.New()
	for line := range t.phases[p].open {
		open.Add(line)
	}
	return open
}

// OpenTasks is described at Open.
func (t *Tally) OpenTasks(p Phase) []Position {
	return slices.Collect(maps.Values(t.phases[p].open))
}

// IsEnqueued reports whether a line was added.
func (t *Tally) IsEnqueued(p Phase, line uint32) bool { return t.phases[p].enqueued.Contains(line) }

// RemoveEnqueued removes the lines that were added from others.
func (t *Tally) RemoveEnqueued(p Phase, others *roaring.Bitmap) { others.AndNot(t.phases[p].enqueued) }

// Enqueued returns how many lines were added.
func (t *Tally) Enqueued(p Phase) uint64 { return t.phases[p].enqueued.GetCardinality() }

// Reached returns the lines whose device has accepted the message, or may have received it.
func (t *Tally) Reached() *roaring.Bitmap {
	reached := roaring.New()
	for r, of := range t.phases[Send].ended {
		if r.Status == push.StatusAccepted || r.Status == push.StatusUnknown {
			reached.Or(of)
		}
	}
	return reached
}

// Count is the number of lines with a result. The status of lines that have not ended is queued.
type Count struct {
	Result
	Lines uint64
}

// Counts returns the number of lines by result.
func (t *Tally) Counts(p Phase) (counts []Count) {
	ended := map[Class]uint64{}
	for r, of := range t.phases[p].ended {
		n := of.GetCardinality()
		ended[r.Class] += n
		counts = append(counts, Count{r, n})
	}
	for class, n := range t.phases[p].classes {
		if open := n - ended[class]; open > 0 {
			counts = append(counts, Count{Result{class, push.StatusQueued, ""}, open})
		}
	}
	slices.SortFunc(counts, func(a, b Count) int { return a.compare(b.Result) })
	return counts
}

// Results returns a function that returns the result of a line, for lines in any order. The status of a
// line that has not ended is queued, and empty if it was not added.
func (t *Tally) Results(p Phase) func(line uint32) Result {
	results := slices.SortedFunc(maps.Keys(t.phases[p].ended), Result.compare)
	return func(line uint32) Result {
		for _, r := range results {
			if t.phases[p].ended[r].Contains(line) {
				return r
			}
		}
		if t.phases[p].enqueued.Contains(line) {
			return Result{Status: push.StatusQueued}
		}
		return Result{}
	}
}

// Clone returns a copy.
func (t *Tally) Clone() *Tally {
	c := &Tally{Status: t.Status, Revision: t.Revision, Since: t.Since}
	for i, p := range t.phases {
		c.phases[i] = lines{enqueued: p.enqueued.Clone(), classes: maps.Clone(p.classes), ended: make(map[Result]*roaring.Bitmap, len(p.ended)), open: maps.Clone(p.open)}
		for r, of := range p.ended {
			c.phases[i].ended[r] = of.Clone()
		}
	}
	return c
}

// storedTally is the JSON form of a tally, with bitmaps in their portable binary form.
type storedTally struct {
	Status   push.Status         `json:"status"`
	Revision uint64              `json:"revision"`
	Since    uint64              `json:"since"`
	Phases   [phases]storedLines `json:"phases"`
}

type storedLines struct {
	Enqueued []byte         `json:"enqueued"`
	Classes  []storedClass  `json:"classes,omitempty"`
	Ended    []storedResult `json:"ended,omitempty"`
	Open     []openTask     `json:"open,omitempty"`
}

type storedClass struct {
	Class
	Lines uint64 `json:"lines"`
}

type storedResult struct {
	Result
	Lines []byte `json:"lines"`
}

type openTask struct {
	Line  uint32 `json:"line"`
	Seq   uint64 `json:"seq"`
	Index int    `json:"index"`
}

// MarshalJSON returns a form that UnmarshalJSON reads.
func (t *Tally) MarshalJSON() ([]byte, error) {
	stored := storedTally{Status: t.Status, Revision: t.Revision, Since: t.Since}
	for i := range t.phases {
		from, to := &t.phases[i], &stored.Phases[i]
		var errs []error
		bitmap := func(b *roaring.Bitmap) []byte {
			b.RunOptimize()
			data, err := b.ToBytes()
			errs = append(errs, err)
			return data
		}
		to.Enqueued = bitmap(from.enqueued)
		for class, n := range from.classes {
			to.Classes = append(to.Classes, storedClass{class, n})
		}
		for r, of := range from.ended {
			to.Ended = append(to.Ended, storedResult{r, bitmap(of)})
		}
		for line, at := range from.open {
			to.Open = append(to.Open, openTask{line, at.Seq, at.Index})
		}
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("tally: %w", err)
		}
	}
	return json.Marshal(stored)
}

// UnmarshalJSON reads what MarshalJSON has written.
func (t *Tally) UnmarshalJSON(text []byte) error {
	var stored storedTally
	if err := json.Unmarshal(text, &stored); err != nil {
		return fmt.Errorf("tally: %w", err)
	}
	*t = *New(stored.Since)
	t.Status, t.Revision = stored.Status, stored.Revision
	for i := range stored.Phases {
		from, to := &stored.Phases[i], &t.phases[i]
		errs := []error{to.enqueued.UnmarshalBinary(from.Enqueued)}
		for _, c := range from.Classes {
			to.classes[c.Class] = c.Lines
		}
		for _, r := range from.Ended {
			of := roaring.New()
			errs = append(errs, of.UnmarshalBinary(r.Lines))
			to.ended[r.Result] = of
		}
		for _, o := range from.Open {
			to.open[o.Line] = Position{o.Seq, o.Index}
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("tally: %w", err)
		}
	}
	return nil
}
