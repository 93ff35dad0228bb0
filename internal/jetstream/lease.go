// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/nats-io/nuid"
)

// Lease is the right to a key of a bucket, which one holder has at a time. It expires with the TTL
// of the bucket, counted from the last renewal. One goroutine at a time can use it.
type Lease struct {
	bucket *Bucket
	key    string
	id     string // of this lease; no other one has it
	data   []byte

	revision  uint64    // of the last write with a known result; 0 if the lease is not held
	uncertain bool      // a write got no response, and may have succeeded
	expires   time.Time // by the local clock, earlier than in the bucket
}

// ErrHeld means that another holder has the lease, or had it since the last renewal.
var ErrHeld = errors.New("jetstream: another holder has the lease")

const (
	// leaseTimeout bounds each write of a lease. A request to a leader that has died gets no response.
	// The next one reaches its successor.
	leaseTimeout = 2 * time.Second
	// clockDriftDivisor is the margin between the expiry for the holder and in the bucket: clocks may
	// drift by 1/clockDriftDivisor.
	clockDriftDivisor = 10
)

// Lease returns a lease of a key that no caller holds yet. The data is stored with it for other callers.
func (b *Bucket) Lease(key string, data []byte) *Lease {
	return &Lease{bucket: b, key: key, id: nuid.Next(), data: data}
}

// Acquire acquires the lease, or renews it if it is held. If another holder has it, the error is
// ErrHeld and other is the data of that holder, or nil if the holder has released it. After any other
// error the lease may be held: call Acquire again to find out, or Release.
func (l *Lease) Acquire(ctx context.Context) (other []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	started := time.Now()
	revision, err := l.write(ctx, l.revision)
	if errors.Is(err, ErrChanged) { // by another holder, or by a write of this lease that got no response
		var value []byte
		if value, revision, err = l.bucket.Get(ctx, l.key); err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(value, []byte(l.id)) {
			l.revision = 0
			return value[min(len(l.id), len(value)):], ErrHeld
		}
		revision, err = l.write(ctx, revision)
	}
	switch {
	case errors.Is(err, ErrChanged):
		l.revision = 0
		return nil, ErrHeld
	case err != nil:
		l.uncertain = true
		return nil, err
	}
	l.revision, l.uncertain, l.expires = revision, false, started.Add(l.bucket.cfg.TTL-l.bucket.cfg.TTL/clockDriftDivisor)
	return nil, nil
}

func (l *Lease) write(ctx context.Context, revision uint64) (written uint64, err error) {
	return l.bucket.CompareAndSet(ctx, l.key, append([]byte(l.id), l.data...), revision)
}

// Keep renews a held lease at an interval until ctx ends, or until the lease is lost or may have
// expired.
func (l *Lease) Keep(ctx context.Context, interval time.Duration) {
	for {
		select {
		case <-time.After(min(interval, time.Until(l.expires))):
		case <-ctx.Done():
			return
		}
		tryCtx, cancel := context.WithDeadline(ctx, l.expires)
		_, err := l.Acquire(tryCtx)
		cancel()
		if errors.Is(err, ErrHeld) || !time.Now().Before(l.expires) {
			return
		}
	}
}

// Release releases the lease if it is held, also if it was acquired without a response. After an
// error it may still be held: call Release again, or let it expire.
func (l *Lease) Release(ctx context.Context) error {
	if l.uncertain { // once this write has succeeded, no earlier one of this lease can
		if _, err := l.Acquire(ctx); errors.Is(err, ErrHeld) {
			l.uncertain = false
		} else if err != nil {
			return err
		}
	}
	if l.revision == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if err := l.bucket.purge(ctx, l.key, l.revision); err != nil && !errors.Is(err, ErrChanged) {
		return err
	}
	l.revision = 0 // released, or expired
	return nil
}
