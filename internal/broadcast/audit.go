// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// AuditConfig says what an audit compares.
type AuditConfig struct {
	Engine *jetstream.Engine
	// Tally returns the tally of a broadcast that is being sent, as queue.Queue. It is nil if this process does
	// not run the queue.
	Tally func(uuid.UUID) *tally.Tally
	// Read calls f with each notification of the broadcast that is in the log, as audit.Broadcast.
	Read func(ctx context.Context, id uuid.UUID, f func(LoggedLine)) (started bool, err error)
}

// LoggedLine is described at audit.Line.
type LoggedLine struct {
	push.BroadcastLine
	Platform    push.Platform
	Status      push.Status
	Reason      string
	Twice, Lost bool
}

// Audit is the result of the audit of a broadcast.
type Audit struct {
	Broadcast string `json:"broadcast"`
	App       string `json:"app"`
	State     State  `json:"state"`
	// The lines of the audience, as the validation has stored them.
	Lines      uint64 `json:"lines"`
	Valid      uint64 `json:"valid"`
	Invalid    uint64 `json:"invalid"`
	Duplicates uint64 `json:"duplicates"`
	// Counts and RecallCounts are made from the records of the log.
	Counts       *Counts `json:"counts"`
	RecallCounts *Counts `json:"recall_counts,omitempty"`
	// ComparedWith is what the counts of the API are made from: the stored results, or the state of the queue. It
	// is empty if neither is available.
	ComparedWith string         `json:"compared_with,omitempty"`
	Findings     []AuditFinding `json:"findings"`
}

// AuditFinding is a rule that lines do not obey.
type AuditFinding struct {
	Rule  string   `json:"rule"`
	Count uint64   `json:"count"`
	Lines []uint32 `json:"lines"` // the first ones
}

// Clean reports whether all lines obey all rules.
func (a *Audit) Clean() bool { return len(a.Findings) == 0 }

// maxAuditLines is how many lines a finding lists.
const maxAuditLines = 10

// auditor audits a broadcast.
type auditor struct {
	valid    *roaring.Bitmap
	log      *tally.Tally
	notes    [2]*roaring.Bitmap // the lines with a notification, by phase
	findings map[string]*roaring.Bitmap
}

// RunAudit compares the audience of a broadcast, the records in the log, and what the counts of the API are
// made from. It changes nothing, and can run while the broadcast is being sent: then it does not compare the
// results of lines that change meanwhile. The error is ErrNotFound if there is no such broadcast.
func RunAudit(ctx context.Context, cfg AuditConfig, id string) (*Audit, error) {
	b, plan, s, err := openAudited(ctx, cfg.Engine, id)
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: Config{Queue: auditedQueue{tallyOf: cfg.Tally}}, store: s}
	before, err := m.currentTally(ctx, b)
	if err != nil {
		return nil, err
	}
	a := newAuditor(plan)
	started, err := cfg.Read(ctx, b.uuid(), a.add)
	if err != nil {
		return nil, err
	}
	if !started && !b.StartedAt.IsZero() {
		return nil, errors.New("broadcast: the log does not have the start of the broadcast any more (history.max_age, history.max_bytes)")
	}
	after := before
	if before != nil && len(b.Results) == 0 {
		after = cfg.Tally(b.uuid())
	}
	report := &Audit{Broadcast: b.ID, App: b.App, State: b.State, Valid: a.valid.GetCardinality(), Invalid: plan.Invalid.GetCardinality(), Duplicates: plan.Duplicates.GetCardinality()}
	report.Lines = report.Valid + report.Invalid + report.Duplicates
	if v := b.Validation; v.Valid != report.Valid || v.Invalid != report.Invalid || v.Duplicates != report.Duplicates {
		report.Findings = append(report.Findings, AuditFinding{Rule: "the counts of the validation are those of the stored lines", Count: 1})
	}
	a.checkAudience(plan)
	a.checkRecall(b)
	if before != nil && after != nil {
		report.ComparedWith = "the stored results"
		if len(b.Results) == 0 {
			report.ComparedWith = "the state of the queue"
		}
		a.compare(before, after)
	}
	report.Counts = newCounts(report.Valid, a.log, tally.Send, b.variantNames(false))
	if b.InRecall {
		report.RecallCounts = newCounts(a.log.Reached().GetCardinality(), a.log, tally.Recall, b.variantNames(true))
	}
	report.Findings = append(report.Findings, a.list()...)
	return report, nil
}

