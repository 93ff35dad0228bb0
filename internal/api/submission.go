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

// submission is one notification of a request, single or in a batch, and its Idempotency-Key, if it
// has one.
type submission struct {
	n            *push.Notification
	content      *push.Notification // see push.Call
	key          string
	canQueue     bool                // see push.Call
	maxWait      time.Duration       // limit for the verdict if it is less than the gateway's; 0 means none
	releaseClaim func(*push.Receipt) // see idempotency.Store; nil without a key
	entry        entry               // of the target, if the request has several
	result       result
}

// result is the result of a submission: a receipt or a problem.
type result struct {
	receipt  push.Receipt
	problem  *problem // nil if there is a receipt
	replayed bool     // the result belongs to an earlier request with the same key
}

func failed(p problem) result { return result{problem: &p} }

func newSubmission(n *push.Notification, key string, body []byte) *submission {
	if key != "" {
		keyHash, bodyHash := sha256.Sum256([]byte(n.App+"\x00"+key)), sha256.Sum256(body)
		n.KeyHash, n.BodyHash = keyHash[:], bodyHash[:]
	}
	return &submission{n: n, key: key}
}

// validIdempotencyKey reports whether a key is absent or has 1 to 255 visible ASCII characters.
func validIdempotencyKey(key string) bool {
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(key) <= 255
}

const idempotencyKeyRule = "must be 1 to 255 visible ASCII characters"

// deliver sends sub synchronously. If its key was used before, the result is that of the earlier
// request instead. When the client disconnects, a send without a key makes no further attempt. A send
// with a key goes on: the client can repeat the request with the key to get the result.
func (s *server) deliver(ctx context.Context, sub *submission) {
	if sub.key == "" {
		ctx, done := sendContext(ctx, context.WithoutCancel(ctx), s.sendTimeout(sub))
		defer done()
		sub.result.receipt = s.sender.Send(ctx, &push.Call{Notification: sub.n, CanQueue: sub.canQueue})
		return
	}
	if !s.claimWithin(ctx, sub) {
		return
	}
	defer sub.release()
	sub.result = failed(problem{kind: internal}) // if the sender panics
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), s.sendTimeout(sub))
	defer done()
	sub.result = result{receipt: s.sender.Send(ctx, &push.Call{Notification: sub.n, CanQueue: sub.canQueue})}
}

// claimWithin is claim with a timeout. An earlier request in progress ends soon after its send timeout,
// and those that wait for it get its receipt.
func (s *server) claimWithin(ctx context.Context, sub *submission) bool {
	ctx, cancel := context.WithTimeout(ctx, s.limits.SendTimeout+time.Second)
	defer cancel()
	return s.claim(ctx, sub)
}

// sendTimeout returns the time that sub may take, including the waits for a quota, an endpoint and a
// retry, and the timeouts of all attempts. Only the drain timeout is outside of it. docs/operations.md
// shows all timeouts.
func (s *server) sendTimeout(sub *submission) time.Duration {
	if sub.maxWait > 0 {
		return min(sub.maxWait, s.limits.SendTimeout)
	}
	return s.limits.SendTimeout
}

// enqueue stores the submissions in the queue as one group and sets their results. It does not stop
// when ctx is cancelled: a started write must finish, so that it is known whether the submissions
// are stored.
func (s *server) enqueue(ctx context.Context, subs []*submission) {
	ctx, done := s.storageContext(ctx)
	defer done()
	var claimed, duplicates []*submission
	defer func() {
		for _, sub := range claimed {
			sub.release()
		}
		for _, sub := range duplicates { // after the first one with the same key is stored
			s.enqueue(ctx, []*submission{sub})
		}
	}()
	// All groups claim their keys in the same order, so that two groups cannot wait for each other.
	sorted := slices.SortedStableFunc(slices.Values(subs), func(p, q *submission) int { return bytes.Compare(p.n.KeyHash, q.n.KeyHash) })
	for i, sub := range sorted {
		switch {
		case sub.key != "" && i > 0 && sorted[i-1].key == sub.key:
			duplicates = append(duplicates, sub)
		case s.claim(ctx, sub):
			claimed = append(claimed, sub)
		}
	}
	s.persist(ctx, claimed)
}

