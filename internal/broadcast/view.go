// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// View is a broadcast with its counts, which are those of the log at one moment.
type View struct {
	Broadcast
	// Commands are those that change something now.
	Commands []Command `json:"commands"`
	// Counts are of the message, and RecallCounts of the recall message.
	Counts       *Counts `json:"counts,omitempty"`
	RecallCounts *Counts `json:"recall_counts,omitempty"`
	// PerMinute is how many notifications have ended in the last minute, and ETA when the last one will have at
	// this rate.
	PerMinute uint64    `json:"per_minute,omitempty"`
	ETA       time.Time `json:"eta,omitzero"`
}

// Counts say what happened to the lines that can be sent: Total is the sum of all others.
type Counts struct {
	Total uint64 `json:"total"`
	// Pending lines are not enqueued yet, or never will be if the broadcast has ended.
	Pending uint64 `json:"pending"`
	// Queued notifications have no result yet.
	Queued uint64 `json:"queued"`
	// The others have ended with this status.
	Accepted     uint64 `json:"accepted"`
	Unregistered uint64 `json:"unregistered"`
	Refused      uint64 `json:"refused"`
	Throttled    uint64 `json:"throttled"`
	Unauthorized uint64 `json:"unauthorized"`
	Unavailable  uint64 `json:"unavailable"`
	Unknown      uint64 `json:"unknown"`
	Expired      uint64 `json:"expired"`
	Cancelled    uint64 `json:"cancelled"`
	// By has a count for each combination that occurs. Their sum is Total without Pending.
	By []CountBy `json:"by"`
}

// CountBy is the number of notifications with a result.
type CountBy struct {
	Status   push.Status   `json:"status"`
	Reason   string        `json:"reason,omitempty"`
	Platform push.Platform `json:"platform"`
	Variant  string        `json:"variant,omitempty"`
	Count    uint64        `json:"count"`
}

// of returns the counter of a status.
func (c *Counts) of(s push.Status) *uint64 {
	return map[push.Status]*uint64{
		push.StatusQueued: &c.Queued, push.StatusAccepted: &c.Accepted, push.StatusUnregistered: &c.Unregistered, push.StatusRefused: &c.Refused,
		push.StatusThrottled: &c.Throttled, push.StatusUnauthorized: &c.Unauthorized, push.StatusUnavailable: &c.Unavailable,
		push.StatusUnknown: &c.Unknown, push.StatusExpired: &c.Expired, push.StatusCancelled: &c.Cancelled,
	}[s]
}

func newCounts(total uint64, t *tally.Tally, p tally.Phase, variants []string) *Counts {
	c := &Counts{Total: total, Pending: total, By: []CountBy{}}
	if t == nil {
		return c
	}
	for _, n := range t.Counts(p) {
		row := CountBy{Status: n.Status, Reason: n.Reason, Platform: n.Platform, Count: n.Lines}
		if int(n.Variant) < len(variants) {
			row.Variant = variants[n.Variant]
		}
		c.By = append(c.By, row)
		c.Pending -= min(c.Pending, n.Lines)
		if counter := c.of(n.Status); counter != nil {
			*counter += n.Lines
		}
	}
	return c
}

// Ended returns how many notifications have a result.
func (c *Counts) Ended() uint64 { return c.Total - c.Pending - c.Queued }

// currentTally returns the tally of a broadcast, or nil if it has not started. The queue forgets it only
// after it is stored.
func (m *Manager) currentTally(ctx context.Context, b *document) (*tally.Tally, error) {
	if b.StartedAt.IsZero() {
		return nil, nil
	}
	if len(b.Results) == 0 {
		return m.cfg.Queue.Tally(b.uuid()), nil
	}
	text, err := m.store.get(ctx, b.ID, resultsData, b.Results)
	if err != nil {
		return nil, err
	}
	t := new(tally.Tally)
	return t, json.Unmarshal(text, t)
}

// view returns a broadcast with its counts.
func (m *Manager) view(ctx context.Context, b *document) (*View, error) {
	v := &View{Broadcast: b.Broadcast, Commands: b.AllowedCommands()}
	if v.Commands == nil {
		v.Commands = []Command{}
	}
	if b.Validation == nil {
		return v, nil
	}
	t, err := m.currentTally(ctx, b)
	if err != nil {
		return nil, err
	}
	v.Counts = newCounts(b.Validation.Valid, t, tally.Send, b.variantNames(false))
	if b.InRecall && t != nil {
		v.RecallCounts = newCounts(t.Reached().GetCardinality(), t, tally.Recall, b.variantNames(true))
	}
	current := v.Counts
	if b.State == Recalling {
		current = v.RecallCounts
	}
	if current != nil && (b.State == Running || b.State == Recalling) {
		v.PerMinute = m.rates.perMinute(b.ID)
		if left := current.Pending + current.Queued; v.PerMinute > 0 && left > 0 {
			v.ETA = time.Now().Add(time.Duration(float64(left) / float64(v.PerMinute) * float64(time.Minute))).UTC().Truncate(time.Second)
		}
	}
	return v, nil
}

