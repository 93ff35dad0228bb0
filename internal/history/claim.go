// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

const (
	claimBucket = "SLUICE_CLAIMS"
	// How often to check whether another gateway has ended its call.
	claimPollInterval = 100 * time.Millisecond
	// Leases that may wait to be released. Beyond it, they expire with their TTL.
	maxReleases = 8192
	// The reason of an attempt whose result is lost.
	reasonInDoubt = "IN_DOUBT"
)

// claims holds the keys of calls in progress: those of this process, and in a cluster a bucket of
// leases that all gateways share.
type claims struct {
	leases    *jetstream.Bucket // nil with an embedded server
	toRelease chan *jetstream.Lease

	mu     sync.Mutex
	active map[string]*claim
}

func newClaims(ctx context.Context, cfg Config) (*claims, error) {
	c := &claims{active: map[string]*claim{}, toRelease: make(chan *jetstream.Lease, maxReleases)}
	if cfg.Engine.Embedded() {
		return c, nil
	}
	c.leases = cfg.Engine.Bucket(natsjs.KeyValueConfig{Bucket: claimBucket, TTL: cfg.ClaimTTL, Storage: natsjs.MemoryStorage})
	if err := c.leases.Open(ctx); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return c, nil
}

// claim reserves a key for one call.
type claim struct {
	keyHash  []byte
	bodyHash []byte
	done     chan struct{}
	lease    *jetstream.Lease // of the key in the cluster; nil with an embedded server
}

// Claim reserves n's Idempotency-Key for one call. The caller appends an event with the hashes of
// key and body if the call has an effect, and then calls done.
//
// If an earlier call had the key, done is nil and earlier is its current receipt. reusable reports
// whether a receipt answers later calls with the key; nil means always. If it returns false, the
// key is reserved again. Claim waits while another call holds the key. The error is
// push.ErrKeyInUse if ctx ends first, and push.ErrKeyReused if the key came with a different body.
//
// If the gateway died during a synchronous send with this key, Claim ends that notification as in
// doubt. The key is then reserved again only if n may be repeated.
func (h *History) Claim(ctx context.Context, n *push.Notification, reusable func(*push.Receipt) bool) (
	done func(), earlier push.Receipt, err error,
) {
	for {
		c, isNew := h.claims.acquire(n)
		if !isNew {
			if err := c.wait(ctx, n.BodyHash); err != nil {
				return nil, push.Receipt{}, err
			}
			continue
		}
		l := claimLookup{History: h, claim: c, n: n, reusable: reusable}
		earlierReceipt, err := l.resolve(ctx)
		if err == nil && earlierReceipt == nil {
			return func() { h.releaseClaim(c) }, push.Receipt{}, nil
		}
		h.claims.release(c)
		if err != nil {
			return nil, push.Receipt{}, err
		}
		return nil, *earlierReceipt, nil
	}
}

// acquire returns the claim of the key in this process, and whether it is new.
func (c *claims) acquire(n *push.Notification) (cl *claim, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl, ok := c.active[string(n.KeyHash)]; ok {
		return cl, false
	}
	cl = &claim{keyHash: n.KeyHash, bodyHash: n.BodyHash, done: make(chan struct{})}
	if c.leases != nil {
		cl.lease = c.leases.Lease(hex.EncodeToString(n.KeyHash), n.BodyHash)
	}
	c.active[string(n.KeyHash)] = cl
	return cl, true
}

func (c *claims) release(cl *claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.active, string(cl.keyHash))
	close(cl.done)
}

// wait waits until the claim is released. The bodies must be equal.
func (c *claim) wait(ctx context.Context, bodyHash []byte) error {
	if !bytes.Equal(bodyHash, c.bodyHash) {
		return push.ErrKeyReused
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return keyBusy(ctx.Err())
	}
}

func keyBusy(err error) error { return fmt.Errorf("%w: %w", push.ErrKeyInUse, err) }

// claimLookup looks up the earlier use of a claimed key.
type claimLookup struct {
	*History
	claim    *claim
	n        *push.Notification
	reusable func(*push.Receipt) bool
}

// resolve claims the key in the cluster and returns the receipt of an earlier call. A nil receipt
// means that the key is reserved for this call.
func (l claimLookup) resolve(ctx context.Context) (r *push.Receipt, err error) {
	if l.claim.lease == nil { // no other process uses the history
		return l.earlierReceipt(ctx)
	}
	defer func() {
		if r != nil || err != nil {
			l.claims.queueRelease(l.claim.lease)
		}
	}()
	heldElsewhere := false
	for began := time.Now(); ; {
		r, err = l.tryClaim(ctx)
		held := errors.Is(err, jetstream.ErrHeld)
		heldElsewhere = heldElsewhere || held
		switch {
		case err == nil, errors.Is(err, push.ErrKeyReused):
			return r, err
		case ctx.Err() != nil && heldElsewhere:
			return nil, keyBusy(ctx.Err())
		case ctx.Err() != nil, !held && time.Since(began) > electionTimeout:
			return nil, err
		}
		if r, err = l.endedReceipt(ctx); r != nil || err != nil {
			return r, err
		}
		select {
		case <-time.After(claimPollInterval):
		case <-ctx.Done():
		}
	}
}

