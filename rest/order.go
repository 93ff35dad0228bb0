// SPDX-License-Identifier: Apache-2.0

package rest

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

// order is one notification that somebody asks for, alone or in a batch, and the key that makes it one, if it has any.
type order struct {
	n    *push.Notification
	key  string
	body [sha256.Size]byte // hash of what came with the key
	wait time.Duration     // for its verdict at most, if that is less than the gateway's own limit; 0 leaves it at that
	done func()            // ends the claim on the key; nil without one
	end  ending
}

// ending is what an order came to: a receipt, or why there is none.
type ending struct {
	receipt  push.Receipt
	problem  *problem // nil, and the receipt tells
	replayed bool     // it was the end of another call with the same key
}

func refused(p problem) ending { return ending{problem: &p} }

func newOrder(n *push.Notification, key string, body []byte) *order {
	o := &order{n: n, key: key}
	if key != "" {
		o.body = sha256.Sum256(body)
		hash := sha256.Sum256([]byte(n.App + "\x00" + key))
		n.KeyHash, n.BodyHash = hash[:], o.body[:]
	}
	return o
}

// carry sends o at once, unless its key has stood for another call before: then its end is that one's. A send with a key
// does not end with its caller: one who lost the connection comes back with the same key to learn what came of it.
func (a *api) carry(ctx context.Context, o *order) {
	switch {
	case o.key == "":
		o.end.receipt = a.carryIn(ctx, o)
	case a.history == nil:
		a.carryOnce(ctx, o)
	case a.claim(ctx, o):
		defer o.release()
		o.end.receipt = a.carryIn(context.WithoutCancel(ctx), o) // it ends in its time
	}
}

// carryIn sends o within the time that its caller would wait.
func (a *api) carryIn(ctx context.Context, o *order) push.Receipt {
	if o.wait == 0 {
		return a.sender.Send(ctx, o.n)
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	return a.sender.Send(ctx, o.n)
}

// carryOnce is carry for a gateway whose memory is all that it has.
func (a *api) carryOnce(ctx context.Context, o *order) {
	c := call{o.n.App, o.key}
	place, first := a.answers.claim(c, o.body)
	if place.body != o.body {
		o.end = refused(reused)
		return
	}
	if first {
		a.fill(ctx, c, place, o)
	}
	select {
	case <-place.done:
		o.end = place.end
		o.end.replayed = !first
	case <-ctx.Done():
		o.end = refused(inUse)
	}
}

// fill sends o and settles the place, also if the sender panics.
func (a *api) fill(ctx context.Context, c call, place *remembered, o *order) {
	end, keep := refused(problem{kind: internal}), true
	defer func() { a.answers.settle(c, place, end, keep) }()
	receipt := a.carryIn(context.WithoutCancel(ctx), o)
	end, keep = ending{receipt: receipt}, stands(&receipt)
}

// accept has the queue keep the orders, together, and ends each once it is safe. What it began it finishes: whether an
// order was kept must be known, also without its caller.
func (a *api) accept(ctx context.Context, orders []*order) {
	ctx, done := a.patience(ctx)
	defer done()
	var mine, twins []*order
	defer func() {
		for _, o := range mine {
			o.release()
		}
		for _, o := range twins { // now that the first with their key has been kept
			a.accept(ctx, []*order{o})
		}
	}()
	// Every group claims its keys in the same order, so that no two wait for each other.
	inOrder := slices.SortedStableFunc(slices.Values(orders), func(p, q *order) int { return bytes.Compare(p.n.KeyHash, q.n.KeyHash) })
	for i, o := range inOrder {
		switch {
		case o.key != "" && i > 0 && inOrder[i-1].key == o.key:
			twins = append(twins, o)
		case a.claim(ctx, o):
			mine = append(mine, o)
		}
	}
	a.keep(ctx, mine)
}

// keep hands the queue the orders that nobody has asked for before.
func (a *api) keep(ctx context.Context, orders []*order) {
	if len(orders) == 0 {
		return
	}
	ns := make([]*push.Notification, len(orders))
	for i, o := range orders {
		ns[i] = o.n
	}
	for i, err := range a.queue.Accept(ctx, ns) {
		if orders[i].end.receipt = waiting(ns[i]); err != nil {
			orders[i].end = refused(a.notKept(ctx, err))
		}
	}
}

// patience is the time that a call of the queue or the history may take, whether or not its caller stays.
func (a *api) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), a.limits.SendTime)
}

// claim takes o's key, if it has one, and reports whether o is to go ahead. Otherwise o ends as the call that had the key
// before.
func (a *api) claim(ctx context.Context, o *order) bool {
	if o.key == "" {
		return true
	}
	done, earlier, err := a.history.Claim(ctx, o.n, stands)
	switch {
	case errors.Is(err, push.ErrKeyReused):
		o.end = refused(reused)
	case errors.Is(err, push.ErrKeyInUse):
		o.end = refused(inUse)
	case err != nil:
		o.end = refused(a.speechless(ctx, err))
	case done == nil:
		o.end = ending{receipt: earlier, replayed: true}
	default:
		o.done = done
		return true
	}
	return false
}

func (o *order) release() {
	if o.done != nil {
		o.done()
	}
}

// waiting is the receipt of a notification that the queue keeps.
func waiting(n *push.Notification) push.Receipt {
	if n.SendAt.After(n.AcceptedAt) {
		return push.Receipt{ID: n.ID, State: push.StatusScheduled}
	}
	return push.Receipt{ID: n.ID, State: push.StatusQueued}
}

var (
	reused = problem{kind: keyReused, field: "Idempotency-Key", detail: "must be a new one for a new body"}
	inUse  = problem{kind: keyInUse, field: "Idempotency-Key", retryAfter: time.Second,
		detail: "another call with this key is under way: send it again after the seconds in Retry-After"}
	full = problem{kind: queueFull, retryAfter: 10 * time.Second,
		detail: "nothing of it was kept: send it again after the seconds in Retry-After"}
)

// notKept is the problem of a notification that the queue did not keep, or may not have.
func (a *api) notKept(ctx context.Context, err error) problem {
	if _, ok := errors.AsType[*push.FieldError](err); ok {
		return *misfit(push.Receipt{Outcome: push.InvalidNotification(err)})
	}
	if errors.Is(err, push.ErrQueueFull) {
		return full
	}
	return a.speechless(ctx, err)
}

// speechless is the problem of a queue or a history that gave no answer.
func (a *api) speechless(ctx context.Context, err error) problem {
	if ctx.Err() != context.Canceled { // else it was the caller who left
		a.log.LogAttrs(ctx, slog.LevelWarn, "rest: no answer from the queue or the history", slog.Any("err", err))
	}
	return problem{kind: queueUnavailable, retryAfter: 5 * time.Second,
		detail: "nobody can tell whether it was done: with the same Idempotency-Key it is safe to ask again"}
}

// reply is the answer to a single call that came to e. Who prefers not to wait is told how it stands; so is who asked for
// what another call has begun and not ended.
func (e ending) reply(w *answer, async bool) reply {
	var r reply
	switch {
	case e.problem != nil:
		r = e.problem.reply(w.requestID)
	case async || !e.receipt.IsFinal():
		r = laterReply(w.app, e.receipt)
		r.applied = async
	default:
		r = replyTo(e.receipt, w.requestID)
	}
	r.replayed = e.replayed
	return r
}

// line is the receipt of a batch's item that came to e.
func (e ending) line(index int) push.Receipt {
	if e.problem != nil {
		return e.problem.line(index)
	}
	r := e.receipt
	r.Index = &index
	return r
}
