// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"errors"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/testwait"
)

// leaseBucket returns a bucket in memory on an embedded server.
func leaseBucket(t *testing.T, ttl time.Duration) *Bucket {
	t.Helper()
	e, err := Open(t.Context(), Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e.Bucket(natsjs.KeyValueConfig{Bucket: "LEASES", TTL: ttl, Storage: natsjs.MemoryStorage})
}

// expect acquires the lease and checks the error and the data of the other holder.
func (l *Lease) expect(t *testing.T, wantErr error, wantOther string) {
	t.Helper()
	other, err := l.Acquire(t.Context())
	if !errors.Is(err, wantErr) || string(other) != wantOther {
		t.Fatalf("other holder %q, %v; want %q, %v", other, err, wantOther, wantErr)
	}
}

func (l *Lease) mustRelease(t *testing.T) {
	t.Helper()
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLeaseHasOneHolder(t *testing.T) {
	b := leaseBucket(t, time.Minute)
	one, two := b.Lease("key", []byte("one")), b.Lease("key", []byte("two"))
	two.mustRelease(t) // has no effect: it is not held
	one.expect(t, nil, "")
	two.expect(t, ErrHeld, "one")
	two.mustRelease(t)
	one.expect(t, nil, "") // renewed
	b.Lease("other_key", nil).expect(t, nil, "")
	one.mustRelease(t)
	two.expect(t, nil, "")
	one.mustRelease(t) // has no effect
	one.expect(t, ErrHeld, "two")
	if err := b.Put(t.Context(), "key", nil); err != nil { // by an earlier version, without an ID
		t.Fatal(err)
	}
	two.expect(t, ErrHeld, "")
}

// forget puts the lease into the state after an acquisition, or a renewal, that got no response.
func (l *Lease) forget(revision uint64) { l.revision, l.uncertain = revision, true }

func TestLeaseAfterLostResponse(t *testing.T) {
	b := leaseBucket(t, time.Minute)
	for name, tt := range map[string]struct{ writes, known int }{"acquisition": {1, 0}, "renewal": {2, 1}, "two renewals": {3, 1}} {
		t.Run(name, func(t *testing.T) {
			for _, then := range []string{"acquire", "release"} {
				one, two := b.Lease("key", []byte("one")), b.Lease("key", nil)
				revisions := []uint64{0}
				for range tt.writes {
					one.expect(t, nil, "")
					revisions = append(revisions, one.revision)
				}
				one.forget(revisions[tt.known])
				if then == "acquire" {
					one.expect(t, nil, "")
					two.expect(t, ErrHeld, "one")
				}
				one.mustRelease(t)
				two.expect(t, nil, "")
				two.mustRelease(t)
			}
		})
	}
	one, two := b.Lease("key", nil), b.Lease("key", []byte("two"))
	two.expect(t, nil, "")
	one.forget(0)
	one.mustRelease(t) // the write that got no response failed
	two.expect(t, nil, "")
}

func TestWriteWithoutResponseIsUncertain(t *testing.T) {
	l := leaseBucket(t, time.Minute).Lease("key", nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Acquire(ended); err == nil || errors.Is(err, ErrHeld) || !l.uncertain {
		t.Errorf("uncertain: %t, %v", l.uncertain, err)
	}
}

func TestLeaseExpires(t *testing.T) {
	b := leaseBucket(t, time.Second)
	one, two := b.Lease("key", []byte("one")), b.Lease("key", []byte("two"))
	one.expect(t, nil, "")
	testwait.Until(t, func() bool { _, err := two.Acquire(t.Context()); return err == nil }, "the lease expires")
	if time.Now().Before(one.expires) {
		t.Error("another holder has the lease before it expired for the first one")
	}
	one.expect(t, ErrHeld, "two")
	one.mustRelease(t)
	two.expect(t, nil, "")
}

// keep calls Keep in a goroutine and returns a channel that is closed when Keep returns.
func (l *Lease) keep(ctx context.Context, interval time.Duration) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Keep(ctx, interval)
	}()
	return ended
}

func TestKeptLeaseDoesNotExpire(t *testing.T) {
	b := leaseBucket(t, 500*time.Millisecond)
	l, other := b.Lease("key", nil), b.Lease("key", nil)
	l.expect(t, nil, "")
	began, expiry := time.Now(), l.expires
	ctx, stop := context.WithCancel(t.Context())
	ended := l.keep(ctx, 20*time.Millisecond)
	var acquired time.Time
	testwait.Until(t, func() bool {
		if _, err := other.Acquire(t.Context()); err == nil {
			acquired = time.Now()
		}
		return !acquired.IsZero() || time.Since(began) > 700*time.Millisecond
	}, "more than the TTL has passed")
	stop()
	testwait.For(t, ended, "the end of Keep")
	switch {
	case acquired.IsZero() && !l.expires.After(expiry):
		t.Error("the lease was not renewed")
	case !acquired.IsZero() && acquired.Before(l.expires): // the machine was too slow to renew it
		t.Error("another holder got the lease before it expired")
	}
	l.mustRelease(t)
}

func TestKeepEndsWhenTheLeaseIsLost(t *testing.T) {
	b := leaseBucket(t, time.Minute)
	for key, lose := range map[string]func() error{
		"replaced":    func() error { return b.Put(t.Context(), "replaced", nil) },
		"lost_bucket": func() error { return b.engine.js.DeleteKeyValue(t.Context(), "LEASES") },
	} {
		l := b.Lease(key, nil)
		l.expect(t, nil, "")
		ended := l.keep(t.Context(), time.Millisecond)
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		testwait.For(t, ended, key)
	}
}

func TestKeepEndsBeforeExpiryWithoutServer(t *testing.T) {
	b := leaseBucket(t, time.Second)
	l := b.Lease("key", nil)
	l.expect(t, nil, "")
	ended := l.keep(t.Context(), time.Minute)
	if err := b.engine.Close(); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, ended, "the end of Keep")
	if left := time.Until(l.expires); left > 0 {
		t.Errorf("Keep returned %s before the lease expired", left)
	}
}
