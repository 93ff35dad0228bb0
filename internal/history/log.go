// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/atomicfile"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// logSubject is the subject of the records, in a cluster followed by that of the gateway.
const logSubject = "sluice.log"

// OpenLog creates or opens the log: the stream of events, in which the queue also stores its tasks. The
// history deletes its oldest messages, so the stream has no limits. In a cluster, the name of the gateway
// is in dir, if that is not empty, which no other process can use until the log has ended.
func OpenLog(ctx context.Context, e *jetstream.Engine, dir string) (*jetstream.Log, error) {
	if e.Embedded() {
		dir = "" // the engine has its own lock
	}
	return e.Log(ctx, natsjs.StreamConfig{
		Name: Stream, Subjects: []string{"sluice.event.>", logSubject, logSubject + ".>"}, Retention: natsjs.LimitsPolicy, Discard: natsjs.DiscardOld,
	}, logSubject, dir)
}

// observe is called by the log for each stored message, in order.
func (h *History) observe(m *jetstream.Message) {
	_, apps := h.entries.add(m)
	h.pendingKeys.stored(m) // after that, so that lookups do not miss a key
	h.received.Add(uint64(len(m.Records)))
	h.notifier.notifyApps(m.Seq, apps)
}

// encodeRecords encodes events as records. keys are the headers of those with an Idempotency-Key.
func encodeRecords(events []push.Event) (records []jetstream.Record, keys []*eventHeader, err error) {
	buffer := make([]byte, 0, 160*len(events))
	records = make([]jetstream.Record, len(events))
	for i := range events {
		r, err := record.FromEvent(&events[i])
		if err != nil || r.App == "" || r.Status == "" {
			return nil, nil, errInvalidEvent
		}
		start := len(buffer)
		if buffer, err = r.Append(buffer); err != nil {
			return nil, nil, fmt.Errorf("history: %w", err)
		}
		if records[i].Data = buffer[start:]; r.KeyHash == nil {
			continue
		}
		hdr, err := newEventHeader(jetstream.Offset{}, records[i].Data)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, hdr)
	}
	return records, keys, nil
}

// pendingHeaders returns the events of notifications that were appended and are not stored yet. It leaves
// out tasks: what is accepted for later can be found when it is on disk.
func (h *History) pendingHeaders(want func(uuid.UUID) bool) map[uuid.UUID][]*eventHeader {
	pending := map[uuid.UUID][]*eventHeader{}
	h.cfg.Log.Pending(func(data []byte) {
		id, ofTask := record.ID(data)
		if ofTask || !want(id) {
			return
		}
		if hdr, err := newEventHeader(jetstream.Offset{}, data); err == nil {
			pending[id] = append(pending[id], hdr)
		}
	})
	return pending
}

// snapshot is a notification with its events in order, the stored ones first.
type snapshot struct {
	id      uuid.UUID
	app     string
	state   State
	headers []*eventHeader
}

// lookup returns snapshots of notifications. Unknown ones are missing.
func (h *History) lookup(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*snapshot, error) {
	if err := h.waitCaughtUp(ctx); err != nil {
		return nil, err
	}
	unstored := h.pendingHeaders(func(id uuid.UUID) bool { return slices.Contains(ids, id) })
	found := make(map[uuid.UUID]*snapshot, len(ids))
	for _, id := range ids {
		s, err := h.lookupOne(ctx, id, unstored[id], h.entries.findID)
		if err != nil {
			return nil, err
		}
		if s != nil {
			found[id] = s
		}
	}
	return found, nil
}

// lookupOne returns the snapshot of a notification, or nil. find is a method of the index. Some of the
// pending events may have been stored meanwhile.
func (h *History) lookupOne(ctx context.Context, id uuid.UUID, pending []*eventHeader, find func(uuid.UUID) ([]position, error)) (*snapshot, error) {
	headers, err := h.storedHeaders(ctx, id, find)
	if err != nil {
		return nil, err
	}
	pending = slices.DeleteFunc(slices.Clone(pending), func(hdr *eventHeader) bool { return slices.ContainsFunc(headers, hdr.sameEvent) })
	s := &snapshot{id: id, headers: append(headers, pending...)}
	for _, hdr := range s.headers {
		s.state.apply(hdr)
	}
	if s.state.Status == "" {
		return nil, nil
	}
	s.app = s.headers[0].app
	return s, nil
}

