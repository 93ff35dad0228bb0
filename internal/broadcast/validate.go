// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/push"
)

// prepared is what a validation has found: which lines are sent, and where they are. It is stored in JSON.
type prepared struct {
	Columns []string `json:"columns,omitempty"` // of a CSV file
	Chunks  []chunk  `json:"chunks"`
	// Zones are the lines to send by the time zone of the device.
	Zones      map[string]bitmap `json:"zones"`
	Invalid    bitmap            `json:"invalid"`
	Duplicates bitmap            `json:"duplicates"`
}

// bitmap is a set of line numbers, in JSON as base64 of its portable form.
type bitmap struct{ *roaring.Bitmap }

// MarshalText implements encoding.TextMarshaler.
func (b bitmap) MarshalText() ([]byte, error) {
	b.RunOptimize()
	text, err := b.ToBase64()
	return []byte(text), err
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *bitmap) UnmarshalText(text []byte) error {
	b.Bitmap = roaring.New()
	_, err := b.FromBase64(string(text))
	return err
}

// defaultZone is the time zone of devices without one.
const defaultZone = "UTC"

// maxListed is how many lines that cannot be sent are listed.
const maxListed = 100_000

// listingPiece is a message with lines that cannot be sent, from a number on.
type listingPiece struct {
	Seq   uint64 `json:"seq"`
	First int    `json:"first"`
}

// validation is a validation in progress.
type validation struct {
	*Manager
	b       *document
	content *audience.Content
	plan    prepared
	found   Validation

	platforms  map[push.Platform]*roaring.Bitmap
	duplicates *audience.Duplicates
	sketch     *audience.Sketch
	first      *audience.LineError // why the first line that cannot be sent cannot be
	listing    bytes.Buffer
	listed     int
	pieces     []listingPiece
}

