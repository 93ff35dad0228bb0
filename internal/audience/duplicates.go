// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"os"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/minio/highwayhash"
)

const (
	partitions   = 256
	recordSize   = highwayhash.Size128 + 4 // hash and line
	blockRecords = 200
	blockSize    = blockRecords * recordSize
)

// Duplicates finds the lines of a broadcast that repeat a device. It keeps a hash of 128 bits for each
// line, in up to 1 MiB of memory and beyond that in a temporary file, in partitions by the first byte of
// the hash: devices that are equal are in the same partition, which fits into memory. The key of the
// hash is random and only in memory. A Duplicates must not be used by several goroutines at once.
type Duplicates struct {
	key     []byte
	dir     string
	file    *os.File            // nil until a block is full
	named   bool                // the system cannot remove a file that is open
	size    int64               // of the file
	pending [partitions][]byte  // records that are not in the file
	blocks  [partitions][]int64 // offsets in the file
	scratch []byte
}

// NewDuplicates returns a Duplicates for one broadcast. dir is where temporary files are created; ""
// means the default directory. They are deleted while they are open, so that no crash leaves one.
func NewDuplicates(dir string) *Duplicates {
	key := make([]byte, highwayhash.Size)
	_, _ = rand.Read(key) // never fails
	return &Duplicates{key: key, dir: dir}
}

// Add adds a line that can be sent.
func (d *Duplicates) Add(line uint32, r *Recipient) error {
	d.scratch = appendDevice(d.scratch[:0], r)
	hash := highwayhash.Sum128(d.scratch, d.key)
	p := &d.pending[hash[0]]
	if *p == nil {
		*p = make([]byte, 0, blockSize)
	}
	*p = binary.BigEndian.AppendUint32(append(*p, hash[:]...), line)
	if len(*p) < blockSize {
		return nil
	}
	if err := d.write(*p); err != nil {
		return err
	}
	d.blocks[hash[0]] = append(d.blocks[hash[0]], d.size)
	d.size += blockSize
	*p = (*p)[:0]
	return nil
}

// write writes a block to the end of the file.
func (d *Duplicates) write(block []byte) error {
	if d.file == nil {
		file, err := os.CreateTemp(d.dir, "audience-*.tmp")
		if err != nil {
			return err
		}
		d.file = file
		d.named = os.Remove(file.Name()) != nil
	}
	_, err := d.file.WriteAt(block, d.size)
	return err
}

// record is a line and the hash of its device.
type record struct {
	hash [2]uint64
	line uint32
}

func (a record) compare(b record) int {
	return cmp.Or(cmp.Compare(a.hash[0], b.hash[0]), cmp.Compare(a.hash[1], b.hash[1]), cmp.Compare(a.line, b.line))
}

// Find returns the lines to skip: all lines of a device except the one with the lowest number.
func (d *Duplicates) Find() (*roaring.Bitmap, error) {
	found := roaring.New()
	var records []record
	block := make([]byte, blockSize)
	for p := range partitions {
		records = appendRecords(records[:0], d.pending[p])
		for _, offset := range d.blocks[p] {
			if _, err := d.file.ReadAt(block, offset); err != nil {
				return nil, err
			}
			records = appendRecords(records, block)
		}
		slices.SortFunc(records, record.compare)
		for i := 1; i < len(records); i++ {
			if records[i-1].hash == records[i].hash {
				found.Add(records[i].line)
			}
		}
	}
	found.RunOptimize()
	return found, nil
}

func appendRecords(records []record, block []byte) []record {
	for ; len(block) > 0; block = block[recordSize:] {
		records = append(records, record{
			[2]uint64{binary.BigEndian.Uint64(block), binary.BigEndian.Uint64(block[8:])}, binary.BigEndian.Uint32(block[highwayhash.Size128:]),
		})
	}
	return records
}

// Close releases the temporary file.
func (d *Duplicates) Close() error {
	if d.file == nil {
		return nil
	}
	err := d.file.Close()
	if d.named {
		err = cmp.Or(err, os.Remove(d.file.Name()))
	}
	return err
}