// storedHeaders returns the events of a notification that are in the log.
func (h *History) storedHeaders(ctx context.Context, id uuid.UUID, find func(uuid.UUID) ([]position, error)) (headers []*eventHeader, err error) {
	positions, err := h.findEntries(ctx, func() ([]position, error) { return find(id) })
	if err != nil {
		return nil, err
	}
	slices.Sort(positions) // a segment has the tasks first
	var state State
	for _, p := range slices.Compact(positions) {
		if !p.isOfID() {
			continue
		}
		hdr, err := h.storedHeader(ctx, p)
		if err != nil {
			return nil, err
		}
		if hdr == nil {
			hdr = h.damagedHeader(id, p, state)
		}
		if hdr != nil && hdr.id == id && !hdr.control {
			headers = append(headers, hdr)
			state.apply(hdr)
		}
	}
	return headers, nil
}

// findEntries calls find. If a segment of the index is damaged, it makes all segments again.
func (h *History) findEntries(ctx context.Context, find func() ([]position, error)) ([]position, error) {
	positions, err := find()
	if errors.Is(err, errBadSegment) {
		h.cfg.Logger.Warn("index damaged; rebuilding it from the log", "err", err)
		h.indexRebuilds.Add(1)
		if err = h.entries.rebuild(ctx, h.cfg.Log); err == nil {
			positions, err = find()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("history: index: %w", err)
	}
	return positions, nil
}

// storedHeader returns the event at a position, or nil if it is deleted or damaged.
func (h *History) storedHeader(ctx context.Context, p position) (*eventHeader, error) {
	at := p.offset()
	if at.Seq < h.firstSeq.Load() {
		return nil, nil
	}
	m, err := h.cfg.Log.Read(ctx, at.Seq)
	if errors.Is(err, jetstream.ErrDeleted) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if at.Index >= len(m.Records) || m.Records[at.Index].Data == nil {
		return nil, nil
	}
	hdr, err := newEventHeader(at, m.Records[at.Index].Data)
	if err != nil {
		h.cfg.Logger.Error("invalid event skipped", "err", err)
		return nil, nil
	}
	if record.IsRecord(hdr.text) {
		hdr.text = record.WithoutBody(hdr.text)
	}
	return hdr, nil
}

// damagedHeader returns what the index knows of a damaged record: that a task was accepted, or that an
// attempt was started, after the state before. It returns nil for other records and deleted ones.
func (h *History) damagedHeader(id uuid.UUID, p position, before State) *eventHeader {
	r := record.Record{Header: record.Header{Kind: record.Reschedule, ID: id, At: createdAt(id).Add(time.Minute), Status: push.StatusQueued}}
	switch {
	case p.offset().Seq < h.firstSeq.Load():
		return nil
	case p.kind() == record.Sending:
		r.Kind, r.Status, r.Attempt = record.Sending, push.StatusSending, before.Attempt+1
	case p.kind() != record.Task:
		return nil
	}
	var ok bool
	if _, r.App, ok = h.entries.task(hashID(id)); !ok {
		return nil
	}
	text, err := r.Append(nil)
	if err != nil {
		return nil
	}
	hdr, err := newEventHeader(p.offset(), text)
	if err != nil {
		return nil
	}
	return hdr
}

// findKey returns the ID of the notification that last used a key, and the hash of its body. The ID is
// uuid.Nil if there is none.
func (h *History) findKey(ctx context.Context, key []byte) (id uuid.UUID, bodyHash []byte, err error) {
	if err := h.waitCaughtUp(ctx); err != nil {
		return uuid.Nil, nil, err
	}
	if hdr := h.pendingKeys.find(key); hdr != nil {
		return hdr.id, hdr.bodyHash, nil
	}
	since := time.Now().Add(-h.cfg.IdempotencyTTL)
	positions, err := h.findEntries(ctx, func() ([]position, error) { return h.entries.findKey(key, since) })
	if err != nil {
		return uuid.Nil, nil, err
	}
	for _, p := range slices.Backward(positions) {
		hdr, err := h.storedHeader(ctx, p)
		if err != nil {
			return uuid.Nil, nil, err
		}
		if hdr != nil && bytes.Equal(hdr.keyHash, key) && !hdr.at.Before(since) {
			return hdr.id, hdr.bodyHash, nil
		}
	}
	return uuid.Nil, nil, nil
}

// Unfinished returns the IDs of the notifications with damaged records, or with events of a version without
// a log, that have a state other than an end, from an event up to message seq, in ascending order. It
// leaves out the others, because the queue knows its tasks.
func (h *History) Unfinished(ctx context.Context, seq uint64) (ids []uuid.UUID, err error) {
	first, last, damaged := h.firstSeq.Load(), h.cfg.Log.LastSeq(), map[jetstream.Offset]bool{}
	counts := map[uint64]int{} // records by message; those after a damaged length are missing
	err = h.cfg.Log.ReadFrom(ctx, first, func(m *jetstream.Message) error {
		counts[m.Seq] = len(m.Records)
		for i, r := range m.Records {
			if r.Data == nil {
				damaged[jetstream.Offset{Seq: m.Seq, Index: i}] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	ids, hashes, err := h.entries.at(func(p position) bool {
		at := p.offset()
		return at.Seq >= first && at.Seq <= last && (at.Index >= counts[at.Seq] || damaged[at])
	})
	if err != nil {
		return nil, fmt.Errorf("history: index: %w", err)
	}
	for _, hash := range hashes {
		if id, _, ok := h.entries.task(hash); ok {
			ids = append(ids, id)
		}
	}
	old, err := h.unfinishedEvents(ctx)
	if err != nil {
		return nil, err
	}
	ids = append(ids, old...)
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	ids = slices.Compact(ids)
	found, err := h.lookup(ctx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(id uuid.UUID) bool {
		s := found[id]
		return s == nil || !s.state.unfinishedAt(seq)
	}), nil
}

// unfinishedEvents returns the notifications that a version without a log accepted and that have no end
// among its events.
func (h *History) unfinishedEvents(ctx context.Context) ([]uuid.UUID, error) {
	open := map[uuid.UUID]bool{}
	err := h.cfg.Log.ReadFrom(ctx, h.firstSeq.Load(), func(m *jetstream.Message) error {
		for _, r := range m.Records {
			if len(r.Data) == 0 || record.IsRecord(r.Data) {
				continue
			}
			hdr, err := newEventHeader(jetstream.Offset{}, r.Data)
			if err != nil {
				continue
			}
			if isEnd(hdr.status) {
				delete(open, hdr.id)
			} else {
				open[hdr.id] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	ids := make([]uuid.UUID, 0, len(open))
	for id := range open {
		ids = append(ids, id)
	}
	return ids, nil
}

// readLog returns the next message with events of the feed's app, or nil.
func (r *feedReader) readLog(ctx context.Context) (*message, error) {
	h := r.history
	last := h.entries.last()
	first := h.firstSeq.Load()
	if r.position != (jetstream.Offset{}) && r.isDropped(first) {
		return nil, push.ErrCursorExpired
	}
	for seq := max(r.nextSeq(), first, 1); ctx.Err() == nil; seq++ {
		if seq = h.entries.nextWith(r.app, seq); seq > last {
			break
		}
		m, err := h.cfg.Log.Read(ctx, seq)
		if errors.Is(err, jetstream.ErrDeleted) {
			if err := h.updateFirstSeq(ctx); err != nil { // another gateway may have deleted it
				return nil, err
			}
			if seq < h.firstSeq.Load() {
				return r.readLog(ctx)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if msg := feedMessage(m, r.app); len(msg.items) > 0 {
			return msg, nil
		}
	}
	if last > r.position.Seq { // no event of this app up to there
		r.position = jetstream.Offset{Seq: last, Index: math.MaxInt32}
	}
	return nil, nil
}

// isDropped reports whether events after the position were deleted; first is the first message that was
// not.
func (r *feedReader) isDropped(first uint64) bool {
	o := r.position
	if o.Index == math.MaxInt32 {
		return o.Seq+1 < first
	}
	if last := r.history.lastDropped(); o.Seq+1 == first && last >= 0 {
		return o.Index < last
	}
	return o.Seq < first
}

// message holds the events of an app in a message.
type message struct {
	seq   uint64
	items []item
}

// item is an event, and its index in the message.
type item struct {
	index int
	text  []byte
}

// feedMessage returns the events of an app in a message.
func feedMessage(m *jetstream.Message, app string) *message {
	msg, parser := &message{seq: m.Seq}, record.HeaderParser{}
	for i, r := range m.Records {
		h, err := parseHeader(r.Data, &parser)
		if err != nil || app != "" && h.App != app || h.IsCopy() {
			continue
		}
		text := r.Data
		if record.IsRecord(text) {
			text = record.WithoutBody(text)
		}
		msg.items = append(msg.items, item{i, text})
	}
	return msg
}

// deleteOld deletes the oldest messages of the log according to MaxAge and MaxBytes, but none that the
// queue needs. If the queue needs little of much, it writes that again.
func (h *History) deleteOld(ctx context.Context) error {
	info, err := h.cfg.Log.Info(ctx)
	if err != nil {
		return err
	}
	state, end := info.State, info.State.FirstSeq
	if before := time.Now().Add(-h.cfg.MaxAge); state.Msgs > 0 && state.FirstTime.Before(before) {
		if end, err = h.firstSince(ctx, before, state.FirstSeq, state.LastSeq+1); err != nil {
			return err
		}
	}
	if excess := int64(state.Bytes) - h.cfg.MaxBytes; excess > 0 {
		end = max(end, state.FirstSeq+uint64(float64(state.Msgs)*float64(excess)/float64(state.Bytes))+1)
	}
	if end == state.FirstSeq {
		return h.updateFirstSeq(ctx)
	}
	needed := h.cfg.Log.Deletable(end)
	if blocked := int64(float64(state.Bytes) * float64(end-min(end, needed)) / float64(state.LastSeq+1-state.FirstSeq)); blocked > h.cfg.MaxBytes/4 {
		if err := h.cfg.Log.Rewrite(ctx, end, blocked/4); err != nil {
			return err
		}
	}
	_, err = h.deleteBefore(ctx, end)
	return err
}

// dropped is the last event that was deleted, in a file of the index: a cursor after it is still valid.
type dropped struct {
	Seq   uint64 `json:"seq"`
	Index int    `json:"index"`
}

const droppedFile = "dropped"

// deleteBefore deletes the messages before seq, except for those that the queue needs.
func (h *History) deleteBefore(ctx context.Context, seq uint64) (deleted bool, err error) {
	seq = h.cfg.Log.Deletable(seq)
	if seq <= h.firstSeq.Load() {
		return false, nil
	}
	if err := h.cfg.Log.Delete(ctx, seq); err != nil {
		return false, err
	}
	return true, h.updateFirstSeq(ctx)
}

// updateFirstSeq reads which messages are deleted, and drops them from the index.
func (h *History) updateFirstSeq(ctx context.Context) error {
	h.firstSeqMu.Lock()
	defer h.firstSeqMu.Unlock()
	info, err := h.cfg.Log.Info(ctx)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	first := info.State.FirstSeq
	if first <= h.firstSeq.Load() { // a server of a cluster may be behind
		return nil
	}
	if last := h.entries.lastIndexOf(first - 1); last >= 0 {
		text, _ := json.Marshal(dropped{first - 1, last}) // always succeeds
		if err := atomicfile.Write(filepath.Join(h.cfg.Dir, droppedFile), text); err != nil {
			h.cfg.Logger.Warn("cannot write the index", "err", err)
		}
	}
	h.firstSeq.Store(first)
	h.entries.dropBefore(first)
	return nil
}

// lastDropped returns the index of the last event of the last message that was deleted, or -1 if it is
// unknown.
func (h *History) lastDropped() int {
	text, err := os.ReadFile(filepath.Join(h.cfg.Dir, droppedFile))
	var d dropped
	if err != nil && !errors.Is(err, fs.ErrNotExist) || json.Unmarshal(text, &d) != nil || d.Seq+1 != h.firstSeq.Load() {
		return -1
	}
	return d.Index
}