// persist passes submissions with claimed keys to the queue.
func (s *server) persist(ctx context.Context, subs []*submission) {
	if len(subs) == 0 {
		return
	}
	ns := make([]*push.Notification, len(subs))
	for i, sub := range subs {
		ns[i] = sub.n
	}
	for i, err := range s.queue.Accept(ctx, ns) {
		if subs[i].result.receipt = pendingReceipt(ns[i]); err != nil {
			subs[i].result = failed(s.enqueueProblem(ctx, err))
		}
	}
}

// storageContext returns the context for a call of the queue or the history. It is not cancelled
// when the client disconnects.
func (s *server) storageContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), s.limits.SendTimeout)
}

// claim claims the key of sub, if there is one, and reports whether sub is to be sent. Otherwise it
// sets the result to that of the earlier request with the key.
func (s *server) claim(ctx context.Context, sub *submission) bool {
	if sub.key == "" {
		return true
	}
	release, earlier, err := s.idempotency.Claim(ctx, sub.n)
	switch {
	case errors.Is(err, push.ErrKeyReused):
		sub.result = failed(keyReusedProblem)
	case errors.Is(err, push.ErrKeyInUse):
		sub.result = failed(keyInUseProblem)
	case err != nil:
		sub.result = failed(s.storageUnavailable(ctx, err))
	case release == nil:
		sub.result = result{receipt: earlier, replayed: true}
	default:
		sub.releaseClaim = release
		return true
	}
	return false
}

// release releases the key of sub, which has its result.
func (sub *submission) release() {
	if sub.releaseClaim != nil {
		receipt := sub.result.batchReceipt()
		sub.releaseClaim(&receipt)
	}
}

// pendingReceipt returns the receipt of a notification that is stored in the queue.
func pendingReceipt(n *push.Notification) push.Receipt {
	r := push.Receipt{ID: n.ID, State: push.StatusQueued, Warnings: n.Warnings}
	if n.SendAt.After(n.AcceptedAt) {
		r.State = push.StatusScheduled
	}
	return r
}

var (
	keyReusedProblem = problem{kind: keyReused, field: "Idempotency-Key", detail: "must be a new key for a new body"}
	keyInUseProblem  = problem{kind: keyInUse, field: "Idempotency-Key", retryAfter: time.Second,
		detail: "another request with this key is in progress: send it again after the time in Retry-After"}
	queueFullProblem = problem{kind: queueFull, retryAfter: 10 * time.Second,
		detail: "it was not stored: send it again after the time in Retry-After"}
)

// enqueueProblem returns the problem of a notification that the queue did not store, or may not
// have stored.
func (s *server) enqueueProblem(ctx context.Context, err error) problem {
	if _, ok := errors.AsType[*push.FieldError](err); ok {
		return *invalidNotification(push.Receipt{Outcome: push.InvalidNotification(err)})
	}
	if errors.Is(err, push.ErrQueueFull) {
		return queueFullProblem
	}
	return s.storageUnavailable(ctx, err)
}

// storageUnavailable logs and returns the problem of a queue or a history that did not respond.
func (s *server) storageUnavailable(ctx context.Context, err error) problem {
	if ctx.Err() != context.Canceled { // otherwise the client disconnected
		s.log.LogAttrs(ctx, slog.LevelWarn, "queue or history did not respond", slog.Any("err", err))
	}
	return problem{kind: queueUnavailable, retryAfter: 5 * time.Second,
		detail: "it is unknown whether it was stored: with the same Idempotency-Key it is safe to send it again"}
}

// reply returns the response to a single request. The status is 202 if the client asked for an
// asynchronous response, and also if the notification of an earlier request with the same key has
// not ended.
func (res result) reply(w *response, async bool) reply {
	var r reply
	switch {
	case res.problem != nil:
		r = res.problem.reply(w.requestID)
	case async || !res.receipt.IsFinal():
		r = acceptedReply(w.app, res.receipt)
		r.asyncApplied = async
	default:
		r = replyTo(res.receipt, w.requestID)
	}
	r.replayed = res.replayed
	return r
}

// batchReceipt returns the receipt of one of several submissions, without its position.
func (res result) batchReceipt() push.Receipt {
	if res.problem != nil {
		return res.problem.batchReceipt()
	}
	return res.receipt
}
