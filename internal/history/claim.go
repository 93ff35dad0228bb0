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
	"github.com/nats-io/nuid"

	"github.com/sluice-push/sluice/push"
)

const (
	claimBucket = "SLUICE_CLAIMS"
	// How often to look whether another gateway has ended its call.
	claimPollInterval = 100 * time.Millisecond
	// How long a cluster may take to hear that a key is free, before it is told again.
	releaseTimeout = 10 * time.Second
	// Keys that may wait to be given free among the gateways; beyond, time does it.
	maxReleases = 8192
	// The reason of an end that nobody saw.
	reasonInDoubt = "IN_DOUBT"
)

// claims are the keys whose calls have not ended: in this process, and in a cluster in memory that all gateways share.
type claims struct {
	bucket       natsjs.KeyValue // nil where nobody else is at the streams
	createBucket func(context.Context) (natsjs.KeyValue, error)
	toRelease    chan *claim // to be given free among the gateways

	mu     sync.Mutex
	active map[string]*claim
}

func newClaims(ctx context.Context, cfg Config) (*claims, error) {
	c := &claims{active: map[string]*claim{}, toRelease: make(chan *claim, maxReleases)}
	if cfg.Engine.Embedded() {
		return c, nil
	}
	c.createBucket = func(ctx context.Context) (natsjs.KeyValue, error) {
		return cfg.Engine.JetStream().CreateOrUpdateKeyValue(ctx, natsjs.KeyValueConfig{
			Bucket: claimBucket, TTL: cfg.ClaimTTL, Storage: natsjs.MemoryStorage, Replicas: cfg.Engine.Replicas(), History: 1,
		})
	}
	var err error
	if c.bucket, err = c.createBucket(ctx); err != nil {
		return nil, fmt.Errorf("history: bucket %s: %w", claimBucket, err)
	}
	return c, nil
}

// claim is the right to be the one call with a key.
type claim struct {
	keyHash  []byte
	bodyHash []byte
	done     chan struct{}

	id        string // tells it from every other claim of the key
	revision  uint64 // in the bucket; zero if it is not known to be there
	uncertain bool   // it may be there all the same: a try got no answer
}

// Claim reserves n's Idempotency-Key, by the hashes of key and body, for one call, which appends or notes an event with
// them unless nothing came of it, and then calls done. If an earlier call with the key stands in the way, done is nil and
// the receipt is that one's as it is now; nil takes every earlier call to stand. Calls with the same key wait until the one
// that has it is done; if ctx ends first, push.ErrKeyBusy. push.ErrKeyReused if the body is another one.
//
// A receipt that has not ended is that of a notification that waits in a queue. One that was in its caller's hands when its
// gateway died ends here: nobody will ever know, unless it may be repeated.
func (h *History) Claim(ctx context.Context, n *push.Notification, stands func(*push.Receipt) bool) (
	done func(), earlier push.Receipt, err error,
) {
	for {
		c, first := h.claims.acquire(n)
		if !first {
			if err := c.wait(ctx, n.BodyHash); err != nil {
				return nil, push.Receipt{}, err
			}
			continue
		}
		a := claimLookup{History: h, claim: c, n: n, isFinal: stands}
		r, err := a.resolve(ctx)
		if err == nil && r == nil {
			return func() { h.releaseClaim(c) }, push.Receipt{}, nil
		}
		h.claims.release(c)
		if err != nil {
			return nil, push.Receipt{}, err
		}
		return nil, *r, nil
	}
}

// acquire returns the key's claim in this process, and whether it is a new one.
func (c *claims) acquire(n *push.Notification) (held *claim, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held, ok := c.active[string(n.KeyHash)]; ok {
		return held, false
	}
	held = &claim{keyHash: n.KeyHash, bodyHash: n.BodyHash, done: make(chan struct{}), id: nuid.Next()}
	c.active[string(n.KeyHash)] = held
	return held, true
}

func (c *claims) release(held *claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.active, string(held.keyHash))
	close(held.done)
}

