// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/push"
)

// Reasons of ends that do not come from a provider.
const (
	reasonInDoubt    = "IN_DOUBT"    // the gateway died during an attempt that must not be repeated
	reasonTTLExpired = "TTL_EXPIRED" // no retry is possible before the TTL expires
	reasonPanic      = "QUEUE_PANIC" // a bug, perhaps during an attempt
)

// errCancelled means that an attempt must not start: another record came first in the log.
var errCancelled = errors.New("queue: notification is cancelled, or sent by another gateway")

// retryInterval is the wait after a failure.
const retryInterval = 250 * time.Millisecond

// task is a notification in the queue. Its JSON form is that of versions without a log.
type task struct {
	ID         string    `json:"id"`
	App        string    `json:"app"`
	AcceptedAt time.Time `json:"accepted_at"`
	KeyHash    []byte    `json:"key_hash,omitempty"`
	BodyHash   []byte    `json:"body_hash,omitempty"`
	push.TraceContext
	// Due is the time to send it; zero means immediately.
	Due time.Time `json:"due,omitzero"`
	// Reschedules counts how often the task was rescheduled. AttemptsStarted and Receipt are the
	// number of attempts and the receipt at that time.
	Reschedules     int                `json:"tries,omitempty"`
	AttemptsStarted int                `json:"begun,omitempty"`
	Receipt         *push.Receipt      `json:"receipt,omitempty"`
	Notification    *push.Notification `json:"n"`
}

func newTask(n *push.Notification) *task {
	t := &task{ID: n.ID, App: n.App, AcceptedAt: n.AcceptedAt, KeyHash: n.KeyHash, BodyHash: n.BodyHash, TraceContext: n.Trace, Notification: n}
	if n.SendAt.After(n.AcceptedAt) {
		t.Due = n.SendAt
	}
	return t
}

func decodeTask(data []byte) (*task, error) {
	t := new(task)
	if err := json.Unmarshal(data, t); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	if t.ID == "" || t.App == "" || t.Notification == nil {
		return nil, fmt.Errorf("queue: task without id, app or notification")
	}
	n := t.Notification
	n.ID, n.App, n.AcceptedAt, n.KeyHash, n.BodyHash, n.Trace = t.ID, t.App, t.AcceptedAt, t.KeyHash, t.BodyHash, t.TraceContext
	return t, nil
}

// priorAttempts returns the attempts from before the task was rescheduled.
func (t *task) priorAttempts() []push.Attempt {
	if t.Receipt == nil {
		return nil
	}
	return t.Receipt.Attempts
}

// waitingSince returns since when the task waits: since its last attempt, or since it was due.
func (t *task) waitingSince() time.Time {
	if prior := t.priorAttempts(); len(prior) > 0 {
		last := &prior[len(prior)-1]
		return last.Started.Add(last.Took)
	}
	return t.Notification.Due()
}

func inDoubtReceipt(t *task) push.Receipt {
	return push.Receipt{ID: t.ID, Attempts: t.priorAttempts(), Outcome: push.Outcome{Verdict: push.Unknown, Reason: reasonInDoubt}}
}

// remainingAttempts returns r with the number of attempts that are left after so many, at least
// one.
func remainingAttempts(r *push.Retry, attempts int) *push.Retry {
	if r == nil || r.Attempts == 0 {
		return nil
	}
	return &push.Retry{Attempts: max(1, r.Attempts-attempts)}
}

// maxReceiptAttempts bounds the attempts in a receipt, so that retries do not grow a task from
// kilobytes to megabytes.
const maxReceiptAttempts = 64

// mergeAttempts returns the earlier and the later attempts, without those in the middle if there
// are too many.
func mergeAttempts(earlier, later []push.Attempt) []push.Attempt {
	if len(earlier) == 0 && len(later) <= maxReceiptAttempts {
		return later
	}
	all := slices.Concat(earlier, later)
	if len(all) > maxReceiptAttempts {
		all = slices.Delete(all, maxReceiptAttempts/2, len(all)-maxReceiptAttempts/2)
	}
	return all
}

func retryUntilDone(ctx context.Context, log *slog.Logger, problem string, do func() error) (done bool) {
	for warned := false; ; warned = true {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if !warned {
			log.Warn(problem, "err", err)
		}
		if !sleep.For(ctx, retryInterval) {
			return false
		}
	}
}

func isWaiting(s push.Status) bool { return s == push.StatusQueued || s == push.StatusScheduled }

func isEnded(s push.Status) bool { return s != "" && s != push.StatusSending && !isWaiting(s) }
