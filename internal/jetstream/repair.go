// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/minio/highwayhash"
	nats "github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/panics"
)

// The server truncates a block at the first record with a wrong checksum, so one flipped bit loses
// all later records of the block. After a clean shutdown it does not read a block until a message
// of it is requested. repair therefore runs before the server starts and removes damaged ranges
// between valid records. The server accepts the gap in the sequences, because its own compaction
// leaves such gaps. repair leaves invalid data at the end of a block to the server, and does not
// touch a block without a valid record after the damage: another version may have written it.
//
// The items of a Log have checksums of their own. If only the body of such a message is damaged, repair
// keeps the message with a new checksum, and readers skip the damaged items.

// A record starts with its length (4 bytes; the first bit is set if it has headers), sequence (8),
// time (8) and subject length (2). It ends with a checksum over everything except the two lengths.
// See nats-server, filestore.go. TestRepairKnowsFormatOfServer compares it with the server in go.mod.
const (
	knownRelease = "2.15." // of the server

	recordHeaderLen = 22
	checksumLen     = 8
	natsHeaderLen   = 4
	natsHeaderBit   = 1 << 31
	maxRecord       = 32 << 20

	// The file of a stream that summarizes its blocks starts with a fixed byte and its version.
	stateFile         = "index.db"
	stateMagic        = 11
	knownStateVersion = 4 // and all before
)

// damagedRange is a part of a block that holds no valid record.
type damagedRange struct {
	from, to int
	seq      uint64 // of the first damaged record, if its header is intact
}

// unknownFormat returns what shows that the blocks may have another format than this file describes, or
// "".
func unknownFormat(release, dir string) string {
	if !strings.HasPrefix(release, knownRelease) {
		return "nats-server " + release
	}
	names, _ := filepath.Glob(filepath.Join(dir, messagesDirs, stateFile)) // the pattern is well-formed
	for _, name := range names {
		if version := stateVersion(name); version > knownStateVersion {
			return fmt.Sprintf("version %d of %s", version, name)
		}
	}
	return ""
}

// stateVersion returns the version of a state file, or 0 if it is damaged or cannot be read: then the
// server does not use it.
func stateVersion(name string) int {
	file, err := os.Open(name)
	if err != nil {
		return 0
	}
	defer func() { _ = file.Close() }() // nothing was written
	var header [2]byte
	if _, err := io.ReadFull(file, header[:]); err != nil || header[0] != stateMagic {
		return 0
	}
	return int(header[1])
}

// repair repairs every block in the directory. It leaves an unknown format to the server.
func (s *server) repair() error {
	if found := unknownFormat(nats.VERSION, s.cfg.Dir); found != "" {
		s.cfg.Logger.Warn("storage not checked for damage: its format is unknown", "found", found)
		return nil
	}
	began, total := time.Now(), int64(0)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for name, size := range blockSizes(s.cfg.Dir) {
		total += size
		group.Go(func() error {
			return panics.Recover(s.cfg.Logger, "repair of "+name, func() error { return s.repairBlock(name) })
		})
	}
	err := group.Wait()
	if took := time.Since(began); took > time.Second {
		s.cfg.Logger.Info("storage checked for damage", "bytes", total, "took", took.String())
	}
	return err
}

// repairBlock removes the damaged ranges of a block and logs each. It keeps the original in the
// directory "damaged".
func (s *server) repairBlock(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	reader := newBlockReader(name)
	kept := reader.keepItems(data)
	ranges, end := reader.damagedRanges(data)
	if end < len(data) || len(ranges)+len(kept) > 0 { // without its state file, the server reads the blocks again
		if err := os.Remove(filepath.Join(filepath.Dir(name), stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("jetstream: %w", err)
		}
	}
	if len(ranges)+len(kept) == 0 {
		return nil
	}
	if err := s.addDamage(len(ranges) + len(kept)); err != nil {
		return err
	}
	for _, seq := range kept {
		s.cfg.Logger.Error("damaged record dropped", "file", name, "stream", streamName(name), "seq", seq, "kept", "the other items of the message")
	}
	repaired, at := make([]byte, 0, len(data)), 0
	for _, r := range ranges {
		s.cfg.Logger.Error("damaged record dropped",
			"file", name, "stream", streamName(name), "seq", r.seq, "bytes", r.to-r.from)
		repaired, at = append(repaired, data[at:r.from]...), r.to
	}
	return s.replaceBlock(name, append(repaired, data[at:]...))
}

// replaceBlock links the file into the directory "damaged" and then replaces it with data. Each step
// runs only if the previous one is on disk: after a crash, or an error such as a full disk, either
// the old or the new file is in place.
func (s *server) replaceBlock(name string, data []byte) error {
	dir := filepath.Join(s.cfg.Dir, "damaged")
	backup := filepath.Join(dir, fmt.Sprintf("%s-%d-%s", streamName(name), time.Now().UnixNano(), filepath.Base(name)))
	repaired := name + ".repaired"
	for _, step := range []func() error{
		func() error { return os.MkdirAll(dir, 0o700) },
		func() error { return os.Link(name, backup) },
		func() error { return syncDir(dir) },
		func() error { return writeSynced(repaired, data) },
		func() error { return os.Rename(repaired, name) },
		func() error { return syncDir(filepath.Dir(name)) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("jetstream: cannot repair %s: %w", name, err)
		}
	}
	return nil
}

// damageMark returns the name of the file that exists from the first damage until ForgetDamage. What is
// repaired cannot be found again: without the mark, a process that starts after a crash would not know
// that records are missing.
func (s *server) damageMark() string { return filepath.Join(s.cfg.Dir, "damage-found") }

// addDamage counts damaged records or truncated blocks, and marks the directory.
func (s *server) addDamage(count int) error {
	s.damage.Add(uint64(count))
	if err := errors.Join(writeSynced(s.damageMark(), nil), syncDir(s.cfg.Dir)); err != nil {
		return fmt.Errorf("jetstream: cannot write %s: %w", s.damageMark(), err)
	}
	return nil
}

// writeSynced writes a file and syncs it to disk. After an error it removes the file.
func writeSynced(name string, data []byte) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// streamName returns the stream of a block with the path .../STREAM/msgs/N.blk.
func streamName(path string) string { return filepath.Base(filepath.Dir(filepath.Dir(path))) }

// blockReader finds the valid records of a block by their checksums.
type blockReader struct{ hash *highwayhash.Digest64 }

func newBlockReader(name string) blockReader {
	key := sha256.Sum256([]byte(streamName(name) + "-" + strings.TrimSuffix(filepath.Base(name), ".blk")))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // only if the key has the wrong length
	}
	return blockReader{hash}
}

