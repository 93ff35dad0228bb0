// SPDX-License-Identifier: Apache-2.0

package idempotency

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

const (
	defaultClaimTTL = 15 * time.Minute
	// How often to check whether another gateway has ended its request.
	pollInterval = 100 * time.Millisecond
	// How long a claim waits for a cluster without a leader, the time of two elections.
	electionTimeout = 20 * time.Second
	// Leases that may wait to be released. Beyond it, they expire with their TTL.
	maxReleases = 8192
	// The wait before a failed release is repeated.
	retryInterval = 250 * time.Millisecond
	// The reason of an attempt whose result is lost.
	reasonInDoubt = "IN_DOUBT"
)

// Use is the notification that last used a key.
type Use struct {
	App      string
	BodyHash []byte       // of the body that came with the key
	Receipt  push.Receipt // the current one; attempts of a waiting notification are left out
	// Sending is true if the notification was sent synchronously and has not ended.
	Sending bool
	Attempt int // number of attempts started
}

// mayRepeat reports whether n may be sent although the notification has ended in doubt. The queue ends
// one that it has sent only if it may not, so it was sent synchronously, and its gateway died.
func (u *Use) mayRepeat(n *push.Notification) bool {
	return u.Receipt.Reason == reasonInDoubt && n.MayRetryUnknown() && n.MayRetry(u.Attempt)
}

// History is the part of the history that a Log needs.
type History interface {
	// LastUse returns the notification that last used a key, by the hash of the key. It returns nil
	// if there is none or it has expired.
	LastUse(ctx context.Context, keyHash []byte) (*Use, error)
	// WaitCaughtUp waits until LastUse includes the events that any gateway has appended so far.
	WaitCaughtUp(ctx context.Context) error
	// Append appends events and returns when they are on disk.
	Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error)
	// AfterWrites calls f when all events that were appended so far are written, or never if it has
	// too much to write.
	AfterWrites(f func())
}

// Queue is the part of the queue that a Log needs.
type Queue interface {
	// Confirm returns false if a waiting notification is not in the queue, so that it has ended.
	Confirm(ctx context.Context, id string) (waits bool, err error)
	// AfterResolved calls f when it is known whether a notification of a request is stored in the queue:
	// immediately, unless a write got no response.
	AfterResolved(id string, f func())
}

// LogConfig configures a Log. History and Queue are required.
type LogConfig struct {
	History History
	Queue   Queue
	// Engine is the server or cluster of the history. With nil, or an embedded server, no other process
	// uses the history.
	Engine *jetstream.Engine
	// ClaimTTL is how long a key stays claimed in a cluster after its gateway died; zero means 15
	// minutes. It must be longer than the longest send.
	ClaimTTL time.Duration
}

// Log is a Store in the history: the receipt of a request with a key is what the events with the key
// say. The request appends the first of them before it has an effect. In a cluster, all gateways
// share the keys: each request in progress has a lease of its key.
type Log struct {
	cfg       LogConfig
	leases    *jetstream.Bucket // nil if no other process uses the history
	toRelease chan *jetstream.Lease
	requests  requests
}

var _ Store = (*Log)(nil)

// NewLog returns a Log. In a cluster it creates the bucket of the leases.
func NewLog(ctx context.Context, cfg LogConfig) (*Log, error) {
	if cfg.ClaimTTL <= 0 {
		cfg.ClaimTTL = defaultClaimTTL
	}
	l := &Log{cfg: cfg, toRelease: make(chan *jetstream.Lease, maxReleases)}
	if cfg.Engine == nil || cfg.Engine.Embedded() {
		return l, nil
	}
	l.leases = cfg.Engine.Bucket(natsjs.KeyValueConfig{Bucket: "SLUICE_CLAIMS", TTL: cfg.ClaimTTL, Storage: natsjs.MemoryStorage})
	if err := l.leases.Open(ctx); err != nil {
		return nil, fmt.Errorf("idempotency: %w", err)
	}
	return l, nil
}

// Claim implements Store. The request appends events with the hashes of key and body before it calls
// release, whose argument has no effect.
//
// If the gateway died during a synchronous send with the key, Claim ends that notification as in
// doubt. The key is then claimed again only if n may be repeated.
func (l *Log) Claim(ctx context.Context, n *push.Notification) (release func(*push.Receipt), earlier push.Receipt, err error) {
	for {
		release, earlier, err = l.claim(ctx, n)
		if err != nil || release != nil || earlier.State != push.StatusQueued && earlier.State != push.StatusScheduled {
			return release, earlier, err
		}
		// After a crash it may not be in the queue. Then it ends, and its key may be free.
		if waits, err := l.cfg.Queue.Confirm(ctx, earlier.ID); err != nil || waits {
			return nil, earlier, err
		}
	}
}

// claim is Claim without the check whether a waiting notification is in the queue.
func (l *Log) claim(ctx context.Context, n *push.Notification) (release func(*push.Receipt), earlier push.Receipt, err error) {
	own, _, err := l.requests.begin(ctx, n)
	if err != nil {
		return nil, push.Receipt{}, err
	}
	var lease *jetstream.Lease
	var receipt *push.Receipt
	if l.leases == nil {
		receipt, err = l.earlierReceipt(ctx, n)
	} else {
		lease = l.leases.Lease(hex.EncodeToString(n.KeyHash), n.BodyHash)
		receipt, err = l.claimShared(ctx, n, lease)
	}
	if err == nil && receipt == nil {
		return func(*push.Receipt) { l.release(own, lease) }, push.Receipt{}, nil
	}
	if lease != nil {
		l.queueRelease(lease)
	}
	l.requests.end(own, nil)
	if err != nil {
		return nil, push.Receipt{}, err
	}
	return nil, *receipt, nil
}

