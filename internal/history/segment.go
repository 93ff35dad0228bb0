// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/atomicfile"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
)

// The index of a log consists of segments. Each has the entries of consecutive messages: one for each
// record, and one more for its Idempotency-Key and for each of its tags. A full segment is a file of sorted entries. The last one
// is in memory, and its entries are in a file in the order of the log (see tail.go). All of it can be
// made again from the log.

// entry says that the record at a position has a certain hash: that of its notification (hashID), of its
// key (hashKey), or of a tag (hashTag). The record itself shows whether it is the one that is looked for.
type entry struct {
	hash     uint64
	position position
}

func (e entry) compare(other entry) int {
	if e.hash != other.hash {
		return cmp.Compare(e.hash, other.hash)
	}
	return cmp.Compare(e.position, other.position)
}

// taskEntry is the entry of a task. It also has the ID and the app, so that a damaged task can be named.
type taskEntry struct {
	id       uuid.UUID
	position position
	app      uint32 // number in the segment
}

// position is the offset and the kind of a record: 40 bits of the sequence, 20 of the index,
// 4 of the kind.
type position uint64

const positionKinds = "?TSERCK"

func newPosition(at jetstream.Offset, kind record.Kind) position {
	return position(at.Seq<<24 | uint64(at.Index)<<4 | uint64(max(0, strings.IndexByte(positionKinds, byte(kind)))))
}

func (p position) offset() jetstream.Offset {
	return jetstream.Offset{Seq: uint64(p >> 24), Index: int(p >> 4 & 0xfffff)}
}

// The four bits of the kind in a position. An entry for a key has ofKey beside the kind. An entry for a
// tag has no kind: it is ofTag, or ofTagOfEnd if the record is the end of the notification.
const (
	ofKey      position = 8
	ofTag      position = 7
	ofTagOfEnd position = ofKey | ofTag
)

// isOfID reports whether the entry is that of the notification.
func (p position) isOfID() bool { return p&ofKey == 0 && !p.isOfTag() }

func (p position) isOfKey() bool { return p&ofKey != 0 && !p.isOfTag() }

func (p position) isOfTag() bool { return p&ofTag == ofTag }

// forTag returns the position of an entry for a tag of the record.
func (p position) forTag() position {
	if k := p.kind(); k == record.End || k == record.Cancel {
		return p&^ofTagOfEnd | ofTagOfEnd
	}
	return p&^ofTagOfEnd | ofTag
}

// isEnd reports whether the entry is that of a notification, and its record is the end.
func (p position) isEnd() bool {
	k := p.kind()
	return p.isOfID() && (k == record.End || k == record.Cancel)
}

// kind returns '?' for an event of a version without a log.
func (p position) kind() record.Kind {
	return record.Kind(positionKinds[min(int(p&(ofKey-1)), len(positionKinds)-1)])
}

// hashID returns the random part of a UUID of version 7.
func hashID(id uuid.UUID) uint64 { return binary.BigEndian.Uint64(id[8:]) }

// hashKey returns the hash of the hash of a key, which differs from that of an ID.
func hashKey(keyHash []byte) uint64 { return fnv(fnvOffset, keyHash) }

// hashTag returns the hash of a tag of an app's notifications.
func hashTag(app, tag string) uint64 { return fnv(fnv(fnv(fnvOffset, app), "\x00"), tag) }

const fnvOffset, fnvPrime = 14695981039346656037, 1099511628211 // FNV-1a

func fnv[T string | []byte](h uint64, data T) uint64 {
	for i := range len(data) {
		h = (h ^ uint64(data[i])) * fnvPrime
	}
	return h
}

// segment is a file of sorted entries:
//
//	magic, CRC-32 of the rest of the header, length of the header
//	header: first and last message, time of the newest record, count of tasks, entries and apps; the apps;
//	  the counts of the ends, which earlier versions do not have
//	tasks, sorted by hash: ID, position, app
//	entries, sorted by hash: hash, position
type segment struct {
	file           *os.File
	first, last    uint64
	newest         time.Time
	tasks, entries int
	apps           []string
	start          int64 // of the tasks in the file
	counts         int   // where the counts start in the header, or 0
}

const (
	segmentMagic = "SLX1"
	taskLen      = 16 + 8 + 4
	entryLen     = 8 + 8
)

var errBadSegment = errors.New("history: damaged segment of the index")

