// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"container/heap"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// A checkpoint is a file with the state of a table after a message, so that a restart reads only the
// messages after it. It can be deleted. checkpointInterval is how many bytes of records are stored
// between two checkpoints.
const (
	checkpointFormat   = 4
	checkpointInterval = 32 << 20
)

var errNoCheckpoint = errors.New("queue: no checkpoint")

// storedBits are the bits in a checkpoint. A task that is open and neither later nor sending is ready.
var storedBits = [...]bit{isOpen, isLater, isSending}

// appendCheckpoint appends the state after message seq of the log with this ID.
func (t *table) appendCheckpoint(b []byte, log string, seq uint64) []byte {
	start := len(b)
	b = append(b, checkpointFormat)
	b = appendText(b, log)
	b = binary.AppendUvarint(b, seq)
	writers := map[*writer]uint64{}
	b = binary.AppendUvarint(b, uint64(len(t.writers)))
	for name, w := range t.writers {
		writers[w] = uint64(len(writers)) + 1 // zero is none
		b = appendText(b, name)
	}
	numbers := map[*flow]uint64{}
	b = binary.AppendUvarint(b, uint64(len(t.flows)))
	for key, fl := range t.flows {
		numbers[fl] = uint64(len(numbers))
		for _, text := range [...]string{key.app, string(key.platform), string(key.lane)} {
			b = appendText(b, text)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(t.frames)))
	for _, seq := range t.seqs {
		frames := t.frames[seq]
		if len(frames) == 0 {
			continue
		}
		b = binary.AppendUvarint(binary.AppendUvarint(b, seq), uint64(len(frames)))
		for _, f := range frames {
			b = f.appendTo(b, numbers[f.flow], writers[f.writer])
		}
	}
	b = binary.AppendUvarint(b, uint64(len(t.started)))
	for at, p := range t.started {
		for _, n := range [...]uint64{at.Seq, uint64(at.Index), uint64(p.attempts), uint64(p.reschedules), p.rescheduled.Seq, uint64(p.rescheduled.Index), uint64(p.due), writers[p.writer]} {
			b = binary.AppendUvarint(b, n)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(t.later)))
	for _, d := range t.later {
		for _, n := range [...]uint64{uint64(d.due), d.task.Seq, uint64(d.task.Index)} {
			b = binary.AppendUvarint(b, n)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(t.calls)))
	for id, w := range t.calls {
		b = binary.AppendUvarint(append(b, id[:]...), writers[w])
	}
	b = t.appendTallies(b)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (f *frame) appendTo(b []byte, flow, writer uint64) []byte {
	words := len(f.bits) / int(bitCount)
	for _, n := range [...]uint64{flow, writer, uint64(f.base), uint64(f.count), uint64(f.bytes), uint64(words)} {
		b = binary.AppendUvarint(b, n)
	}
	for w := range words {
		for _, stored := range storedBits {
			b = binary.LittleEndian.AppendUint64(b, f.bits[w*int(bitCount)+int(stored)])
		}
	}
	return b
}

// parse reads a checkpoint of the log with this ID into an empty table, and returns the message after
// which it was made.
func (t *table) parse(data []byte, log string) (seq uint64, err error) {
	if len(data) < 5 || data[0] != checkpointFormat || crc32.ChecksumIEEE(data[:len(data)-4]) != binary.LittleEndian.Uint32(data[len(data)-4:]) {
		return 0, errNoCheckpoint
	}
	r := checkpointReader{data[1 : len(data)-4]}
	if r.text() != log {
		return 0, errNoCheckpoint
	}
	seq = r.number()
	writers := make([]*writer, 1+r.number())
	for i := range writers[1:] {
		writers[i+1] = t.writer(r.text())
	}
	flows := make([]flowKey, r.number())
	for i := range flows {
		flows[i] = flowKey{r.text(), push.Platform(r.text()), push.Lane(r.text())}
	}
	for range r.number() {
		message := r.number()
		t.seqs = append(t.seqs, message)
		for range r.number() {
			t.frames[message] = append(t.frames[message], t.readFrame(&r, message, flows, writers))
		}
	}
	for range r.number() {
		at := jetstream.Offset{Seq: r.number(), Index: int(r.number())}
		p := progress{
			int(r.number()), int(r.number()), jetstream.Offset{Seq: r.number(), Index: int(r.number())}, int64(r.number()), writers[r.number()],
		}
		t.started[at] = p
		if f := t.find(at); f != nil && f.has(isSending, at.Index) && p.writer != nil {
			p.writer.sending++
		}
	}
	for range r.number() {
		t.later = append(t.later, dueTask{int64(r.number()), jetstream.Offset{Seq: r.number(), Index: int(r.number())}})
	}
	heap.Init(&t.later)
	for range r.number() {
		id := uuid.UUID(r.b[:16])
		r.b = r.b[16:]
		t.calls[id] = writers[r.number()]
	}
	if err := json.Unmarshal(r.b, &t.tallies); err != nil {
		return 0, fmt.Errorf("queue: %w", err)
	}
	return seq, nil
}

// readFrame reads a frame and counts its tasks.
func (t *table) readFrame(r *checkpointReader, seq uint64, flows []flowKey, writers []*writer) *frame {
	key, w := flows[r.number()], writers[r.number()]
	f := &frame{seq: seq, base: int(r.number())}
	if w == nil { // of this gateway
		w = t.self
	}
	f.backlog = t.backlog(key, w)
	f.from, f.count, f.bytes = f.base, int(r.number()), int64(r.number())
	f.bits = make([]uint64, int(r.number())*int(bitCount))
	for w := 0; w < len(f.bits); w += int(bitCount) {
		for _, stored := range storedBits {
			f.bits[w+int(stored)] = r.word()
		}
	}
	for index := f.base; f.contains(index); index++ {
		if !f.has(isOpen, index) {
			continue
		}
		f.left++
		switch {
		case f.has(isLater, index):
			f.later++
		case !f.has(isSending, index):
			t.setReady(f, index, true)
		}
	}
	t.count(f, +1)
	t.enqueue(f)
	return f
}

// checkpointReader reads the values of a checkpoint whose checksum is correct.
type checkpointReader struct{ b []byte }

func (r *checkpointReader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	r.b = r.b[size:]
	return n
}

func (r *checkpointReader) word() uint64 {
	word := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return word
}

func (r *checkpointReader) text() string {
	length := r.number()
	s := string(r.b[:length])
	r.b = r.b[length:]
	return s
}

// errGap means that the message after a checkpoint is deleted. It may have ended a task.
var errGap = errors.New("queue: the messages after the checkpoint are deleted")

// readTable returns the state of the tasks: the last checkpoint, and the log after it. Without a usable
// checkpoint it reads the whole log.
func readTable(ctx context.Context, cfg *Config) (*table, error) {
	t := cfg.newTable()
	data, err := os.ReadFile(cfg.Checkpoint)
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoCheckpoint
	}
	var seq uint64
	if err == nil {
		seq, err = t.parse(data, cfg.Log.ID())
	}
	if err == nil {
		err = t.replay(ctx, cfg.Log, seq)
	}
	if err != nil {
		if !errors.Is(err, errNoCheckpoint) {
			cfg.Logger.Warn("cannot use the checkpoint of the queue; reading the whole log", "file", cfg.Checkpoint, "err", err)
		}
		_ = os.Remove(cfg.Checkpoint) // it may belong to a backup of the log
		t = cfg.newTable()
		err = t.replay(ctx, cfg.Log, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return t, nil
}

// newTable returns an empty table.
func (c *Config) newTable() *table { return newTable(c.Log.Writer(), c.Log.IsOwn, c.InFlight) }

// replay applies the messages after seq, or all if seq is zero.
func (t *table) replay(ctx context.Context, log Log, seq uint64) error {
	next := seq + 1
	err := log.ReadFrom(ctx, next, func(m *jetstream.Message) error {
		if seq > 0 && m.Seq > next {
			return errGap
		}
		next = math.MaxUint64
		t.apply(m)
		return nil
	})
	if err == nil && seq > 0 && next == seq+1 && log.LastSeq() != seq {
		err = errGap
	}
	return err
}

// checkpoints writes checkpoints while the queue runs.
type checkpoints struct {
	name   string // of the file; empty for none
	log    string // ID of the log
	stored int    // bytes of records since the last checkpoint
	seq    uint64 // the last message
	toSave chan []byte
}

// add makes a checkpoint after message m, if it is time for one. The caller holds the lock of the table.
func (c *checkpoints) add(t *table, m *jetstream.Message) {
	if c.name == "" {
		return
	}
	c.seq = m.Seq
	for _, r := range m.Records {
		c.stored += len(r.Data)
	}
	if c.stored < checkpointInterval {
		return
	}
	data := c.next(t)
	select {
	case <-c.toSave: // an older one
	default:
	}
	c.toSave <- data
}

// next returns a checkpoint after the last message, or nil if there was no message since the last one.
func (c *checkpoints) next(t *table) []byte {
	if c.stored == 0 {
		return nil
	}
	c.stored = 0
	return t.appendCheckpoint(nil, c.log, c.seq)
}
