// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
)

// indexName is the name of the index of versions without a log.
const indexName = "index.db"

// errOutdated means that the index is of another log.
var errOutdated = errors.New("the index is outdated")

// segmentBytes is the size of the records of a segment.
const segmentBytes = 32 << 20

const (
	segmentSuffix = ".segment"
	tailSuffix    = ".entries"
	oldTailSuffix = ".tail" // of versions without tags
	idFile        = "log"   // has the ID of the log
)

// logIndex finds the records of a log by notification and by key. It has all stored records when their
// writers continue.
type logIndex struct {
	dir    string
	source *jetstream.Log
	log    *slog.Logger
	filter *bloomFilter
	keyTTL time.Duration
	toSeal chan *openSegment

	mu     sync.RWMutex
	sealed []*segment     // oldest first
	full   []*openSegment // to become files, oldest first
	open   *openSegment
	tail   *os.File // the entries of open
	buffer []byte
}

// openLogIndex reads the index in dir, and adds what is missing from the log. It deletes an index of
// another log, or one that cannot be read.
func openLogIndex(ctx context.Context, dir string, l *jetstream.Log, keyTTL time.Duration, log *slog.Logger) (*logIndex, error) {
	x := &logIndex{dir: dir, source: l, log: log, filter: newBloomFilter(), keyTTL: keyTTL, toSeal: make(chan *openSegment, 64)}
	err := x.load(ctx, l)
	if err != nil {
		log.Info("rebuilding the index from the log", "dir", dir, "err", err)
		if err := errors.Join(x.close(), x.clear(), os.WriteFile(filepath.Join(dir, idFile), []byte(l.ID()), 0o600)); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		x.sealed, x.full, x.open, x.tail, x.toSeal = nil, nil, nil, nil, make(chan *openSegment, cap(x.toSeal))
	}
	if x.open == nil {
		if err := x.startSegment(x.lastSeq() + 1); err != nil {
			return nil, errors.Join(err, x.close())
		}
	}
	err = l.ReadFrom(ctx, x.lastSeq()+1, func(m *jetstream.Message) error {
		x.add(m)
		for len(x.toSeal) > 0 { // nothing else takes them yet
			if err := x.seal(<-x.toSeal); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = x.loadKeys()
	}
	if err != nil {
		return nil, errors.Join(err, x.close())
	}
	return x, nil
}

// clear deletes the files of the index, also that of a version without a log.
func (x *logIndex) clear() error {
	entries, err := os.ReadDir(x.dir)
	for _, e := range entries {
		name := e.Name()
		if name == idFile || strings.HasSuffix(name, segmentSuffix) || strings.HasSuffix(name, tailSuffix) || strings.HasSuffix(name, oldTailSuffix) || strings.HasPrefix(name, indexName) {
			err = errors.Join(err, os.Remove(filepath.Join(x.dir, name)))
		}
	}
	return err
}

// load reads the files of the index.
func (x *logIndex) load(ctx context.Context, l *jetstream.Log) error {
	id, err := os.ReadFile(filepath.Join(x.dir, idFile))
	if err != nil {
		return err
	}
	if string(id) != l.ID() {
		return errOutdated
	}
	names, err := filepath.Glob(filepath.Join(x.dir, "*"+segmentSuffix))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		s, err := openSegmentFile(name)
		if err != nil {
			return err
		}
		if n := len(x.sealed); n > 0 && s.first != x.sealed[n-1].last+1 {
			return errors.Join(errOutdated, s.file.Close())
		}
		x.sealed = append(x.sealed, s)
	}
	if names, err = filepath.Glob(filepath.Join(x.dir, "*"+oldTailSuffix)); err != nil {
		return err
	}
	for _, name := range names { // they are made again
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	if names, err = filepath.Glob(filepath.Join(x.dir, "*"+tailSuffix)); err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := x.loadTail(name); err != nil {
			return err
		}
	}
	if last := x.lastSeq(); last > l.LastSeq() {
		return fmt.Errorf("%w: it ends at %d, the log at %d", errOutdated, last, l.LastSeq())
	}
	info, err := l.Info(ctx)
	if err != nil {
		return err
	}
	if first := x.firstSeq(); first > max(1, info.State.FirstSeq) {
		return fmt.Errorf("%w: it starts at %d, the log at %d", errOutdated, first, info.State.FirstSeq)
	}
	return nil
}

// firstSeq returns the first message in the index, or zero if it is empty.
func (x *logIndex) firstSeq() uint64 {
	switch {
	case len(x.sealed) > 0:
		return x.sealed[0].first
	case len(x.full) > 0:
		return x.full[0].first
	case x.open != nil:
		return x.open.first
	default:
		return 0
	}
}

// loadTail reads a file with entries in the order of the log. It ends at the last complete message.
func (x *logIndex) loadTail(name string) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	var first uint64
	if _, err := fmt.Sscanf(filepath.Base(name), "%d", &first); err != nil || first != x.lastSeq()+1 && x.lastSeq() > 0 {
		if first <= x.lastSeq() { // the segment is a file
			return errors.Join(file.Close(), os.Remove(name))
		}
		return errors.Join(errOutdated, file.Close())
	}
	s, end, r := newOpenSegment(first), int64(0), bufio.NewReader(file)
	for {
		n, err := s.readMessage(r)
		if err != nil {
			break
		}
		end += n
	}
	s.countedFrom = s.last + 1 // countLoaded reads the others when they are needed
	if _, err := file.Seek(end, io.SeekStart); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Truncate(end); err != nil {
		return errors.Join(err, file.Close())
	}
	if x.open != nil {
		x.full = append(x.full, x.open)
		x.toSeal <- x.open
		if err := x.tail.Close(); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	x.open, x.tail = s, file
	return nil
}

// startSegment starts an empty segment.
func (x *logIndex) startSegment(first uint64) error {
	file, err := os.OpenFile(x.name(first, tailSuffix), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if x.tail != nil {
		err = x.tail.Close()
	}
	x.open, x.tail = newOpenSegment(first), file
	return err
}

func (x *logIndex) name(first uint64, suffix string) string {
	return filepath.Join(x.dir, fmt.Sprintf("%020d%s", first, suffix))
}

// lastSeq returns the last message in the index.
func (x *logIndex) lastSeq() uint64 {
	switch {
	case x.open != nil:
		return x.open.last
	case len(x.sealed) > 0:
		return x.sealed[len(x.sealed)-1].last
	default:
		return 0
	}
}

// add adds a stored message and returns the apps in it. An error of the tail is logged: without it, the
// segment is made again from the log after a restart.
func (x *logIndex) add(m *jetstream.Message) (apps []uint32, names []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.open
	x.buffer = append(x.buffer[:0], make([]byte, tailHeaderLen)...)
	x.buffer = binary.AppendUvarint(x.buffer, m.Seq)
	for i, r := range m.Records {
		var app int
		x.buffer, app = s.addRecord(x.buffer, jetstream.Offset{Seq: m.Seq, Index: i}, r.Data, x.filter, x.keyTTL)
		if app >= 0 && !slices.Contains(apps, uint32(app)) {
			apps, names = append(apps, uint32(app)), append(names, s.appNames[app])
		}
	}
	s.last = m.Seq
	binary.LittleEndian.PutUint64(x.buffer[8:], uint64(s.newest.UnixMilli()))
	binary.LittleEndian.PutUint32(x.buffer, uint32(len(x.buffer)-8))
	binary.LittleEndian.PutUint32(x.buffer[4:], crc32.ChecksumIEEE(x.buffer[8:]))
	if _, err := x.tail.Write(x.buffer); err != nil {
		x.log.Warn("cannot write the index", "err", err)
	}
	if s.bytes < segmentBytes {
		return apps, names
	}
	if err := x.startSegment(m.Seq + 1); err != nil {
		x.log.Warn("cannot write the index", "err", err)
		return apps, names
	}
	x.full = append(x.full, s)
	select {
	case x.toSeal <- s:
	default: // after a restart
	}
	return apps, names
}

// A message in a tail starts with the length and the CRC-32 of what follows them, and the time of the
// newest record so far.
const tailHeaderLen = 16

// The first byte of a record in a tail: its kind in the lower bits, hasKeyBit and hasTagsBit.
const (
	kindMask   = 0x7
	hasKeyBit  = 0x80
	hasTagsBit = 0x40
)

// addRecord adds a record to the segment, and appends its entries to the tail. It returns the number of
// the app, or -1 for a damaged record.
func (s *openSegment) addRecord(b []byte, at jetstream.Offset, data []byte, filter *bloomFilter, keyTTL time.Duration) ([]byte, int) {
	s.bytes += len(data)
	h, err := parseHeader(data, &s.parser)
	if err != nil {
		return append(b, 0), -1
	}
	p := newPosition(at, h.Kind)
	first := byte(p&kindMask) + 1
	if h.KeyHash != nil {
		first |= hasKeyBit
	}
	if len(h.Tags) > 0 {
		first |= hasTagsBit
	}
	b = append(b, first)
	if h.At.After(s.newest) {
		s.newest = h.At
	}
	s.add(hashID(h.ID), p)
	known := len(s.appNames)
	app := s.app(h.App)
	b = binary.AppendUvarint(b, uint64(app))
	if int(app) == known {
		b = append(binary.AppendUvarint(b, uint64(len(h.App))), h.App...)
	}
	if h.Kind == record.Task {
		s.tasks = append(s.tasks, taskEntry{h.ID, p, app})
		b = append(b, h.ID[:]...)
	} else {
		b = binary.BigEndian.AppendUint64(b, hashID(h.ID))
	}
	if h.KeyHash != nil {
		hash := hashKey(h.KeyHash)
		s.add(hash, p|ofKey)
		b = binary.BigEndian.AppendUint64(b, hash)
		filter.add(binary.BigEndian.AppendUint64(nil, hash), h.At, keyTTL)
	}
	if e, ok := endOf(&h, data, &s.parser); ok {
		s.counts.add(app, &e)
	}
	if len(h.Tags) > 0 {
		b = append(b, byte(len(h.Tags)))
		for _, tag := range h.Tags {
			hash := hashTag(h.App, tag)
			s.add(hash, p.forTag())
			b = binary.BigEndian.AppendUint64(b, hash)
		}
	}
	return b, int(app)
}

// parseHeader returns the header of a record, or of an event of a version without a log.
func parseHeader(data []byte, p *record.HeaderParser) (record.Header, error) {
	if len(data) == 0 || record.IsRecord(data) {
		return p.Parse(data)
	}
	hdr, err := newEventHeader(jetstream.Offset{}, data)
	if err != nil {
		return record.Header{}, err
	}
	return record.Header{ID: hdr.id, App: hdr.app, At: hdr.at, KeyHash: hdr.keyHash, Tags: hdr.tags, Status: hdr.status}, nil
}

// readMessage reads the entries of a message from a tail, and returns their length.
func (s *openSegment) readMessage(r io.Reader) (n int64, err error) {
	start := make([]byte, 8)
	if _, err := io.ReadFull(r, start); err != nil {
		return 0, err
	}
	length := binary.LittleEndian.Uint32(start)
	if length > 64<<20 || length < tailHeaderLen-8 {
		return 0, errBadSegment
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, err
	}
	if crc32.ChecksumIEEE(b) != binary.LittleEndian.Uint32(start[4:]) {
		return 0, errBadSegment
	}
	s.newest, b = time.UnixMilli(int64(binary.LittleEndian.Uint64(b))), b[tailHeaderLen-8:]
	seq, size := binary.Uvarint(b)
	b = b[size:]
	for index := 0; len(b) > 0; index++ {
		first := b[0]
		if b = b[1:]; first == 0 {
			continue
		}
		p := position(seq<<24 | uint64(index)<<4 | uint64(first&kindMask-1))
		app, size := binary.Uvarint(b)
		if b = b[size:]; int(app) == len(s.appNames) {
			length, size := binary.Uvarint(b)
			s.app(string(b[size:][:length]))
			b = b[size+int(length):]
		}
		if p.kind() == record.Task {
			id := uuid.UUID(b[:16])
			s.tasks = append(s.tasks, taskEntry{id, p, uint32(app)})
			s.add(hashID(id), p)
			b = b[16:]
		} else {
			s.add(binary.BigEndian.Uint64(b), p)
			b = b[8:]
		}
		if first&hasKeyBit != 0 {
			s.add(binary.BigEndian.Uint64(b), p|ofKey)
			b = b[8:]
		}
		if first&hasTagsBit != 0 {
			count := int(b[0])
			b = b[1:]
			for range count {
				s.add(binary.BigEndian.Uint64(b), p.forTag())
				b = b[8:]
			}
		}
	}
	s.last = seq
	s.bytes += 4 * int(length) // about
	return int64(8 + length), nil
}

// run writes full segments until ctx ends. Meanwhile it adds the counts to those of an earlier version,
// slowly.
func (x *logIndex) run(ctx context.Context) {
	for {
		var next <-chan time.Time
		old := x.uncounted(time.Time{})
		if old != nil {
			next = time.After(countingPause)
		}
		select {
		case s := <-x.toSeal:
			for x.seal(s) != nil && pause(ctx) {
			}
		case <-next:
			if err := x.addCounts(ctx, old); err != nil && ctx.Err() == nil {
				x.log.Warn("cannot count the ends of old notifications; retrying", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// countingPause is the time between the counting of two segments of an earlier version.
const countingPause = time.Second

// uncounted returns the newest segment of an earlier version, which has no counts, with events since a
// time, or nil.
func (x *logIndex) uncounted(since time.Time) *segment {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range slices.Backward(x.sealed) {
		if s.counts == 0 && !s.newest.Before(since) {
			return s
		}
	}
	return nil
}

// countedSince returns the time since which all ends are counted, or zero if they are since the given time.
func (x *logIndex) countedSince(since time.Time) time.Time {
	if s := x.uncounted(since); s != nil {
		return s.newest.Add(time.Millisecond)
	}
	return time.Time{}
}

// count calls add for the counts of an app in the segments with events since a time.
func (x *logIndex) count(ctx context.Context, app string, since time.Time, add func(countKey, *counter)) error {
	x.mu.RLock()
	loaded := append(slices.Clone(x.full), x.open)
	x.mu.RUnlock()
	for _, s := range loaded {
		if err := x.countLoaded(ctx, s); err != nil {
			return err
		}
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range append(slices.Clone(x.full), x.open) {
		number, ok := s.apps[app]
		for key, row := range s.counts.rows {
			if ok && key.app == number {
				add(key, row)
			}
		}
	}
	for _, s := range x.sealed {
		if s.newest.Before(since) {
			continue
		}
		if err := s.forEachCount(app, add); err != nil {
			return err
		}
	}
	return nil
}

// addCounts adds the counts to the file of a segment. It keeps the entries, which may be of records that are
// damaged now.
func (x *logIndex) addCounts(ctx context.Context, old *segment) error {
	s := newOpenSegment(old.first)
	s.last, s.newest, s.appNames, s.countedFrom = old.last, old.newest, old.apps, old.last+1
	for i, app := range old.apps {
		s.apps[app] = uint32(i)
	}
	var err error
	if s.tasks, s.list, err = old.all(); err != nil {
		return err
	}
	if err := x.countLoaded(ctx, s); err != nil {
		return err
	}
	return x.replace(old, s)
}

// countLoaded counts the ends in the messages of a segment that was read from its tail.
func (x *logIndex) countLoaded(ctx context.Context, s *openSegment) error {
	s.counting.Lock()
	defer s.counting.Unlock()
	if s.countedFrom == s.first {
		return nil
	}
	part := newOpenSegment(s.first)
	err := x.source.ReadFrom(ctx, s.first, func(m *jetstream.Message) error {
		if m.Seq >= s.countedFrom {
			return errEndOfSegment
		}
		for _, r := range m.Records {
			if h, err := parseHeader(r.Data, &part.parser); err == nil {
				if e, ok := endOf(&h, r.Data, &part.parser); ok {
					part.counts.add(part.app(h.App), &e)
				}
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEndOfSegment) {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, row := range part.counts.rows {
		var ok bool
		if key.app, ok = s.apps[part.appNames[key.app]]; ok {
			s.counts.row(key).merge(row)
		}
	}
	s.countedFrom = s.first
	return nil
}

// seal makes a full segment a file.
func (x *logIndex) seal(s *openSegment) error {
	name := x.name(s.first, segmentSuffix)
	err := x.countLoaded(context.Background(), s)
	if err == nil {
		err = writeSegment(name, s)
	}
	var sealed *segment
	if err == nil {
		sealed, err = openSegmentFile(name)
	}
	if err != nil {
		x.log.Warn("cannot write the index; retrying", "err", err)
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sealed = append(x.sealed, sealed)
	x.full = slices.DeleteFunc(x.full, func(other *openSegment) bool { return other == s })
	if err := os.Remove(x.name(s.first, tailSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.log.Warn("cannot delete a file of the index", "err", err)
	}
	return nil
}

// loadKeys adds the keys of the sealed segments to the filter.
func (x *logIndex) loadKeys() error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range x.sealed {
		if time.Since(s.newest) > x.keyTTL {
			continue
		}
		_, entries, err := s.all()
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.position.isOfKey() {
				x.filter.add(binary.BigEndian.AppendUint64(nil, e.hash), s.newest, x.keyTTL)
			}
		}
	}
	for _, s := range append(slices.Clone(x.full), x.open) {
		for _, e := range s.list {
			if e.position.isOfKey() {
				x.filter.add(binary.BigEndian.AppendUint64(nil, e.hash), time.Now(), x.keyTTL)
			}
		}
	}
	x.filter.complete.Store(true)
	return nil
}

// findID returns the positions of the records of a notification in the order of the log.
func (x *logIndex) findID(id uuid.UUID) ([]position, error) {
	return x.find(hashID(id), createdAt(id), false)
}

// findState returns the positions of the records of a notification up to its end: those after it, of
// which there are usually none, have no effect. It reads far fewer segments than findID.
func (x *logIndex) findState(id uuid.UUID) ([]position, error) {
	return x.find(hashID(id), createdAt(id), true)
}

// findKey returns the positions of the records with a key. There are none if the filter knows that.
func (x *logIndex) findKey(keyHash []byte, since time.Time) ([]position, error) {
	hash := hashKey(keyHash)
	if !x.filter.mayContain(binary.BigEndian.AppendUint64(nil, hash)) {
		return nil, nil
	}
	return x.find(hash, since, false)
}

// find returns the positions of the records with a hash that were stored after a time. With untilEnd, it
// does not read the segments after that with an end.
func (x *logIndex) find(hash uint64, since time.Time, untilEnd bool) (found []position, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range x.sealed {
		if s.newest.Before(since) {
			continue
		}
		if found, err = s.find(hash, found); err != nil {
			return nil, err
		}
		if untilEnd && slices.ContainsFunc(found, position.isEnd) {
			return found, nil
		}
	}
	for _, s := range x.full {
		found = s.find(hash, found)
	}
	return x.open.find(hash, found), nil
}

// clockSkew is how much clocks may differ.
const clockSkew = time.Minute

// createdAt returns a time before the first record of a notification, which is in its ID. It returns zero
// if the ID has no time.
func createdAt(id uuid.UUID) time.Time {
	if v := id.Version(); v != 7 && v != 8 { // 8: of a broadcast
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).Add(-clockSkew)
}

// nextWith returns the first message from seq on that may have records of an app ("": any), or a message
// after the last one.
func (x *logIndex) nextWith(app string, seq uint64) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range x.sealed {
		if seq <= s.last && app != "" && !slices.Contains(s.apps, app) {
			seq = s.last + 1
		}
	}
	for _, s := range append(slices.Clone(x.full), x.open) {
		if _, ok := s.apps[app]; seq <= s.last && app != "" && !ok {
			seq = s.last + 1
		}
	}
	return seq
}

// prevWith returns the last message up to seq that may have records of an app, or zero if there is none.
func (x *logIndex) prevWith(app string, seq uint64) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range slices.Backward(append(slices.Clone(x.full), x.open)) {
		if _, ok := s.apps[app]; seq >= s.first && seq <= s.last && !ok {
			seq = s.first - 1
		}
	}
	for _, s := range slices.Backward(x.sealed) {
		if seq >= s.first && seq <= s.last && !slices.Contains(s.apps, app) {
			seq = s.first - 1
		}
	}
	return seq
}

// taggedBefore returns the positions of the entries for a tag of an app that are before a position, the
// last ones first and at most limit. It ends at the segment with message from.
func (x *logIndex) taggedBefore(app, tag string, p position, from uint64, limit int) (found []position, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	hash := hashTag(app, tag)
	for _, s := range slices.Backward(append(slices.Clone(x.full), x.open)) {
		if s.last >= from && len(found) < limit {
			found = s.before(hash, p, limit-len(found), found)
		}
	}
	for _, s := range slices.Backward(x.sealed) {
		if s.last < from || len(found) == limit {
			break
		}
		if found, err = s.before(hash, p, limit-len(found), found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// at returns the IDs of the tasks, and the hashes of the notifications of the other records, that are
// lost.
func (x *logIndex) at(isLost func(position) bool) (ids []uuid.UUID, hashes []uint64, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range x.sealed {
		tasks, entries, err := s.all()
		if err != nil {
			return nil, nil, err
		}
		for _, t := range tasks {
			if isLost(t.position) {
				ids = append(ids, t.id)
			}
		}
		for _, e := range entries {
			if isLost(e.position) && e.position.isOfID() {
				hashes = append(hashes, e.hash)
			}
		}
	}
	for _, s := range append(slices.Clone(x.full), x.open) {
		for _, t := range s.tasks {
			if isLost(t.position) {
				ids = append(ids, t.id)
			}
		}
		for _, e := range s.list {
			if isLost(e.position) && e.position.isOfID() {
				hashes = append(hashes, e.hash)
			}
		}
	}
	return ids, hashes, nil
}

// task returns the ID and the app of the task with a hash.
func (x *logIndex) task(hash uint64) (id uuid.UUID, app string, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range append(slices.Clone(x.full), x.open) {
		for _, t := range s.tasks {
			if hashID(t.id) == hash {
				return t.id, s.appNames[t.app], true
			}
		}
	}
	for _, s := range slices.Backward(x.sealed) {
		tasks, _, err := s.all()
		if err != nil {
			continue
		}
		for _, t := range tasks {
			if hashID(t.id) == hash {
				return t.id, s.apps[t.app], true
			}
		}
	}
	return id, "", false
}

// last returns the last message in the index.
func (x *logIndex) last() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.lastSeq()
}

// rebuild makes the files of all sealed segments again.
func (x *logIndex) rebuild(ctx context.Context, l *jetstream.Log) error {
	x.mu.RLock()
	sealed := slices.Clone(x.sealed)
	x.mu.RUnlock()
	for _, old := range sealed {
		if err := x.rebuildSegment(ctx, l, old); err != nil {
			return err
		}
	}
	return nil
}

// rebuildSegment makes the file of a sealed segment again.
func (x *logIndex) rebuildSegment(ctx context.Context, l *jetstream.Log, old *segment) error {
	s := newOpenSegment(old.first)
	err := l.ReadFrom(ctx, old.first, func(m *jetstream.Message) error {
		if m.Seq > old.last {
			return errEndOfSegment
		}
		for i, r := range m.Records {
			s.addRecord(nil, jetstream.Offset{Seq: m.Seq, Index: i}, r.Data, x.filter, x.keyTTL)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEndOfSegment) {
		return err
	}
	s.last = old.last
	return x.replace(old, s)
}

// replace makes s the content of a sealed segment.
func (x *logIndex) replace(old *segment, s *openSegment) error {
	name := x.name(old.first, segmentSuffix)
	if err := writeSegment(name, s); err != nil {
		return err
	}
	again, err := openSegmentFile(name)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	i := slices.Index(x.sealed, old)
	if i < 0 { // it was deleted meanwhile
		return again.remove()
	}
	x.sealed[i] = again
	return old.file.Close()
}

var errEndOfSegment = errors.New("history: end of segment")

// lastIndexOf returns the index of the last record in a message, or -1 if it is not in the index.
func (x *logIndex) lastIndexOf(seq uint64) (last int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	last = -1
	see := func(p position) {
		if at := p.offset(); at.Seq == seq {
			last = max(last, at.Index)
		}
	}
	for _, s := range x.sealed {
		if seq < s.first || seq > s.last {
			continue
		}
		tasks, entries, err := s.all()
		if err != nil {
			return -1
		}
		for _, t := range tasks {
			see(t.position)
		}
		for _, e := range entries {
			see(e.position)
		}
	}
	for _, s := range append(slices.Clone(x.full), x.open) {
		for _, e := range s.list {
			see(e.position)
		}
	}
	return last
}

// dropBefore deletes the segments that have only messages before seq.
func (x *logIndex) dropBefore(seq uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.sealed) > 0 && x.sealed[0].last < seq {
		if err := x.sealed[0].remove(); err != nil {
			x.log.Warn("cannot delete a file of the index", "err", err)
		}
		x.sealed = x.sealed[1:]
	}
}

func (x *logIndex) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var err error
	for _, s := range x.sealed {
		err = errors.Join(err, s.file.Close())
	}
	if x.tail != nil {
		err = errors.Join(err, x.tail.Close())
	}
	return err
}