// wait waits until the claim is done, if the body is the same.
func (c *claim) wait(ctx context.Context, body []byte) error {
	if !bytes.Equal(body, c.bodyHash) {
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

// claimLookup is a claim that is looked into.
type claimLookup struct {
	*History
	claim   *claim
	n       *push.Notification
	isFinal func(*push.Receipt) bool
}

// resolve looks what came of the key before, and claims it among the gateways. A nil receipt says that the key is ours.
func (a claimLookup) resolve(ctx context.Context) (*push.Receipt, error) {
	if a.claims.bucket == nil { // this process knows all that it did itself
		return a.earlierReceipt(ctx)
	}
	taken := false
	for began := time.Now(); ; {
		r, ours, err := a.tryClaim(ctx)
		taken = taken || err == nil && !ours
		switch {
		case ours && r == nil:
			return nil, nil
		case ours, errors.Is(err, push.ErrKeyReused), ctx.Err() != nil, err != nil && time.Since(began) > electionTimeout:
			a.claims.queueRelease(a.claim)
			if !ours && taken && ctx.Err() != nil {
				err = keyBusy(ctx.Err())
			}
			return r, err
		}
		if r, err := a.endedReceipt(ctx); r != nil || err != nil {
			return r, err
		}
		select {
		case <-time.After(claimPollInterval):
		case <-ctx.Done():
		}
	}
}

// tryClaim claims the key among the gateways; if it is ours now, and so no other's, it looks what came of it before.
func (a claimLookup) tryClaim(ctx context.Context) (r *push.Receipt, ours bool, err error) {
	if ours, err = a.claims.claimShared(ctx, a.claim); !ours {
		return nil, false, err
	}
	if err = a.WaitCaughtUp(ctx); err == nil {
		r, err = a.earlierReceipt(ctx)
	}
	return r, err == nil, err
}

// endedReceipt returns the receipt of the call that has the key, or just had it, if it has ended and stands: whoever waits need not
// wait until the claim is given back as well.
func (a claimLookup) endedReceipt(ctx context.Context) (*push.Receipt, error) {
	k, err := a.findKey(ctx, a.claim.keyHash)
	if err != nil || k == nil || !bytes.Equal(k.bodyHash, a.claim.bodyHash) {
		return nil, err
	}
	r, _, err := a.summary(ctx, k)
	if err != nil || r == nil || !r.IsFinal() || a.isFinal != nil && !a.isFinal(r) {
		return nil, err
	}
	return r, nil
}

// earlierReceipt returns the receipt of the call that had the key before, if it stands in the way of another.
func (a claimLookup) earlierReceipt(ctx context.Context) (*push.Receipt, error) {
	k, err := a.findKey(ctx, a.claim.keyHash)
	if err != nil || k == nil {
		return nil, err
	}
	r, orphaned, err := a.summary(ctx, k)
	switch {
	case err != nil || r == nil:
		return nil, err
	case a.isFinal != nil && !a.isFinal(r):
		return nil, nil
	case !bytes.Equal(k.bodyHash, a.claim.bodyHash):
		return nil, push.ErrKeyReused
	case orphaned:
		return a.finalizeOrphan(ctx, k, *r)
	}
	return r, nil
}

// summary returns the receipt of the notification that had the key, nil if there is none, by no more events than it takes.
// It is orphaned if it was never in a queue, and its caller's gateway died with it: nobody has the key, and it has not
// ended.
func (a claimLookup) summary(ctx context.Context, k *keyOwner) (r *push.Receipt, orphaned bool, err error) {
	found, err := a.lookup(ctx, []uuid.UUID{k.id})
	s, ok := found[k.id]
	if err != nil || !ok || s.app != k.app {
		return nil, false, err
	}
	steps, err := a.decisiveEvents(ctx, s)
	if err != nil {
		return nil, false, err
	}
	receipt, _, err := buildReceipt(s, steps)
	inQueue := slices.ContainsFunc(steps, func(s *eventHeader) bool { return isWaiting(s.status) })
	return &receipt, s.state.Status == push.StatusSending && !inQueue, err
}

// decisiveEvents returns the steps that tell how a notification stands: none of one that waits, the one that ended it, and of one
// that is being sent all.
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

// finalizeOrphan ends an orphan, which nobody else will; its key is free if it may be repeated.
func (a claimLookup) finalizeOrphan(ctx context.Context, k *keyOwner, r push.Receipt) (*push.Receipt, error) {
	r.State, r.Outcome = "", push.Outcome{Verdict: push.Unknown, Reason: reasonInDoubt}
	_, err := a.Append(ctx, push.Event{
		ID: r.ID, App: k.app, At: time.Now(), Status: r.Status(), Platform: a.n.Platform, Lane: a.n.EffectiveLane(), Receipt: &r,
		KeyHash: a.claim.keyHash, BodyHash: k.bodyHash,
	})
	if err != nil || a.n.MayRetryUnknown() {
		return nil, err
	}
	return &r, nil
}

// claimShared claims the key among the gateways, and reports whether it is ours now. It may be so by an earlier try, which has
// come to nobody's ears.
func (c *claims) claimShared(ctx context.Context, held *claim) (ours bool, err error) {
	name := hex.EncodeToString(held.keyHash)
	held.revision, err = c.create(ctx, name, append([]byte(held.id), held.bodyHash...))
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, natsjs.ErrKeyExists) {
		held.uncertain = true
		return false, fmt.Errorf("history: claim: %w", err)
	}
	other, err := c.bucket.Get(ctx, name)
	switch {
	case errors.Is(err, natsjs.ErrKeyNotFound):
		return false, nil // it has just become free
	case err != nil:
		return false, fmt.Errorf("history: claim: %w", err)
	case held.owns(other):
		held.revision = other.Revision()
		return true, nil
	case !bytes.Equal(other.Value()[len(held.id):], held.bodyHash):
		return false, push.ErrKeyReused
	}
	return false, nil
}

// create writes a key that is not there. A bucket that the cluster has lost, with the memory of a server that had no
// replica, is made anew.
func (c *claims) create(ctx context.Context, name string, value []byte) (uint64, error) {
	revision, err := c.bucket.Create(ctx, name, value)
	if !errors.Is(err, natsjs.ErrNoStreamResponse) {
		return revision, err
	}
	anew, err := c.createBucket(ctx)
	if err != nil {
		return 0, err
	}
	return anew.Create(ctx, name, value)
}

// owns reports whether an entry of the bucket is this claim.
func (c *claim) owns(e natsjs.KeyValueEntry) bool { return bytes.HasPrefix(e.Value(), []byte(c.id)) }

// releaseShared gives the key free among the gateways, unless it is so already.
func (c *claims) releaseShared(held *claim) error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if held.revision == 0 { // no earlier try can succeed after this one
		if ours, err := c.claimShared(ctx, held); errors.Is(err, push.ErrKeyReused) {
			return nil
		} else if !ours {
			return err
		}
	}
	err := c.bucket.Purge(ctx, hex.EncodeToString(held.keyHash), natsjs.LastRevision(held.revision))
	if errors.Is(err, natsjs.ErrKeyRevisionMismatch) { // it has run out
		return nil
	}
	return err
}

// queueRelease has run give the key free among the gateways, if it is claimed or may be.
func (c *claims) queueRelease(held *claim) {
	if held.revision == 0 && !held.uncertain {
		return
	}
	select {
	case c.toRelease <- held:
	default: // time does it
	}
}

// run gives free what has ended, until ctx ends and nothing is left. While a cluster elects, it tries again and again.
func (c *claims) run(ctx context.Context) {
	for {
		select {
		case held := <-c.toRelease:
			for c.releaseShared(held) != nil && pause(ctx) {
			}
		case <-ctx.Done():
			for len(c.toRelease) > 0 && c.releaseShared(<-c.toRelease) == nil {
			}
			return // the rest is time's
		}
	}
}

// releaseClaim ends the claim. Calls that waited see what came of it: the events that were appended or noted before.
func (h *History) releaseClaim(c *claim) {
	h.claims.release(c)
	if h.claims.bucket == nil {
		return
	}
	select {
	case h.asyncWrites <- asyncWrite{onWritten: func() { h.claims.queueRelease(c) }}: // behind the notes that tell others of the key
	default: // time gives it free
	}
}
