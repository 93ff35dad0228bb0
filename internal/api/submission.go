// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/sluice-push/sluice/push"
)

// submission is one notification that somebody asks for, alone or in a batch, and the key that makes it one, if it has any.
type submission struct {
	n            *push.Notification
	key          string
	body         [sha256.Size]byte // hash of what came with the key
	maxWait      time.Duration     // for its verdict at most, if that is less than the gateway's own limit; 0 leaves it at that
	releaseClaim func()            // ends the claim on the key; nil without one
	result       result
}

// result is what an order came to: a receipt, or why there is none.
type result struct {
	receipt  push.Receipt
	problem  *problem // nil, and the receipt tells
	replayed bool     // it was the end of another call with the same key
}

func failed(p problem) result { return result{problem: &p} }

func newSubmission(n *push.Notification, key string, body []byte) *submission {
	o := &submission{n: n, key: key}
	if key != "" {
		o.body = sha256.Sum256(body)
		hash := sha256.Sum256([]byte(n.App + "\x00" + key))
		n.KeyHash, n.BodyHash = hash[:], o.body[:]
	}
	return o
}

// deliver sends o at once, unless its key has stood for another call before: then its end is that one's. A send with a key
// does not end with its caller: one who lost the connection comes back with the same key to learn what came of it.
func (a *server) deliver(ctx context.Context, o *submission) {
	switch {
	case o.key == "":
		o.result.receipt = a.deliverWithin(ctx, o)
	case a.history == nil:
		a.deliverCached(ctx, o)
	case a.claim(ctx, o):
		defer o.release()
		o.result.receipt = a.deliverWithin(context.WithoutCancel(ctx), o) // it ends in its time
	}
}

// deliverWithin sends o within the time that its caller would wait.
func (a *server) deliverWithin(ctx context.Context, o *submission) push.Receipt {
	if o.maxWait == 0 {
		return a.sender.Send(ctx, o.n)
	}
	ctx, cancel := context.WithTimeout(ctx, o.maxWait)
	defer cancel()
	return a.sender.Send(ctx, o.n)
}

// deliverCached is carry for a gateway whose memory is all that it has.
func (a *server) deliverCached(ctx context.Context, o *submission) {
	c := cacheKey{o.n.App, o.key}
	place, first := a.idempotency.claim(c, o.body)
	if place.body != o.body {
		o.result = failed(keyReusedProblem)
		return
	}
	if first {
		a.deliverAndSettle(ctx, c, place, o)
	}
	select {
	case <-place.done:
		o.result = place.result
		o.result.replayed = !first
	case <-ctx.Done():
		o.result = failed(keyInUseProblem)
	}
}

// deliverAndSettle sends o and settles the place, also if the sender panics.
func (a *server) deliverAndSettle(ctx context.Context, c cacheKey, place *cacheEntry, o *submission) {
	end, keep := failed(problem{kind: internal}), true
	defer func() { a.idempotency.settle(c, place, end, keep) }()
	receipt := a.deliverWithin(context.WithoutCancel(ctx), o)
	end, keep = result{receipt: receipt}, isFinal(&receipt)
}

// enqueue has the queue keep the orders, together, and ends each once it is safe. What it began it finishes: whether an
// order was kept must be known, also without its caller.
func (a *server) enqueue(ctx context.Context, orders []*submission) {
	ctx, done := a.storageContext(ctx)
	defer done()
	var mine, twins []*submission
	defer func() {
		for _, o := range mine {
			o.release()
		}
		for _, o := range twins { // now that the first with their key has been kept
			a.enqueue(ctx, []*submission{o})
		}
	}()
	// Every group claims its keys in the same order, so that no two wait for each other.
	inOrder := slices.SortedStableFunc(slices.Values(orders), func(p, q *submission) int { return bytes.Compare(p.n.KeyHash, q.n.KeyHash) })
	for i, o := range inOrder {
		switch {
		case o.key != "" && i > 0 && inOrder[i-1].key == o.key:
			twins = append(twins, o)
		case a.claim(ctx, o):
			mine = append(mine, o)
		}
	}
	a.persist(ctx, mine)
}