// damagedRanges returns the damaged ranges between valid records, and the end of the last valid
// record.
func (r blockReader) damagedRanges(data []byte) (ranges []damagedRange, end int) {
	at := 0
	for at < len(data) {
		if n := r.recordLen(data[at:]); n > 0 {
			at += n
			continue
		}
		next := at + 1
		for next < len(data) && r.recordLen(data[next:]) == 0 {
			next++
		}
		if next == len(data) {
			break
		}
		ranges = append(ranges, damagedRange{at, next, binary.LittleEndian.Uint64(data[at+4:])})
		at = next
	}
	return ranges, at
}

// keepItems replaces the checksums of the damaged records whose body has valid items, if the headers are
// plausible: the length leads to the next record or to the end, and the sequence is in order. It returns
// their sequences.
func (r blockReader) keepItems(data []byte) (kept []uint64) {
	for at, last := 0, uint64(0); at < len(data); {
		if n := r.recordLen(data[at:]); n > 0 {
			last = binary.LittleEndian.Uint64(data[at+4:])
			at += n
			continue
		}
		n, body := bodyOf(data[at:])
		if n == 0 || len(body) == 0 || body[0] != recordFormat && !isEncrypted(body) {
			return kept
		}
		seq, rest := binary.LittleEndian.Uint64(data[at+4:]), data[at+n:]
		if next, _ := bodyOf(rest); seq <= last || len(rest) > 0 && (next == 0 || binary.LittleEndian.Uint64(rest[4:]) <= seq) {
			return kept
		}
		for range Items(body) { // there is a valid one
			copy(data[at+n-checksumLen:], r.checksum(data[at:at+n]))
			kept = append(kept, seq)
			break
		}
		last, at = seq, at+n
	}
	return kept
}

// bodyOf returns the length and the body of the record at the start of data, which need not be valid.
func bodyOf(data []byte) (n int, body []byte) {
	if len(data) < recordHeaderLen+natsHeaderLen+checksumLen {
		return 0, nil
	}
	length, start := binary.LittleEndian.Uint32(data), recordHeaderLen+int(binary.LittleEndian.Uint16(data[recordHeaderLen-2:]))
	if n = int(length &^ natsHeaderBit); n > len(data) || start+natsHeaderLen+checksumLen > n {
		return 0, nil
	}
	if length&natsHeaderBit != 0 {
		start += natsHeaderLen + int(binary.LittleEndian.Uint32(data[start:]))
	}
	if start > n-checksumLen {
		return 0, nil
	}
	return n, data[start : n-checksumLen]
}

// recordLen returns the length of the valid record at the start of data, or 0 if there is none.
func (r blockReader) recordLen(data []byte) int {
	if len(data) < recordHeaderLen+checksumLen {
		return 0
	}
	length, subject := binary.LittleEndian.Uint32(data), int(binary.LittleEndian.Uint16(data[recordHeaderLen-2:]))
	n, headers := int(length&^natsHeaderBit), 0
	if length&natsHeaderBit != 0 {
		headers = natsHeaderLen
	}
	if n > min(len(data), maxRecord) || recordHeaderLen+subject+headers+checksumLen > n {
		return 0
	}
	if !bytes.Equal(r.checksum(data[:n]), data[n-checksumLen:n]) {
		return 0
	}
	return n
}

// checksum returns the checksum of a record with a plausible header.
func (r blockReader) checksum(record []byte) []byte {
	subject, headers := int(binary.LittleEndian.Uint16(record[recordHeaderLen-2:])), 0
	if binary.LittleEndian.Uint32(record)&natsHeaderBit != 0 {
		headers = natsHeaderLen
	}
	r.hash.Reset()
	for _, part := range [][]byte{
		record[4 : recordHeaderLen-2], record[recordHeaderLen : recordHeaderLen+subject], record[recordHeaderLen+subject+headers : len(record)-checksumLen],
	} {
		_, _ = r.hash.Write(part) // never fails
	}
	return r.hash.Sum(nil)
}
