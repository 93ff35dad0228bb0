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

// auditRecord is what an audit remembers of an event, or of a task in a queue.
type auditRecord struct {
	ID      uuid.UUID
	Seq     uint64
	End     uint64 // tells one end from another
	Index   uint32
	App     uint32
	Attempt uint32
	Kind    kind
	Flags   uint8
	_       [2]byte
}

type kind uint8

const (
	kindQueued  kind = iota // it is in a queue
	kindWaiting             // an event tells that it waits
	kindSending
	kindCancelled
	kindEnded
)

const (
	flagLate  = 1 << iota // it came while the audit was running
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

// auditState is what the records of one notification come to. It judges for itself, and not as the index does.
type auditState struct {
	first     *auditRecord
	accepted  bool // an event tells that it was
	queued    bool // it is in a queue
	fromQueue bool // it was sent, and not for a caller who waited
	late      bool
	sending   bool // it left, and does not wait again
	cancelled bool
	ends      int
	end       uint64
}

func (f *auditState) apply(r *auditRecord) {
	if f.first.Seq == 0 {
		f.first = r
	}
	f.late = f.late || r.Flags&flagLate != 0
	switch r.Kind {
	case kindQueued:
		f.queued = true
	case kindWaiting:
		f.accepted = f.accepted || r.Attempt == 0
		f.sending = f.sending && r.Attempt == 0
	case kindSending:
		f.sending = true
		f.fromQueue = f.fromQueue || r.Flags&flagKeyed == 0
	case kindCancelled:
		if !f.sending && f.ends == 0 { // otherwise it came too late, and its caller was told so
			f.ends, f.cancelled = 1, true
		}
	case kindEnded:
		if f.ends == 0 || f.cancelled || r.End != f.end { // the same end may have been written twice
			f.ends++
		}
		f.end, f.cancelled = r.End, false
	}
}

// partitions keep records on disk, those of one notification on one shelf in their order, so that only one shelf has to be in
// memory at a time.
type partitions struct {
	files   [256]*os.File
	writers [256]*bufio.Writer
}

func newPartitions(dir string) (*partitions, error) {
	s := new(partitions)
	for i := range s.files {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%02x", i)))
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.files[i], s.writers[i] = file, bufio.NewWriter(file)
	}
	return s, nil
}

// add shelves a record. The last byte of a UUID is random.
func (s *partitions) add(r auditRecord) error {
	return binary.Write(s.writers[r.ID[15]], binary.LittleEndian, &r)
}

// all returns the records shelf by shelf.
func (s *partitions) all() iter.Seq2[[]auditRecord, error] {
	return func(yield func([]auditRecord, error) bool) {
		for i := range s.files {
			records, err := s.read(i)
			if !yield(records, err) || err != nil {
				return
			}
		}
	}
}

func (s *partitions) read(i int) ([]auditRecord, error) {
	if err := s.writers[i].Flush(); err != nil {
		return nil, err
	}
	size, err := s.files[i].Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	if _, err := s.files[i].Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	records := make([]auditRecord, int(size)/binary.Size(auditRecord{}))
	return records, binary.Read(bufio.NewReader(s.files[i]), binary.LittleEndian, records)
}

func (s *partitions) close() error {
	var err error
	for _, file := range s.files {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}