// variantNames returns the names of the variants of the message, or of the recall message.
func (b *document) variantNames(recall bool) (names []string) {
	if d := b.definition(recall); d != nil {
		for i := range d.Variants {
			names = append(names, d.Variants[i].Name)
		}
	}
	return names
}

// LineResult is what happened to a line.
type LineResult struct {
	Line uint32 `json:"line"`
	Key  string `json:"key,omitempty"`
	// ID is that of the notification.
	ID       string        `json:"id,omitempty"`
	Platform push.Platform `json:"platform,omitempty"`
	Variant  string        `json:"variant,omitempty"`
	// Status is that of the notification, or pending, invalid or duplicate.
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// RecallStatus and RecallReason are those of the recall, empty without one.
	RecallStatus string `json:"recall_status,omitempty"`
	RecallReason string `json:"recall_reason,omitempty"`
}

// The statuses of lines without a notification.
const (
	statusPending   = "pending"
	statusInvalid   = "invalid"
	statusDuplicate = "duplicate"
)

// Results calls f with the result of each line, in order, until f returns an error. All are of one
// moment.
func (m *Manager) Results(ctx context.Context, app, id string, f func(*LineResult) error) error {
	b, err := m.find(ctx, app, id, 0)
	if err != nil {
		return err
	}
	if b.Validation == nil {
		return b.conflict("the broadcast is not validated")
	}
	t, err := m.currentTally(ctx, b)
	if err != nil {
		return err
	}
	content, err := b.content(false)
	if err != nil {
		return err
	}
	r := &run{Manager: m, b: b}
	if err := r.load(ctx); err != nil {
		return err
	}
	if t == nil {
		t = tally.New(0)
	}
	x := exporter{run: r, content: content, sent: t.Results(tally.Send), recalled: t.Results(tally.Recall)}
	if target, ok := b.Audience.target(); ok {
		return f(x.result(1, singleRecipient(&b.Broadcast, target), nil))
	}
	upload := &uploadReader{ctx: ctx, store: m.store, b: b, next: b.UploadAfter + 1}
	reader := audience.NewReader(upload, audience.ReaderConfig{Format: b.Upload.Format, Platform: b.Audience.Platform})
	for {
		var to audience.Recipient
		line, err := reader.Next(&to)
		refused, isRefused := errors.AsType[*audience.LineError](err)
		switch {
		case isRefused:
			line = refused.Line
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := f(x.result(line, &to, refused)); err != nil {
			return err
		}
	}
}

// exporter makes the results of lines.
type exporter struct {
	*run
	content        *audience.Content
	sent, recalled func(uint32) tally.Result
}

func (x *exporter) result(line uint32, to *audience.Recipient, refused *audience.LineError) *LineResult {
	r := &LineResult{Line: line, Key: to.Key, Platform: to.Platform, Status: statusPending}
	switch {
	case refused != nil:
		r.Status, r.Reason = statusInvalid, refused.Reason
		return r
	case x.prepared.Invalid.Contains(line):
		r.Status = statusInvalid
		return r
	case x.prepared.Duplicates.Contains(line):
		r.Status = statusDuplicate
		return r
	}
	variant := x.content.Variant(x.b.ID, to)
	r.Variant = x.content.Variants()[variant]
	if sent := x.sent(line); sent.Status != "" {
		l := push.BroadcastLine{Broadcast: x.b.uuid(), Line: line, Variant: uint8(variant)}
		r.ID, r.Status, r.Reason = uuid.UUID(l.ID()).String(), string(sent.Status), sent.Reason
	}
	recalled := x.recalled(line)
	r.RecallStatus, r.RecallReason = string(recalled.Status), recalled.Reason
	return r
}

// WriteResults writes the results in a format: NDJSON, or CSV with a header.
func (m *Manager) WriteResults(ctx context.Context, app, id string, format audience.Format, w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	if format != audience.CSV {
		err := m.Results(ctx, app, id, func(r *LineResult) error {
			text, err := json.Marshal(r)
			if err == nil {
				_, err = out.Write(append(text, '\n'))
			}
			return err
		})
		return cmp.Or(err, out.Flush())
	}
	table := csv.NewWriter(out)
	header := false
	err := m.Results(ctx, app, id, func(r *LineResult) error {
		if !header {
			header = true
			if err := table.Write([]string{"line", "key", "id", "platform", "variant", "status", "reason", "recall_status", "recall_reason"}); err != nil {
				return fmt.Errorf("broadcast: %w", err)
			}
		}
		return table.Write([]string{strconv.FormatUint(uint64(r.Line), 10), r.Key, r.ID, string(r.Platform), r.Variant, r.Status, r.Reason, r.RecallStatus, r.RecallReason})
	})
	table.Flush()
	return cmp.Or(err, table.Error(), out.Flush())
}