// tryClaim claims the key in the cluster. If it succeeds, it returns the receipt of an earlier call.
// The error is jetstream.ErrHeld if another gateway has the key.
func (l claimLookup) tryClaim(ctx context.Context) (*push.Receipt, error) {
	body, err := l.claim.lease.Acquire(ctx)
	switch {
	case err == nil:
		if err = l.WaitCaughtUp(ctx); err == nil {
			return l.earlierReceipt(ctx)
		}
	case errors.Is(err, jetstream.ErrHeld) && body != nil && !bytes.Equal(body, l.claim.bodyHash):
		err = push.ErrKeyReused
	}
	return nil, err
}

// endedReceipt returns the final receipt of the call that holds the key, so that waiting calls can
// return before the claim is released.
func (l claimLookup) endedReceipt(ctx context.Context) (*push.Receipt, error) {
	owner, err := l.findKey(ctx, l.claim.keyHash)
	if err != nil || owner == nil || !bytes.Equal(owner.bodyHash, l.claim.bodyHash) {
		return nil, err
	}
	r, _, err := l.summary(ctx, owner)
	if err != nil || r == nil || !r.IsFinal() || l.reusable != nil && !l.reusable(r) {
		return nil, err
	}
	return r, nil
}

// earlierReceipt returns the receipt of an earlier call with the key, or nil if the key can be
// reserved.
func (l claimLookup) earlierReceipt(ctx context.Context) (*push.Receipt, error) {
	owner, err := l.findKey(ctx, l.claim.keyHash)
	if err != nil || owner == nil {
		return nil, err
	}
	r, orphaned, err := l.summary(ctx, owner)
	switch {
	case err != nil || r == nil:
		return nil, err
	case l.reusable != nil && !l.reusable(r):
		return nil, nil
	case !bytes.Equal(owner.bodyHash, l.claim.bodyHash):
		return nil, push.ErrKeyReused
	case orphaned:
		return l.finalizeOrphan(ctx, owner, *r)
	}
	return r, nil
}

// summary returns the receipt of the notification that used the key, or nil. It reads as few events
// as possible. The notification is orphaned if it was sent synchronously, its gateway died and it
// has no end.
func (l claimLookup) summary(ctx context.Context, owner *keyOwner) (r *push.Receipt, orphaned bool, err error) {
	found, err := l.lookup(ctx, []uuid.UUID{owner.id})
	s, ok := found[owner.id]
	if err != nil || !ok || s.app != owner.app {
		return nil, false, err
	}
	headers, err := l.decisiveEvents(ctx, s)
	if err != nil {
		return nil, false, err
	}
	receipt, _, err := buildReceipt(s, headers)
	inQueue := slices.ContainsFunc(headers, func(hdr *eventHeader) bool { return isWaiting(hdr.status) })
	return &receipt, s.state.Status == push.StatusSending && !inQueue, err
}

// decisiveEvents returns the events that determine the state of a notification: none if it waits,
// the end if it has ended, and otherwise all.
func (h *History) decisiveEvents(ctx context.Context, s *snapshot) ([]*eventHeader, error) {
	switch {
	case isWaiting(s.state.Status):
		return nil, nil
	case !s.state.Ended() || len(s.uncommitted) > 0:
		return h.timeline(ctx, s)
	}
	end := &snapshot{index: s.index, row: row{encodedOffsets: binary.AppendUvarint(binary.AppendUvarint(nil, s.state.Offset.Seq), uint64(s.state.Offset.Index))}}
	return h.timeline(ctx, end)
}

// finalizeOrphan appends the end of an orphaned notification. It returns nil if the notification
// may be repeated.
func (l claimLookup) finalizeOrphan(ctx context.Context, owner *keyOwner, r push.Receipt) (*push.Receipt, error) {
	r.State, r.Outcome = "", push.Outcome{Verdict: push.Unknown, Reason: reasonInDoubt}
	_, err := l.Append(ctx, push.Event{
		ID: r.ID, App: owner.app, At: time.Now(), Status: r.Status(), Platform: l.n.Platform, Lane: l.n.EffectiveLane(), Receipt: &r,
		KeyHash: l.claim.keyHash, BodyHash: owner.bodyHash,
	})
	if err != nil || l.n.MayRetryUnknown() {
		return nil, err
	}
	return &r, nil
}

// queueRelease queues the lease for release. Release has no effect if it is not held.
func (c *claims) queueRelease(lease *jetstream.Lease) {
	select {
	case c.toRelease <- lease:
	default: // it expires with its TTL
	}
}

// run releases queued leases until ctx ends, and then the remaining ones. It retries while the
// cluster elects a leader.
func (c *claims) run(ctx context.Context) {
	for {
		select {
		case lease := <-c.toRelease:
			for lease.Release(context.Background()) != nil && pause(ctx) {
			}
		case <-ctx.Done():
			for len(c.toRelease) > 0 && (<-c.toRelease).Release(context.Background()) == nil {
			}
			return // the others expire with their TTL
		}
	}
}

// releaseClaim ends the claim. Calls that wait for it then find the events that were appended
// before.
func (h *History) releaseClaim(c *claim) {
	h.claims.release(c)
	if c.lease == nil {
		return
	}
	select {
	case h.asyncWrites <- asyncWrite{onWritten: func() { h.claims.queueRelease(c.lease) }}: // after the events that carry the key
	default: // it expires with its TTL
	}
}
