// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// auditRecord is what an audit stores of an event or a task.
type auditRecord struct {
	ID      uuid.UUID
	Seq     uint64
	End     uint64 // hash of the end
	Key     uint64 // hash of the Idempotency-Key, or 0
	At      int64  // in milliseconds
	Index   uint32
	App     uint32
	Attempt uint32
	Kind    kind
	Flags   uint8
	_       [2]byte
}

type kind uint8

const (
	kindQueued  kind = iota // a task in a queue
	kindWaiting             // an event with status queued or scheduled
	kindSending
	kindCancelled
	kindEnded
)

const (
	flagLate      = 1 << iota // appended while the audit ran
	flagDelivered             // the provider accepted it
	flagLost                  // it ended because the disk or the cluster lost its task
	flagNotStored             // it ended because its task was never stored
)

func kindOf(s push.Status) kind {
	switch {
	case isWaiting(s):
		return kindWaiting
	case s == push.StatusSending:
		return kindSending
	case s == push.StatusCancelled:
		return kindCancelled
	default:
		return kindEnded
	}
}

// auditState is the state of one notification. It is independent of State on purpose, so that an
// audit also checks State.
type auditState struct {
	first     *auditRecord
	key       uint64 // of its first event with an Idempotency-Key, or 0
	keyFrom   int64  // time of its first event with the key
	keyUntil  int64  // and of its last one
	delivered bool
	lost      bool
	notStored bool
	accepted  bool // an event says so
	queued    bool // it is in a queue
	fromQueue bool // it was sent by the queue, not synchronously
	late      bool
	sending   bool // an attempt started and it was not rescheduled since
	cancelled bool
	ends      int
	end       uint64
}

func (s *auditState) apply(r *auditRecord) {
	if s.first.Seq == 0 {
		s.first = r
	}
	if r.Key != 0 {
		if s.key == 0 {
			s.key, s.keyFrom = r.Key, r.At
		}
		s.keyUntil = r.At
	}
	s.late = s.late || r.Flags&flagLate != 0
	s.lost = s.lost || r.Flags&flagLost != 0
	s.notStored = s.notStored || r.Flags&flagNotStored != 0
	s.delivered = s.delivered || r.Flags&flagDelivered != 0
	switch r.Kind {
	case kindQueued:
		s.queued = true
	case kindWaiting:
		s.accepted = s.accepted || r.Attempt == 0
		s.sending = s.sending && r.Attempt == 0
	case kindSending:
		s.sending = true
		s.fromQueue = s.fromQueue || r.Key == 0
	case kindCancelled:
		if !s.sending && s.ends == 0 { // otherwise the cancellation came too late
			s.ends, s.cancelled = 1, true
		}
	case kindEnded:
		if s.ends == 0 || s.cancelled || r.End != s.end { // the same end may occur twice, after a write with unknown result
			s.ends++
		}
		s.end, s.cancelled = r.End, false
	}
}

// keyUse is a notification with an Idempotency-Key that was delivered or is waiting.
type keyUse struct {
	Key         uint64
	ID          uuid.UUID
	From, Until int64 // time of its first and last event with the key, in milliseconds
	Seq         uint64
	Index, App  uint32
}

// partitions stores records on disk, in partitions of which only one is in memory at a time. A
// partition keeps the order of its records.
type partitions[R any] struct {
	files   []*os.File
	writers []*bufio.Writer
}

func newPartitions[R any](dir, name string, count int) (*partitions[R], error) {
	p := &partitions[R]{files: make([]*os.File, count), writers: make([]*bufio.Writer, count)}
	for i := range p.files {
		file, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%02x", name, i)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.files[i], p.writers[i] = file, bufio.NewWriter(file)
	}
	return p, nil
}

// add stores a record in the partition of a random number.
func (p *partitions[R]) add(random uint64, r R) error {
	return binary.Write(p.writers[random%uint64(len(p.writers))], binary.LittleEndian, &r)
}

// all returns the records of one partition after the other.
func (p *partitions[R]) all() iter.Seq2[[]R, error] {
	return func(yield func([]R, error) bool) {
		for i := range p.files {
			records, err := p.read(i)
			if !yield(records, err) || err != nil {
				return
			}
		}
	}
}

func (p *partitions[R]) read(i int) ([]R, error) {
	if err := p.writers[i].Flush(); err != nil {
		return nil, err
	}
	size, err := p.files[i].Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	if _, err := p.files[i].Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	records := make([]R, int(size)/binary.Size(*new(R)))
	return records, binary.Read(bufio.NewReader(p.files[i]), binary.LittleEndian, records)
}

func (p *partitions[R]) close() error {
	var err error
	for _, file := range p.files {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}