// writeSegment writes the file of a segment, which must not be empty, and syncs it.
func writeSegment(name string, s *openSegment) error {
	tasks, entries := slices.Clone(s.tasks), make([]entry, 0, len(s.list))
	slices.SortFunc(tasks, func(a, b taskEntry) int {
		return entry{hashID(a.id), a.position}.compare(entry{hashID(b.id), b.position})
	})
	for _, e := range s.list {
		if p := e.position; p.kind() != record.Task || !p.isOfID() {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, entry.compare)
	header := make([]byte, 0, 256)
	for _, n := range [...]uint64{s.first, s.last, uint64(s.newest.UnixMilli()), uint64(len(tasks)), uint64(len(entries)), uint64(len(s.appNames))} {
		header = binary.LittleEndian.AppendUint64(header, n)
	}
	for _, app := range s.appNames {
		header = append(binary.AppendUvarint(header, uint64(len(app))), app...)
	}
	header = appendCounts(header, &s.counts)
	b := make([]byte, 0, 12+len(header)+len(tasks)*taskLen+len(entries)*entryLen)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(header))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	for _, t := range tasks {
		b = append(b, t.id[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(t.position))
		b = binary.LittleEndian.AppendUint32(b, t.app)
	}
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint64(b, e.hash)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.position))
	}
	if err := atomicfile.Write(name, b); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// openSegmentFile opens a file of writeSegment. It checks the header and the size.
func openSegmentFile(name string) (*segment, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	s := &segment{file: file}
	if err := s.readHeader(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", errBadSegment, name, err), file.Close())
	}
	return s, nil
}

// header returns the header without what is before it.
func (s *segment) header() ([]byte, error) {
	start := make([]byte, 12)
	if _, err := s.file.ReadAt(start, 0); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(start[8:])
	if string(start[:4]) != segmentMagic || length < 48 || length > 64<<20 {
		return nil, errors.New("another format")
	}
	header := make([]byte, length)
	if _, err := s.file.ReadAt(header, int64(len(start))); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(header) != binary.LittleEndian.Uint32(start[4:]) {
		return nil, errors.New("wrong checksum")
	}
	return header, nil
}

// forEachCount calls f for the counts of an app.
func (s *segment) forEachCount(app string, f func(countKey, *counter)) error {
	number := slices.Index(s.apps, app)
	if number < 0 {
		return nil
	}
	header, err := s.header()
	if err == nil && s.counts < len(header) {
		err = parseCounts(header[s.counts:], func(key countKey, row *counter) {
			if key.app == uint32(number) {
				f(key, row)
			}
		})
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBadSegment, err)
	}
	return nil
}

func (s *segment) readHeader() error {
	header, err := s.header()
	if err != nil {
		return err
	}
	number := func(i int) uint64 { return binary.LittleEndian.Uint64(header[8*i:]) }
	s.first, s.last, s.newest, s.tasks, s.entries = number(0), number(1), time.UnixMilli(int64(number(2))), int(number(3)), int(number(4))
	left := header[48:]
	for range number(5) {
		size, n := binary.Uvarint(left)
		if n <= 0 || uint64(len(left)-n) < size {
			return errors.New("truncated")
		}
		s.apps, left = append(s.apps, string(left[n:][:size])), left[n:][size:]
	}
	if len(left) > 0 {
		s.counts = len(header) - len(left)
	}
	s.start = int64(12 + len(header))
	info, err := s.file.Stat()
	if err == nil && info.Size() != s.start+int64(s.tasks)*taskLen+int64(s.entries)*entryLen {
		err = errors.New("wrong size")
	}
	return err
}

// find adds the positions of all records with a hash to found.
func (s *segment) find(hash uint64, found []position) ([]position, error) {
	task := make([]byte, taskLen)
	err := s.scan(s.start, s.tasks, taskLen, hash, task, func() uint64 { return hashID(uuid.UUID(task[:16])) }, func() {
		found = append(found, position(binary.LittleEndian.Uint64(task[16:])))
	})
	if err != nil {
		return found, err
	}
	e := make([]byte, entryLen)
	err = s.scan(s.start+int64(s.tasks)*taskLen, s.entries, entryLen, hash, e, func() uint64 { return binary.LittleEndian.Uint64(e) }, func() {
		found = append(found, position(binary.LittleEndian.Uint64(e[8:])))
	})
	return found, err
}

// before adds the positions of entries with a hash that are before a position to found, the last ones
// first and at most limit.
func (s *segment) before(hash uint64, p position, limit int, found []position) ([]position, error) {
	start := s.start + int64(s.tasks)*taskLen
	e := make([]byte, entryLen)
	var err error
	end := sort.Search(s.entries, func(i int) bool {
		if err == nil {
			_, err = s.file.ReadAt(e, start+int64(i)*entryLen)
		}
		return entry{binary.LittleEndian.Uint64(e), position(binary.LittleEndian.Uint64(e[8:]))}.compare(entry{hash, p}) >= 0
	})
	from := max(0, end-limit)
	block := make([]byte, (end-from)*entryLen)
	if err == nil {
		_, err = s.file.ReadAt(block, start+int64(from)*entryLen)
	}
	if err != nil {
		return found, fmt.Errorf("%w: %w", errBadSegment, err)
	}
	for ; len(block) > 0; block = block[:len(block)-entryLen] {
		last := block[len(block)-entryLen:]
		if binary.LittleEndian.Uint64(last) != hash {
			break
		}
		found = append(found, position(binary.LittleEndian.Uint64(last[8:])))
	}
	return found, nil
}

