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

// record is what an audit remembers of an event, or of a task in a queue.
type record struct {
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
	isQueued  kind = iota // it is in a queue
	isWaiting             // an event tells that it waits
	isSending
	isCancelled
	ends
)

const (
	isLate  = 1 << iota // it came while the audit was running
	isKeyed             // it has an Idempotency-Key
)

func kindOf(s push.Status) kind {
	switch {
	case waits(s):
		return isWaiting
	case s == push.StatusSending:
		return isSending
	case s == push.StatusCancelled:
		return isCancelled
	default:
		return ends
	}
}

// fate is what the records of one notification come to. It judges for itself, and not as the index does.
type fate struct {
	first     *record
	accepted  bool // an event tells that it was
	queued    bool // it is in a queue
	fromQueue bool // it was sent, and not for a caller who waited
	late      bool
	sending   bool // it left, and does not wait again
	cancelled bool
	ends      int
	end       uint64
}

func (f *fate) take(r *record) {
	if f.first.Seq == 0 {
		f.first = r
	}
	f.late = f.late || r.Flags&isLate != 0
	switch r.Kind {
	case isQueued:
		f.queued = true
	case isWaiting:
		f.accepted = f.accepted || r.Attempt == 0
		f.sending = f.sending && r.Attempt == 0
	case isSending:
		f.sending = true
		f.fromQueue = f.fromQueue || r.Flags&isKeyed == 0
	case isCancelled:
		if !f.sending && f.ends == 0 { // otherwise it came too late, and its caller was told so
			f.ends, f.cancelled = 1, true
		}
	case ends:
		if f.ends == 0 || f.cancelled || r.End != f.end { // the same end may have been written twice
			f.ends++
		}
		f.end, f.cancelled = r.End, false
	}
}

// shelves keep records on disk, those of one notification on one shelf in their order, so that only one shelf has to be in
// memory at a time.
type shelves struct {
	files   [256]*os.File
	writers [256]*bufio.Writer
}

func newShelves(dir string) (*shelves, error) {
	s := new(shelves)
	for i := range s.files {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%02x", i)))
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.files[i], s.writers[i] = file, bufio.NewWriter(file)
	}
	return s, nil
}

// put shelves a record. The last byte of a UUID is random.
func (s *shelves) put(r record) error {
	return binary.Write(s.writers[r.ID[15]], binary.LittleEndian, &r)
}

// all returns the records shelf by shelf.
func (s *shelves) all() iter.Seq2[[]record, error] {
	return func(yield func([]record, error) bool) {
		for i := range s.files {
			records, err := s.shelf(i)
			if !yield(records, err) || err != nil {
				return
			}
		}
	}
}

func (s *shelves) shelf(i int) ([]record, error) {
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
	records := make([]record, int(size)/binary.Size(record{}))
	return records, binary.Read(bufio.NewReader(s.files[i]), binary.LittleEndian, records)
}

func (s *shelves) close() error {
	var err error
	for _, file := range s.files {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}
