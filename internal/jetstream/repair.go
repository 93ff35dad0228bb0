// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/minio/highwayhash"
	"golang.org/x/sync/errgroup"
)

// The server cuts a block off at the first record that does not fit its checksum, and so loses every record behind one
// flipped bit; and after a proper end it reads no block at all before it is asked for what stands there. So before it
// starts, whole records that stand behind damage are moved up to where the damage begins. A gap in a block's sequences is nothing new to the server: its
// own compaction leaves such. The end of a file that makes no sense is left to it, and so is a file in which nothing can be
// read behind the damage: perhaps another version wrote it.

// A record begins with its length (4 bytes, of which the first bit says that there are headers), sequence (8), time (8) and
// the length of its subject (2), and ends with a checksum of all but the lengths: nats-server 2.15, filestore.go.
const (
	recordHeaderLen = 22
	checksumLen     = 8
	natsHeaderLen   = 4
	natsHeaderBit   = 1 << 31
	maxRecord       = 32 << 20

	stateFile = "index.db"
)

// damagedRange is a part of a block that is no record.
type damagedRange struct {
	from, to int
	seq      uint64 // of the record that began there, as far as can be told
}

// repair mends every block in the folder.
func (s *server) repair() error {
	began, all := time.Now(), int64(0)
	var mending errgroup.Group
	mending.SetLimit(runtime.GOMAXPROCS(0))
	for name, size := range blockSizes(s.cfg.Dir) {
		all += size
		mending.Go(func() error { return s.repairBlock(name) })
	}
	err := mending.Wait()
	if took := time.Since(began); took > time.Second {
		s.cfg.Logger.Info("engine: has looked for damage", "bytes", all, "took", took)
	}
	return err
}

// repairBlock takes the holes out of a block, and tells of each. The block as it was is kept in the folder "damaged".
func (s *server) repairBlock(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	holes, end := newBlockReader(name).damagedRanges(text)
	if end < len(text) || len(holes) > 0 { // the server's summary of its blocks is no longer true; without it, it reads them
		if err := os.Remove(filepath.Join(filepath.Dir(name), stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("engine: %w", err)
		}
	}
	if len(holes) == 0 {
		return nil
	}
	whole, at := make([]byte, 0, len(text)), 0
	for _, h := range holes {
		s.cfg.Logger.Error("engine: the disk has damaged a record, which is lost; what stands behind it is kept",
			"file", name, "stream", streamName(name), "seq", h.seq, "bytes", h.to-h.from)
		whole, at = append(whole, text[at:h.from]...), h.to
	}
	return s.replaceBlock(name, append(whole, text[at:]...))
}

// replaceBlock puts another text in a file's place, and the file aside, so that after a crash in between the one or the other is
// there.
func (s *server) replaceBlock(name string, text []byte) error {
	aside := filepath.Join(s.cfg.Dir, "damaged")
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	kept := filepath.Join(aside, fmt.Sprintf("%s-%d-%s", streamName(name), time.Now().UnixNano(), filepath.Base(name)))
	if err := errors.Join(os.Link(name, kept), writeSynced(name+".mended", text), os.Rename(name+".mended", name)); err != nil {
		return fmt.Errorf("engine: cannot mend %s: %w", name, err)
	}
	return nil
}

// writeSynced writes a file and has it on disk.
func writeSynced(name string, text []byte) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}

// streamName is the stream of a block in .../STREAM/msgs/N.blk.
func streamName(name string) string { return filepath.Base(filepath.Dir(filepath.Dir(name))) }

// blockReader knows a block's records by their checksums.
type blockReader struct{ hash *highwayhash.Digest64 }

func newBlockReader(name string) blockReader {
	key := sha256.Sum256([]byte(streamName(name) + "-" + strings.TrimSuffix(filepath.Base(name), ".blk")))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // the key has another length
	}
	return blockReader{hash}
}

// damagedRanges returns where text is not whole records, and how far it makes sense.
func (r blockReader) damagedRanges(text []byte) (holes []damagedRange, end int) {
	at := 0
	for at < len(text) {
		if n := r.recordLen(text[at:]); n > 0 {
			at += n
			continue
		}
		next := at + 1
		for next < len(text) && r.recordLen(text[next:]) == 0 {
			next++
		}
		if next == len(text) {
			break
		}
		holes = append(holes, damagedRange{at, next, binary.LittleEndian.Uint64(text[at+4:])})
		at = next
	}
	return holes, at
}

// recordLen returns the length of the whole record that text begins with, 0 if it begins with none.
func (r blockReader) recordLen(text []byte) int {
	if len(text) < recordHeaderLen+checksumLen {
		return 0
	}
	length, subject := binary.LittleEndian.Uint32(text), int(binary.LittleEndian.Uint16(text[recordHeaderLen-2:]))
	n, headers := int(length&^natsHeaderBit), 0
	if length&natsHeaderBit != 0 {
		headers = natsHeaderLen
	}
	if n > min(len(text), maxRecord) || recordHeaderLen+subject+headers+checksumLen > n {
		return 0
	}
	r.hash.Reset()
	for _, part := range [][]byte{text[4 : recordHeaderLen-2], text[recordHeaderLen : recordHeaderLen+subject], text[recordHeaderLen+subject+headers : n-checksumLen]} {
		_, _ = r.hash.Write(part) // it never fails
	}
	if !bytes.Equal(r.hash.Sum(nil), text[n-checksumLen:n]) {
		return 0
	}
	return n
}