// validate reads the audience, and makes the broadcast ready. If nothing can be sent, it is a draft again,
// which says why.
func (m *Manager) validate(ctx context.Context, b *document) error {
	v := &validation{Manager: m, b: b, platforms: map[push.Platform]*roaring.Bitmap{}, sketch: audience.NewSketch(),
		plan: prepared{Zones: map[string]bitmap{}, Invalid: bitmap{roaring.New()}, Duplicates: bitmap{roaring.New()}}}
	problem, err := v.run(ctx)
	if err != nil {
		return err
	}
	if problem != "" {
		b.dropValidation()
		b.State, b.Problem, b.Listing = Draft, problem, v.pieces
		return m.saveListing(ctx, b)
	}
	text, err := json.Marshal(&v.plan, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	if b.Plan, err = m.store.put(ctx, b.ID, planData, text); err != nil {
		return err
	}
	sketch, err := v.sketch.MarshalBinary()
	if err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	if b.Sketch, err = m.store.put(ctx, b.ID, sketchData, sketch); err != nil {
		return err
	}
	b.State, b.Problem, b.Validation, b.Listing = Ready, "", &v.found, v.pieces
	if err := m.saveListing(ctx, b); err != nil {
		return err
	}
	m.store.purgeBefore(ctx, b.ID, planData, b.Plan[0])
	m.store.purgeBefore(ctx, b.ID, sketchData, b.Sketch[0])
	return nil
}

// saveListing stores a broadcast with a new listing, and deletes the former one.
func (m *Manager) saveListing(ctx context.Context, b *document) error {
	err := m.save(ctx, b)
	if err == nil && len(b.Listing) > 0 {
		m.store.purgeBefore(ctx, b.ID, listingData, b.Listing[0].Seq)
	}
	return err
}

// run reads the audience. problem says why nothing can be sent.
func (v *validation) run(ctx context.Context) (problem string, err error) {
	if v.content, err = audience.Compile(&v.b.Definition.Definition); err != nil {
		return err.Error(), nil
	}
	if target, ok := v.b.Audience.target(); ok {
		err = v.addSingle(target)
	} else {
		problem, err = v.readLines(ctx)
	}
	if err != nil || problem != "" {
		return problem, err
	}
	if err := v.flushListing(ctx); err != nil {
		return "", err
	}
	v.found.At, v.found.Devices = time.Now().UTC(), v.sketch.Count()
	v.found.Platforms, v.found.Zones = map[push.Platform]uint64{}, map[string]uint64{}
	for platform, lines := range v.platforms {
		lines.AndNot(v.plan.Duplicates.Bitmap)
		v.found.Platforms[platform] = lines.GetCardinality()
	}
	for name, lines := range v.plan.Zones {
		lines.AndNot(v.plan.Duplicates.Bitmap)
		v.found.Zones[name] = lines.GetCardinality()
		v.found.Valid += lines.GetCardinality()
	}
	v.found.Invalid, v.found.Duplicates = v.plan.Invalid.GetCardinality(), v.plan.Duplicates.GetCardinality()
	v.found.Lines = v.found.Valid + v.found.Invalid + v.found.Duplicates
	if v.found.Valid == 0 {
		problem = "no line of the audience can be sent"
		if v.first != nil {
			problem += ": " + v.first.Error()
		}
	}
	return problem, nil
}

// addSingle adds the topic, condition or channel, as line 1.
func (v *validation) addSingle(target push.Target) error {
	r := singleRecipient(&v.b.Broadcast, target)
	if refused := v.checkLine(1, r); refused != nil {
		return v.refuse(refused)
	}
	v.add(1, r)
	return nil
}

// singleRecipient returns the recipient for a topic, condition or channel.
func singleRecipient(b *Broadcast, target push.Target) *audience.Recipient {
	platform := push.FCM
	if target.Channel != "" {
		platform = push.APNs
	}
	return &audience.Recipient{Platform: platform, Target: target}
}

// readLines reads all lines of the upload.
func (v *validation) readLines(ctx context.Context) (problem string, err error) {
	v.duplicates = audience.NewDuplicates(v.cfg.Dir)
	defer func() { err = errors.Join(err, v.duplicates.Close()) }()
	upload := &uploadReader{ctx: ctx, store: v.store, b: v.b, next: v.b.UploadAfter + 1}
	reader := audience.NewReader(upload, audience.ReaderConfig{Format: v.b.Upload.Format, Platform: v.b.Audience.Platform})
	var r audience.Recipient
	for {
		line, err := reader.Next(&r)
		refused, isRefused := errors.AsType[*audience.LineError](err)
		if header, ok := errors.AsType[*audience.HeaderError](err); ok {
			return header.Error(), nil
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !isRefused {
			return "", err
		}
		if !isRefused {
			refused = v.checkLine(line, &r)
		}
		if refused != nil {
			err = v.refuse(refused)
		} else {
			v.add(line, &r)
			v.sketch.Add(&r)
			err = v.duplicates.Add(line, &r)
		}
		if err == nil && v.listing.Len() > maxPiece/2 {
			err = v.flushListing(ctx)
		}
		if err != nil {
			return "", err
		}
	}
	v.plan.Chunks, v.plan.Columns = upload.chunks, reader.Position().Columns
	duplicates, err := v.duplicates.Find()
	if err != nil {
		return "", err
	}
	v.plan.Duplicates.Bitmap = duplicates
	return "", v.listDuplicates(ctx)
}

// checkLine returns why a line cannot be sent, or nil.
func (v *validation) checkLine(line uint32, r *audience.Recipient) *audience.LineError {
	n, err := v.notification(v.b, v.content, line, r, false, time.Now())
	if err == nil {
		err = v.cfg.Check(n)
	}
	if err != nil {
		return audience.NewLineError(line, err)
	}
	return nil
}

// add adds a line to those that are sent.
func (v *validation) add(line uint32, r *audience.Recipient) {
	zone := cmp.Or(r.TimeZone, v.b.Schedule.TimeZone, defaultZone)
	lines, ok := v.plan.Zones[zone]
	if !ok {
		lines = bitmap{roaring.New()}
		v.plan.Zones[zone] = lines
	}
	lines.Add(line)
	if v.platforms[r.Platform] == nil {
		v.platforms[r.Platform] = roaring.New()
	}
	v.platforms[r.Platform].Add(line)
}

// refuse adds a line to those that cannot be sent.
func (v *validation) refuse(e *audience.LineError) error {
	v.plan.Invalid.Add(e.Line)
	return v.list(e)
}

func (v *validation) list(e *audience.LineError) error {
	if v.listed == maxListed {
		return nil
	}
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	if v.first == nil {
		v.first = e
	}
	v.listed++
	v.listing.Write(text)
	v.listing.WriteByte('\n')
	return nil
}

func (v *validation) listDuplicates(ctx context.Context) error {
	for lines := v.plan.Duplicates.Iterator(); lines.HasNext() && v.listed < maxListed; {
		err := v.list(&audience.LineError{Line: lines.Next(), Reason: audience.DuplicateTarget, Detail: "an earlier line has the same device"})
		if err == nil && v.listing.Len() > maxPiece/2 {
			err = v.flushListing(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// flushListing stores the lines that were listed since the last call.
func (v *validation) flushListing(ctx context.Context) error {
	if v.listing.Len() == 0 {
		return nil
	}
	first := v.listed - bytes.Count(v.listing.Bytes(), []byte{'\n'})
	seq, err := v.store.appendPiece(ctx, v.b.ID, listingData, v.listing.Bytes())
	if err != nil {
		return err
	}
	v.pieces = append(v.pieces, listingPiece{seq, first})
	v.listing.Reset()
	return nil
}

// InvalidPage is a part of the lines that cannot be sent.
type InvalidPage struct {
	Lines []audience.LineError `json:"lines"`
	// Next is after for the next page. It is zero at the end.
	Next int `json:"next,omitempty"`
}

// Invalid returns up to limit lines that cannot be sent, after the first ones.
func (m *Manager) Invalid(ctx context.Context, app, id string, after, limit int) (page InvalidPage, err error) {
	b, err := m.find(ctx, app, id, 0)
	if err != nil {
		return page, err
	}
	page.Lines = []audience.LineError{}
	for i, piece := range b.Listing {
		if i+1 < len(b.Listing) && b.Listing[i+1].First <= after {
			continue
		}
		text, err := m.store.get(ctx, id, listingData, pieces{piece.Seq})
		if err != nil {
			return page, err
		}
		number := piece.First
		for line := range bytes.Lines(text) {
			if number++; number <= after {
				continue
			}
			if len(page.Lines) == limit {
				page.Next = number - 1
				return page, nil
			}
			var e audience.LineError
			if err := json.Unmarshal(line, &e); err != nil {
				return page, fmt.Errorf("broadcast: %w", err)
			}
			page.Lines = append(page.Lines, e)
		}
	}
	return page, nil
}

// notification returns the notification for a line. It has no other state than the broadcast, so every
// gateway makes the same one.
func (m *Manager) notification(b *document, c *audience.Content, line uint32, r *audience.Recipient, recall bool, now time.Time) (*push.Notification, error) {
	l, n := b.line(c, line, r, recall), new(push.Notification)
	if err := c.Render(r, int(l.Variant), n); err != nil {
		return nil, err
	}
	n.ID, n.App, n.AcceptedAt, n.Lane = uuid.UUID(l.ID()).String(), b.App, now, push.LaneBulk
	n.OnUnknown = cmp.Or(n.OnUnknown, push.RepeatNever)
	if end := time.Time(b.Schedule.ExpiresAt); !end.IsZero() && !recall {
		left := push.Duration(max(end.Sub(now), 0).Truncate(time.Second))
		if n.TTL == nil || *n.TTL > left {
			n.TTL = &left
		}
	}
	replaceable(n, b.ID)
	return n, nil
}

// line identifies the notification of a recipient.
func (b *document) line(c *audience.Content, line uint32, r *audience.Recipient, recall bool) push.BroadcastLine {
	return push.BroadcastLine{Broadcast: b.uuid(), Line: line, Recall: recall, Variant: uint8(c.Variant(b.ID, r))}
}