// scan calls match for each of count items with a hash, which are sorted by it. It reads each item into
// buffer before it calls key or match.
func (s *segment) scan(start int64, count, size int, hash uint64, buffer []byte, key func() uint64, match func()) (err error) {
	read := func(i int) bool {
		if err == nil {
			_, err = s.file.ReadAt(buffer, start+int64(i)*int64(size))
		}
		return err == nil
	}
	low, high := 0, count
	for low < high && err == nil {
		if middle := (low + high) / 2; read(middle) && key() < hash {
			low = middle + 1
		} else {
			high = middle
		}
	}
	for i := low; i < count && read(i) && key() == hash; i++ {
		match()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBadSegment, err)
	}
	return nil
}

// all returns all tasks and all entries.
func (s *segment) all() (tasks []taskEntry, entries []entry, err error) {
	data := make([]byte, s.tasks*taskLen+s.entries*entryLen)
	if _, err := s.file.ReadAt(data, s.start); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errBadSegment, err)
	}
	for range s.tasks {
		t := taskEntry{uuid.UUID(data[:16]), position(binary.LittleEndian.Uint64(data[16:])), binary.LittleEndian.Uint32(data[24:])}
		tasks, data = append(tasks, t), data[taskLen:]
	}
	for range s.entries {
		entries, data = append(entries, entry{binary.LittleEndian.Uint64(data), position(binary.LittleEndian.Uint64(data[8:]))}), data[entryLen:]
	}
	return tasks, entries, nil
}

// remove closes and deletes the file.
func (s *segment) remove() error { return errors.Join(s.file.Close(), os.Remove(s.file.Name())) }

// openSegment is a segment in memory, to which records are added.
type openSegment struct {
	first, last uint64
	bytes       int // of the records
	newest      time.Time
	list        []entry // in the order of the log
	tasks       []taskEntry
	apps        map[string]uint32
	appNames    []string
	lastApp     uint32 // of the last record
	parser      record.HeaderParser
	counts      counts
	counting    sync.Mutex // of countLoaded
	countedFrom uint64     // messages before it are not in counts

	mu       sync.Mutex // guards what find has built
	heads    []int32    // hash table with linear probing: the last of list with a hash, plus 1, or 0
	previous []int32    // for each entry of list in the table, the one before it with the same hash, plus 1, or 0
}

func newOpenSegment(first uint64) *openSegment {
	return &openSegment{first: first, last: first - 1, countedFrom: first, apps: map[string]uint32{}}
}

func (s *openSegment) add(hash uint64, p position) { s.list = append(s.list, entry{hash, p}) }

// app returns the number of an app.
func (s *openSegment) app(name string) uint32 {
	if len(s.appNames) > 0 && s.appNames[s.lastApp] == name {
		return s.lastApp
	}
	n, ok := s.apps[name]
	if !ok {
		n = uint32(len(s.appNames))
		s.apps[name], s.appNames = n, append(s.appNames, name)
	}
	s.lastApp = n
	return n
}

// find adds the positions of all records with a hash to found.
func (s *openSegment) find(hash uint64, found []position) []position {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buildTable()
	from := len(found)
	for at := *s.head(hash); at > 0; at = s.previous[at-1] {
		found = append(found, s.list[at-1].position)
	}
	slices.Reverse(found[from:])
	return found
}

// before is segment.before.
func (s *openSegment) before(hash uint64, p position, limit int, found []position) []position {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buildTable()
	for at := *s.head(hash); at > 0 && limit > 0; at = s.previous[at-1] {
		if e := s.list[at-1]; e.position < p {
			found = append(found, e.position)
			limit--
		}
	}
	return found
}

// buildTable adds the entries to the hash table that were added since the last lookup. Most entries are
// never looked up before their segment becomes a file.
func (s *openSegment) buildTable() {
	if 2*len(s.list) >= len(s.heads) {
		s.heads, s.previous = make([]int32, max(1024, 1<<bits.Len(uint(2*len(s.list))))), nil
	}
	for i := len(s.previous); i < len(s.list); i++ {
		head := s.head(s.list[i].hash)
		s.previous = append(s.previous, *head)
		*head = int32(i + 1)
	}
}

// head returns the place of a hash in heads.
func (s *openSegment) head(hash uint64) *int32 {
	mask := uint64(len(s.heads) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if at := s.heads[i]; at == 0 || s.list[at-1].hash == hash {
			return &s.heads[i]
		}
	}
}
