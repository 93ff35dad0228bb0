// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// How many notifications of a broadcast may wait in the queue or be in flight: those of two seconds, within
// these limits.
const minOutstanding, maxOutstanding = 500, 5000

// enqueuer enqueues lines in a phase.
type enqueuer struct {
	*run
	content *audience.Content
	phase   tally.Phase
	pace    *pacer
	limit   int // of notifications that have not ended
	// postponed is how many of them wait for the end of quiet hours.
	postponed int
}

func (r *run) enqueuer(c *audience.Content, phase tally.Phase, rate audience.Rate) *enqueuer {
	e := &enqueuer{run: r, content: c, phase: phase, limit: maxOutstanding}
	if rate.PerMinute > 0 {
		e.limit = min(max(rate.PerMinute/30, minOutstanding), maxOutstanding)
	}
	if e.pace = r.paces[phase]; e.pace == nil || e.pace.rate != rate {
		e.pace = newPacer(rate, e.done(), time.Now())
		r.paces[phase] = e.pace
	}
	return e
}

// done returns how many lines are enqueued.
func (e *enqueuer) done() (done uint64) {
	e.cfg.Queue.ReadTally(e.b.uuid(), func(t *tally.Tally) {
		if t != nil {
			done = t.Enqueued(e.phase)
		}
	})
	return done
}

// errStop means that the broadcast may have changed.
var errStop = errors.New("broadcast: stop")

// enqueueLines enqueues lines, at the rate and while not too many are outstanding, until the broadcast may have
// changed. Lines that it leaves are enqueued later.
func (e *enqueuer) enqueueLines(ctx context.Context, lines *roaring.Bitmap, reverse bool) error {
	var group []*push.Notification
	flush := func() error {
		err := e.enqueue(ctx, group)
		group = group[:0]
		return err
	}
	err := e.read(ctx, lines, reverse, func(line uint32, r *audience.Recipient) error {
		n, err := e.notification(e.b, e.content, line, r, e.phase == tally.Recall, time.Now())
		if err != nil { // the configuration or the recall message does not fit
			return e.refuse(ctx, e.b.line(e.content, line, r, e.phase == tally.Recall), r.Platform, err)
		}
		if group = append(group, n); len(group) < e.pace.quantum() {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// enqueue enqueues notifications when they may be. The error is errStop if the broadcast may have changed.
func (e *enqueuer) enqueue(ctx context.Context, group []*push.Notification) error {
	for len(group) > 0 {
		if !e.isCurrent(e.phase) || ctx.Err() != nil {
			return errStop
		}
		n, wait := e.pace.allowed(e.done(), time.Now())
		if room := e.limit - (e.open(e.phase) - e.postponed); room < len(group) && room < e.limit/2 {
			n, wait = 0, outstandingInterval
		}
		if n == 0 {
			e.wait(ctx, min(wait, pollInterval))
			continue
		}
		accepted := group[:min(n, len(group))]
		group = group[len(accepted):]
		if err := e.accept(ctx, accepted); err != nil {
			return err
		}
	}
	return nil
}

// accept stores notifications in the queue. Those of which it is not known whether they are stored are
// enqueued again later, unless they are.
func (e *enqueuer) accept(ctx context.Context, group []*push.Notification) error {
	now := time.Now()
	for _, n := range group {
		n.AcceptedAt = now
	}
	enqueued := uint64(0)
	defer func() { e.countEnqueued(e.b.App, enqueued) }()
	for i, err := range e.cfg.Queue.Accept(ctx, group) {
		if err == nil {
			enqueued++
			continue
		}
		if field, ok := errors.AsType[*push.FieldError](err); ok {
			l, _ := push.ParseBroadcastLine(uuid.MustParse(group[i].ID))
			if err := e.refuse(ctx, l, group[i].Platform, field); err != nil {
				return err
			}
			continue
		}
		return errors.Join(fmt.Errorf("broadcast: %w", err), e.cfg.Queue.CatchUp(ctx))
	}
	return nil
}

// refuse records that a line is not sent, because it was valid when the broadcast was validated, and is
// not any more.
func (e *enqueuer) refuse(ctx context.Context, l push.BroadcastLine, platform push.Platform, cause error) error {
	reason := audience.NewLineError(l.Line, cause)
	receipt := push.Receipt{ID: uuid.UUID(l.ID()).String(), Outcome: push.Outcome{Verdict: push.Refused, Reason: reason.Reason, Field: reason.Field, Detail: reason.Detail}}
	return e.cfg.Record(ctx, push.Event{
		ID: receipt.ID, App: e.b.App, At: time.Now().UTC(), Status: receipt.Status(), Platform: platform, Lane: push.LaneBulk, Receipt: &receipt,
	})
}

// read calls f with the recipients of lines, in ascending or descending order, until f returns an error.
func (r *run) read(ctx context.Context, lines *roaring.Bitmap, reverse bool, f func(uint32, *audience.Recipient) error) error {
	if target, ok := r.b.Audience.target(); ok {
		if lines.Contains(1) {
			return f(1, singleRecipient(&r.b.Broadcast, target))
		}
		return nil
	}
	for !lines.IsEmpty() {
		first := lines.Minimum()
		if reverse {
			first = lines.Maximum()
		}
		recipients, upTo, from, err := r.readChunk(ctx, first, lines)
		if err != nil {
			return err
		}
		if reverse {
			slices.Reverse(recipients)
		}
		for i := range recipients {
			if err := f(recipients[i].line, &recipients[i].Recipient); err != nil {
				return err
			}
		}
		lines = lines.Clone()
		lines.RemoveRange(uint64(from), uint64(upTo)+1)
	}
	return nil
}

// recipient is the recipient of a line.
type recipient struct {
	audience.Recipient
	line uint32
}

// readChunk returns the recipients of those lines that are in the same chunk as a line, and the first and
// the last line of the chunk.
func (r *run) readChunk(ctx context.Context, line uint32, lines *roaring.Bitmap) (recipients []recipient, upTo, from uint32, err error) {
	chunks := r.prepared.Chunks
	i := sort.Search(len(chunks), func(i int) bool { return chunks[i].Line >= line }) - 1
	if i < 0 {
		return nil, 0, 0, fmt.Errorf("broadcast: line %d is not in the audience", line)
	}
	c := chunks[i]
	text, err := r.store.get(ctx, r.b.ID, audienceData, pieces{c.Seq})
	if err != nil {
		return nil, 0, 0, err
	}
	start := audience.Position{Offset: c.Offset, Line: c.Line}
	if i > 0 {
		start.Columns = r.prepared.Columns
	}
	reader := audience.NewReader(bytes.NewReader(text), audience.ReaderConfig{Format: r.b.Upload.Format, Platform: r.b.Audience.Platform, From: start})
	for {
		var to audience.Recipient
		number, err := reader.Next(&to)
		if damaged, ok := errors.AsType[*audience.LineError](err); ok && lines.Contains(damaged.Line) {
			return nil, 0, 0, damaged
		} else if ok {
			continue
		}
		if errors.Is(err, io.EOF) {
			return recipients, reader.Position().Line, c.Line + 1, nil
		}
		if err != nil {
			return nil, 0, 0, err
		}
		if lines.Contains(number) {
			recipients = append(recipients, recipient{to, number})
		}
	}
}