// claimShared acquires the lease of the key in the cluster. It returns the receipt of an earlier
// request, or nil if the key is claimed.
func (l *Log) claimShared(ctx context.Context, n *push.Notification, lease *jetstream.Lease) (*push.Receipt, error) {
	heldElsewhere := false
	for began := time.Now(); ; {
		receipt, err := l.tryClaim(ctx, n, lease)
		held := errors.Is(err, jetstream.ErrHeld)
		heldElsewhere = heldElsewhere || held
		switch {
		case err == nil, errors.Is(err, push.ErrKeyReused):
			return receipt, err
		case ctx.Err() != nil && heldElsewhere:
			return nil, keyInUse(ctx.Err())
		case ctx.Err() != nil, !held && time.Since(began) > electionTimeout:
			return nil, err
		}
		if receipt, err := l.endedReceipt(ctx, n); receipt != nil || err != nil {
			return receipt, err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
		}
	}
}

// tryClaim acquires the lease. If it succeeds, it returns the receipt of an earlier request. The error
// is jetstream.ErrHeld if another gateway has the lease.
func (l *Log) tryClaim(ctx context.Context, n *push.Notification, lease *jetstream.Lease) (*push.Receipt, error) {
	otherBody, err := lease.Acquire(ctx)
	if errors.Is(err, jetstream.ErrHeld) && otherBody != nil && !bytes.Equal(otherBody, n.BodyHash) {
		return nil, push.ErrKeyReused
	}
	if err == nil {
		err = l.cfg.History.WaitCaughtUp(ctx)
	}
	if err != nil {
		return nil, err
	}
	return l.earlierReceipt(ctx, n)
}

// endedReceipt returns the receipt of the request that has the lease, if its notification has ended.
// So requests that wait can return before the lease is released.
func (l *Log) endedReceipt(ctx context.Context, n *push.Notification) (*push.Receipt, error) {
	use, err := l.cfg.History.LastUse(ctx, n.KeyHash)
	if err != nil || use == nil || !bytes.Equal(use.BodyHash, n.BodyHash) || !use.Receipt.IsFinal() || !isFinal(&use.Receipt) || use.mayRepeat(n) {
		return nil, err
	}
	return &use.Receipt, nil
}

// earlierReceipt returns the receipt of an earlier request, or nil if the key is free. The caller has
// the key.
func (l *Log) earlierReceipt(ctx context.Context, n *push.Notification) (*push.Receipt, error) {
	use, err := l.cfg.History.LastUse(ctx, n.KeyHash)
	switch {
	case err != nil || use == nil || !isFinal(&use.Receipt):
		return nil, err
	case !bytes.Equal(use.BodyHash, n.BodyHash):
		return nil, push.ErrKeyReused
	case use.Sending: // but it does not have the key any more: its gateway died
		return l.endInDoubt(ctx, n, use)
	case use.mayRepeat(n):
		return nil, nil
	}
	return &use.Receipt, nil
}

// endInDoubt appends the end of a notification whose gateway died. It returns nil if n may be sent
// nevertheless.
func (l *Log) endInDoubt(ctx context.Context, n *push.Notification, use *Use) (*push.Receipt, error) {
	r := use.Receipt
	r.State, r.Outcome = "", push.Outcome{Verdict: push.Unknown, Reason: reasonInDoubt}
	_, err := l.cfg.History.Append(ctx, push.Event{
		ID: r.ID, App: use.App, At: time.Now(), Status: r.Status(), Platform: n.Platform, Lane: n.EffectiveLane(), Tags: n.Tags, Receipt: &r,
		KeyHash: n.KeyHash, BodyHash: use.BodyHash,
	})
	if err != nil || n.MayRetryUnknown() {
		return nil, err
	}
	return &r, nil
}

// release ends a request when it is known whether its notification is in the queue. Those that wait for
// it then find the events that it appended. In the cluster they wait for the lease of the key instead.
// It is released when these events are written, too: another gateway cannot find out whether a waiting
// notification will be sent.
func (l *Log) release(own *request, lease *jetstream.Lease) {
	if lease == nil {
		l.cfg.Queue.AfterResolved(own.n.ID, func() { l.requests.end(own, nil) })
		return
	}
	l.requests.end(own, nil)
	l.cfg.Queue.AfterResolved(own.n.ID, func() {
		l.cfg.History.AfterWrites(func() { l.queueRelease(lease) })
	})
}

// queueRelease queues a lease, which need not be held, for its release.
func (l *Log) queueRelease(lease *jetstream.Lease) {
	select {
	case l.toRelease <- lease:
	default: // it expires with its TTL
	}
}

// Run releases leases until ctx ends, and then the remaining ones. It retries while the cluster elects
// a leader. Stop it after the history.
func (l *Log) Run(ctx context.Context) error {
	for {
		select {
		case lease := <-l.toRelease:
			for lease.Release(context.Background()) != nil && pause(ctx) {
			}
		case <-ctx.Done():
			for len(l.toRelease) > 0 && (<-l.toRelease).Release(context.Background()) == nil {
			}
			return nil // the others expire with their TTL
		}
	}
}

// pause waits for retryInterval and returns true, or returns false when ctx ends.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(retryInterval):
		return true
	case <-ctx.Done():
		return false
	}
}