// openAudited reads the document of a broadcast and what its validation has found.
func openAudited(ctx context.Context, e *jetstream.Engine, id string) (*document, *prepared, *store, error) {
	if !isID(id) {
		return nil, nil, nil, ErrNotFound
	}
	if _, err := e.JetStream().Stream(ctx, Stream); err != nil { // openStore would create it
		if errors.Is(err, natsjs.ErrStreamNotFound) {
			err = ErrNotFound
		}
		return nil, nil, nil, err
	}
	s, err := openStore(ctx, e)
	if err != nil {
		return nil, nil, nil, err
	}
	b, err := s.load(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	if b.Validation == nil {
		return nil, nil, nil, b.conflict("the broadcast is not validated: nothing can be audited")
	}
	r := &run{Manager: &Manager{store: s}, b: b}
	if err := r.load(ctx); err != nil {
		return nil, nil, nil, err
	}
	return b, r.prepared, s, nil
}

// auditedQueue is a queue that has only tallies.
type auditedQueue struct {
	Queue
	tallyOf func(uuid.UUID) *tally.Tally
}

func (q auditedQueue) Tally(id uuid.UUID) *tally.Tally {
	if q.tallyOf == nil {
		return nil
	}
	return q.tallyOf(id)
}

func newAuditor(plan *prepared) *auditor {
	a := &auditor{valid: roaring.New(), log: tally.New(0), notes: [2]*roaring.Bitmap{roaring.New(), roaring.New()}, findings: map[string]*roaring.Bitmap{}}
	for _, lines := range plan.Zones {
		a.valid.Or(lines.Bitmap)
	}
	return a
}

// find adds a line that does not obey a rule.
func (a *auditor) find(rule string, line uint32) { a.findAll(rule, roaring.BitmapOf(line)) }

func (a *auditor) findAll(rule string, lines *roaring.Bitmap) {
	if lines.IsEmpty() {
		return
	}
	if a.findings[rule] == nil {
		a.findings[rule] = roaring.New()
	}
	a.findings[rule].Or(lines)
}

// add adds a notification in the log.
func (a *auditor) add(l LoggedLine) {
	phase := tally.PhaseOf(l.BroadcastLine)
	if !a.notes[phase].CheckedAdd(l.Line) {
		a.find("a line has at most one notification of the message, and one of the recall", l.Line)
		return
	}
	if l.Twice {
		a.find("a notification has at most one end", l.Line)
	}
	if l.Lost {
		a.find("a notification has an end or is waiting", l.Line)
	}
	a.log.Enqueue(l.BroadcastLine, l.Platform, tally.Position{})
	if l.Status != push.StatusQueued {
		a.log.End(l.BroadcastLine, l.Platform, l.Status, l.Reason)
	}
}

// checkAudience verifies that each line is in one part of the audience, and notifications only in one.
func (a *auditor) checkAudience(plan *prepared) {
	notSent := roaring.Or(plan.Invalid.Bitmap, plan.Duplicates.Bitmap)
	overlap := roaring.And(a.valid, notSent)
	overlap.Or(roaring.And(plan.Invalid.Bitmap, plan.Duplicates.Bitmap))
	a.findAll("a line is either valid, or invalid, or a duplicate", overlap)
	a.findAll("only valid lines have a notification", roaring.AndNot(roaring.Or(a.notes[tally.Send], a.notes[tally.Recall]), a.valid))
}

// checkRecall verifies that the recall reaches the lines that are accepted or unknown, and no others.
func (a *auditor) checkRecall(b *document) {
	reached := a.log.Reached()
	a.findAll("only lines that are accepted or unknown are recalled", roaring.AndNot(a.notes[tally.Recall], reached))
	if b.State == Recalled {
		a.findAll("all lines that are accepted or unknown are recalled", roaring.AndNot(reached, a.notes[tally.Recall]))
	}
}

// compare compares the results of the log with those of the tally before and after it was read. Lines only go
// forward, so the result of one that did not change is that of the log.
func (a *auditor) compare(before, after *tally.Tally) {
	all := roaring.Or(a.valid, a.notes[tally.Send])
	all.Or(a.notes[tally.Recall])
	for phase, rule := range [...]string{"the result in the log is that in the counts", "the result of the recall in the log is that in the counts"} {
		p := tally.Phase(phase)
		log, first, last := a.log.Results(p), before.Results(p), after.Results(p)
		differ := roaring.New()
		for lines := all.Iterator(); lines.HasNext(); {
			line := lines.Next()
			if result := last(line); result == first(line) && result != log(line) {
				differ.Add(line)
			}
		}
		a.findAll(rule, differ)
	}
}

// list returns the findings, that with the first line first.
func (a *auditor) list() (findings []AuditFinding) {
	for rule, lines := range a.findings {
		f := AuditFinding{Rule: rule, Count: lines.GetCardinality()}
		for i := lines.Iterator(); i.HasNext() && len(f.Lines) < maxAuditLines; {
			f.Lines = append(f.Lines, i.Next())
		}
		findings = append(findings, f)
	}
	slices.SortFunc(findings, func(a, b AuditFinding) int {
		return cmp.Or(cmp.Compare(a.Lines[0], b.Lines[0]), cmp.Compare(a.Rule, b.Rule))
	})
	return findings
}

// String returns the rule with the first lines.
func (f AuditFinding) String() string {
	if len(f.Lines) == 0 {
		return "not true: " + f.Rule
	}
	return fmt.Sprintf("not true for %d lines: %s: %v", f.Count, f.Rule, f.Lines)
}
