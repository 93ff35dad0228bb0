// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"encoding/binary"
	"errors"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// countKey has the properties by which the ends in a segment are counted.
type countKey struct {
	app      uint32 // number in the segment
	hour     int64  // since 1970
	status   push.Status
	platform push.Platform
	reason   string
}

// counter counts ends with the same countKey.
type counter struct {
	count   uint64
	latency []uint32 // by bucket, see latencyBucket
}

// counts are the ends in a segment.
type counts struct {
	rows    map[countKey]*counter
	lastKey countKey // of last: records with the same properties are often next to each other
	last    *counter
}

// end is the end of a notification.
type end struct {
	id       uuid.UUID
	at       time.Time
	status   push.Status
	platform push.Platform
	reason   string
}

// endOf returns the end that a record is. h is its header, which p has parsed. ok is false for other
// records.
func endOf(h *record.Header, data []byte, p *record.HeaderParser) (e end, ok bool) {
	switch {
	case h.Kind == record.End || h.Kind == record.Cancel:
		return end{h.ID, h.At, h.Status, h.Platform, p.Reason()}, true
	case h.Kind != 0 || !isEnd(h.Status):
		return end{}, false
	}
	hdr, err := newEventHeader(jetstream.Offset{}, data) // of a version without a log
	if err != nil {
		return end{}, false
	}
	event, err := hdr.event()
	if err != nil {
		return end{}, false
	}
	e = end{h.ID, h.At, h.Status, event.Platform, ""}
	if event.Receipt != nil {
		e.reason = event.Receipt.Reason
	}
	return e, true
}

// add counts an end.
func (c *counts) add(app uint32, e *end) {
	key := countKey{app, e.at.Unix() / 3600, e.status, e.platform, e.reason}
	if c.last == nil || key != c.lastKey {
		c.lastKey, c.last = key, c.row(key)
	}
	c.last.count++
	if created := createdAt(e.id); !created.IsZero() {
		c.last.addLatency(e.at.Sub(created.Add(clockSkew)).Milliseconds(), 1)
	}
}

func (c *counts) row(key countKey) *counter {
	row := c.rows[key]
	if row == nil {
		if c.rows == nil {
			c.rows = map[countKey]*counter{}
		}
		row = new(counter)
		c.rows[key] = row
	}
	return row
}

func (c *counter) merge(other *counter) {
	c.count += other.count
	for bucket, count := range other.latency {
		if count > 0 {
			c.addToBucket(bucket, count)
		}
	}
}

func (c *counter) addLatency(millis int64, count uint32) {
	c.addToBucket(latencyBucket(uint64(max(0, millis))), count)
}

func (c *counter) addToBucket(bucket int, count uint32) {
	for len(c.latency) <= bucket {
		c.latency = append(c.latency, make([]uint32, 16)...)
	}
	c.latency[bucket] += count
}

// latencyBuckets of each power of two.
const latencyBuckets = 8

// latencyBucket returns the bucket of a latency. Buckets are one millisecond wide up to 16, and then an
// eighth of a power of two.
func latencyBucket(millis uint64) int {
	shift := max(0, bits.Len64(millis)-4)
	return latencyBuckets*shift + int(millis>>shift)
}

// bucketMillis returns the middle of a bucket.
func bucketMillis(bucket int) float64 {
	if bucket < 2*latencyBuckets {
		return float64(bucket)
	}
	shift := bucket/latencyBuckets - 1
	low := uint64(bucket-latencyBuckets*shift) << shift
	return float64(low) + float64(uint64(1)<<shift-1)/2
}

// percentiles returns the latency, or nil if it is not known for any notification.
func (c *counter) percentiles() *push.Latency {
	var total uint64
	for _, count := range c.latency {
		total += uint64(count)
	}
	if total == 0 {
		return nil
	}
	at := func(share float64) float64 {
		left := uint64(share*float64(total-1)) + 1
		for bucket, count := range c.latency {
			if uint64(count) >= left {
				return bucketMillis(bucket)
			}
			left -= uint64(count)
		}
		return 0
	}
	return &push.Latency{P50: at(0.5), P95: at(0.95), P99: at(0.99)}
}

// appendCounts appends the counts to the header of a segment.
func appendCounts(b []byte, c *counts) []byte {
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b = binary.AppendUvarint(b, uint64(len(c.rows)))
	keys := slices.SortedFunc(maps.Keys(c.rows), func(a, b countKey) int {
		return cmp.Or(cmp.Compare(a.app, b.app), cmp.Compare(a.hour, b.hour), cmp.Compare(a.status, b.status), cmp.Compare(a.platform, b.platform), cmp.Compare(a.reason, b.reason))
	})
	for _, key := range keys {
		row := c.rows[key]
		b = binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(b, uint64(key.app)), uint64(key.hour)), row.count)
		text(string(key.status))
		text(string(key.platform))
		text(key.reason)
		used := 0
		for _, count := range row.latency {
			used += min(1, int(count))
		}
		b = binary.AppendUvarint(b, uint64(used))
		for bucket, count := range row.latency {
			if count > 0 {
				b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(bucket)), uint64(count))
			}
		}
	}
	return b
}

var errTruncatedCounts = errors.New("truncated counts")

// parseCounts calls f for the rows that appendCounts has written.
func parseCounts(b []byte, f func(countKey, *counter)) error {
	bad := false
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			b, bad = nil, true
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() string {
		length := number()
		if length > uint64(len(b)) {
			b, bad = nil, true
			return ""
		}
		s := string(b[:length])
		b = b[length:]
		return s
	}
	for range number() {
		var row counter
		key := countKey{app: uint32(number()), hour: int64(number())}
		row.count = number()
		key.status, key.platform, key.reason = push.Status(text()), push.Platform(text()), text()
		for range number() {
			bucket, count := number(), number()
			if bad || bucket > latencyBuckets*64 {
				return errTruncatedCounts
			}
			row.addToBucket(int(bucket), uint32(count))
		}
		if bad {
			return errTruncatedCounts
		}
		f(key, &row)
	}
	return nil
}
