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
	push.Call
	key          string
	maxWait      time.Duration       // limit for the verdict if it is less than the gateway's; 0 means none
	releaseClaim func(*push.Receipt) // see idempotency.Store; nil without a key
	entry        entry               // of the target, if the request has several
	problem      *problem            // the result, if it is not Receipt
	replayed     bool                // the result belongs to an earlier request with the same key
}

// rejected returns a submission that has a problem and is not sent.
func rejected(p *problem) *submission { return &submission{problem: p} }

func newSubmission(n *push.Notification, key string, body []byte) *submission {
	if key != "" {
		keyHash, bodyHash := sha256.Sum256([]byte(n.App+"\x00"+key)), sha256.Sum256(body)
		n.KeyHash, n.BodyHash = keyHash[:], bodyHash[:]
	}
	return &submission{Call: push.Call{Notification: n}, key: key}
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
		timeout, stop := s.timeoutContext(s.sendTimeout(sub))
		defer stop()
		ctx := sendContext(ctx, timeout)
		defer ctx.cancel()
		s.sender.Send(ctx, &sub.Call)
		return
	}
	if !s.claimWithin(ctx, sub) {
		return
	}
	defer sub.release()
	sub.problem = &problem{kind: internal} // if the sender panics
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), s.sendTimeout(sub))
	defer done()
	s.sender.Send(ctx, &sub.Call)
	sub.problem = nil
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
	sorted := slices.SortedStableFunc(slices.Values(subs), func(p, q *submission) int { return bytes.Compare(p.KeyHash, q.KeyHash) })
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

// persist passes submissions with claimed keys to the queue. It has its own timeout: the claims may have
// taken all the time of ctx, because one key of a group was in use.
func (s *server) persist(ctx context.Context, subs []*submission) {
	if len(subs) == 0 {
		return
	}
	ctx, done := s.storageContext(ctx)
	defer done()
	ns := make([]*push.Notification, len(subs))
	for i, sub := range subs {
		ns[i] = sub.Notification
	}
	for i, err := range s.queue.Accept(ctx, ns) {
		if subs[i].Receipt = pendingReceipt(ns[i]); err != nil {
			subs[i].problem = s.enqueueProblem(ctx, err)
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
	release, earlier, err := s.idempotency.Claim(ctx, sub.Notification)
	switch {
	case errors.Is(err, push.ErrKeyReused):
		sub.problem = &keyReusedProblem
	case errors.Is(err, push.ErrKeyInUse):
		sub.problem = &keyInUseProblem
	case err != nil:
		sub.problem = s.storageUnavailable(ctx, err)
	case release == nil:
		sub.Receipt, sub.replayed = earlier, true
	default:
		sub.releaseClaim = release
		return true
	}
	return false
}

// release releases the key of sub, which has its result.
func (sub *submission) release() {
	if sub.releaseClaim != nil {
		receipt := *sub.batchReceipt() // a copy: the store keeps it
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
func (s *server) enqueueProblem(ctx context.Context, err error) *problem {
	if _, ok := errors.AsType[*push.FieldError](err); ok {
		return invalidNotification(&push.Receipt{Outcome: push.InvalidNotification(err)})
	}
	if errors.Is(err, push.ErrQueueFull) {
		return &queueFullProblem
	}
	return s.storageUnavailable(ctx, err)
}

// storageUnavailable returns the problem of a queue or a history that did not respond, and logs it once a
// minute.
func (s *server) storageUnavailable(ctx context.Context, err error) *problem {
	if ctx.Err() != context.Canceled { // otherwise the client disconnected
		if skipped, ok := s.unavailable.Allow(); ok {
			s.log.LogAttrs(ctx, slog.LevelWarn, "queue or history did not respond", slog.Any("err", err), slog.Int64("not_logged", skipped))
		}
	}
	return &problem{kind: queueUnavailable, retryAfter: 5 * time.Second,
		detail: "it is unknown whether it was stored: with the same Idempotency-Key it is safe to send it again"}
}

// reply returns the response to the single request of sub, whose body may use buf. The status is
// 202 if the client asked for an asynchronous response, and also if the notification of an earlier
// request with the same key has not ended.
func (sub *submission) reply(w *response, async bool, buf []byte) reply {
	var r reply
	switch {
	case sub.problem != nil:
		r = sub.problem.reply(w.requestID)
	case async || !sub.Receipt.IsFinal():
		r = acceptedReply(w.app, &sub.Receipt, buf)
		r.asyncApplied = async
	default:
		r = replyTo(&sub.Receipt, w.requestID, buf)
	}
	r.replayed = sub.replayed
	return r
}

// batchReceipt returns the receipt of one of several submissions, without its position.
func (sub *submission) batchReceipt() *push.Receipt {
	if sub.problem != nil {
		return sub.problem.batchReceipt()
	}
	return &sub.Receipt
}