// persist hands the queue the orders that nobody has asked for before.
func (a *server) persist(ctx context.Context, orders []*submission) {
	if len(orders) == 0 {
		return
	}
	ns := make([]*push.Notification, len(orders))
	for i, o := range orders {
		ns[i] = o.n
	}
	for i, err := range a.queue.Accept(ctx, ns) {
		if orders[i].result.receipt = pendingReceipt(ns[i]); err != nil {
			orders[i].result = failed(a.enqueueProblem(ctx, err))
		}
	}
}

// storageContext is the time that a call of the queue or the history may take, whether or not its caller stays.
func (a *server) storageContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), a.limits.SendTimeout)
}

// claim takes o's key, if it has one, and reports whether o is to go ahead. Otherwise o ends as the call that had the key
// before.
func (a *server) claim(ctx context.Context, o *submission) bool {
	if o.key == "" {
		return true
	}
	done, earlier, err := a.history.Claim(ctx, o.n, isFinal)
	switch {
	case errors.Is(err, push.ErrKeyReused):
		o.result = failed(keyReusedProblem)
	case errors.Is(err, push.ErrKeyInUse):
		o.result = failed(keyInUseProblem)
	case err != nil:
		o.result = failed(a.storageUnavailable(ctx, err))
	case done == nil:
		o.result = result{receipt: earlier, replayed: true}
	default:
		o.releaseClaim = done
		return true
	}
	return false
}

func (o *submission) release() {
	if o.releaseClaim != nil {
		o.releaseClaim()
	}
}

// pendingReceipt is the receipt of a notification that the queue keeps.
func pendingReceipt(n *push.Notification) push.Receipt {
	if n.SendAt.After(n.AcceptedAt) {
		return push.Receipt{ID: n.ID, State: push.StatusScheduled}
	}
	return push.Receipt{ID: n.ID, State: push.StatusQueued}
}

var (
	keyReusedProblem = problem{kind: keyReused, field: "Idempotency-Key", detail: "must be a new one for a new body"}
	keyInUseProblem  = problem{kind: keyInUse, field: "Idempotency-Key", retryAfter: time.Second,
		detail: "another call with this key is under way: send it again after the seconds in Retry-After"}
	queueFullProblem = problem{kind: queueFull, retryAfter: 10 * time.Second,
		detail: "nothing of it was kept: send it again after the seconds in Retry-After"}
)

// enqueueProblem is the problem of a notification that the queue did not keep, or may not have.
func (a *server) enqueueProblem(ctx context.Context, err error) problem {
	if _, ok := errors.AsType[*push.FieldError](err); ok {
		return *invalidNotification(push.Receipt{Outcome: push.InvalidNotification(err)})
	}
	if errors.Is(err, push.ErrQueueFull) {
		return queueFullProblem
	}
	return a.storageUnavailable(ctx, err)
}

// storageUnavailable is the problem of a queue or a history that gave no answer.
func (a *server) storageUnavailable(ctx context.Context, err error) problem {
	if ctx.Err() != context.Canceled { // else it was the caller who left
		a.log.LogAttrs(ctx, slog.LevelWarn, "rest: no answer from the queue or the history", slog.Any("err", err))
	}
	return problem{kind: queueUnavailable, retryAfter: 5 * time.Second,
		detail: "nobody can tell whether it was done: with the same Idempotency-Key it is safe to ask again"}
}

// reply is the answer to a single call that came to e. Who prefers not to wait is told how it stands; so is who asked for
// what another call has begun and not ended.
func (e result) reply(w *response, async bool) reply {
	var r reply
	switch {
	case e.problem != nil:
		r = e.problem.reply(w.requestID)
	case async || !e.receipt.IsFinal():
		r = acceptedReply(w.app, e.receipt)
		r.asyncApplied = async
	default:
		r = replyTo(e.receipt, w.requestID)
	}
	r.replayed = e.replayed
	return r
}

// batchReceipt is the receipt of a batch's item that came to e.
func (e result) batchReceipt(index int) push.Receipt {
	if e.problem != nil {
		return e.problem.batchReceipt(index)
	}
	r := e.receipt
	r.Index = &index
	return r
}
