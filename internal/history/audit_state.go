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
	flagLate  = 1 << iota // appended while the audit ran
	flagKeyed             // it has an Idempotency-Key
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
	s.late = s.late || r.Flags&flagLate != 0
	switch r.Kind {
	case kindQueued:
		s.queued = true
	case kindWaiting:
		s.accepted = s.accepted || r.Attempt == 0
		s.sending = s.sending && r.Attempt == 0
	case kindSending:
		s.sending = true
		s.fromQueue = s.fromQueue || r.Flags&flagKeyed == 0
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

// partitions stores records on disk, partitioned by ID, so that only one partition is in memory at
// a time. A partition keeps the order of its records.
type partitions struct {
	files   [256]*os.File
	writers [256]*bufio.Writer
}

func newPartitions(dir string) (*partitions, error) {
	p := new(partitions)
	for i := range p.files {
		file, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%02x", i)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.files[i], p.writers[i] = file, bufio.NewWriter(file)
	}
	return p, nil
}

// add stores a record. It partitions by the last byte of the UUID, which is random.
func (p *partitions) add(r auditRecord) error {
	return binary.Write(p.writers[r.ID[15]], binary.LittleEndian, &r)
}

// all returns the records of one partition after the other.
func (p *partitions) all() iter.Seq2[[]auditRecord, error] {
	return func(yield func([]auditRecord, error) bool) {
		for i := range p.files {
			records, err := p.read(i)
			if !yield(records, err) || err != nil {
				return
			}
		}
	}
}

func (p *partitions) read(i int) ([]auditRecord, error) {
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
	records := make([]auditRecord, int(size)/binary.Size(auditRecord{}))
	return records, binary.Read(bufio.NewReader(p.files[i]), binary.LittleEndian, records)
}

func (p *partitions) close() error {
	var err error
	for _, file := range p.files {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}
