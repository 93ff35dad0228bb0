// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"sync"
	"time"
)

// Call is a notification that is being sent, with the options of its sender.
type Call struct {
	*Notification
	// Index identifies the call to its sender, such as its position in a batch.
	Index int
	// CanQueue makes the notification wait for capacity under overload instead of being rejected.
	// Set it where the sender can be slowed down, as in a batch.
	CanQueue bool
	// QueuedSince is since when the queue has held the notification: since it was due, or since the last
	// attempt. It is zero for a call that does not come from the queue.
	QueuedSince time.Time
	// MayHaveArrived is set if the result of an earlier attempt, from before the queue rescheduled the
	// notification, is unknown.
	MayHaveArrived bool
	// Content, if not nil, is the notification that came with several targets. Calls with the same
	// Content differ only in their IDs and targets.
	Content *Notification
	// BeforeAttempt, if not nil, is called immediately before each attempt is sent, with the
	// attempt's number from 1. The queue uses it to record on disk that the result of the attempt
	// is unknown until a response arrives. If it returns an error, the attempt is not sent and the
	// send ends as Abandoned.
	BeforeAttempt func(attempt int) error
	// BeforeRun, if not nil, is called instead of BeforeAttempt immediately before the first attempts
	// at several calls are sent together, with those calls, which all have the same BeforeRun. It
	// must not keep the slice. It returns an error for each call, or nil if there is none. A call with
	// an error is not sent and ends as Abandoned.
	BeforeRun func(calls []*Call) []error
	// Receipt is set when the call has ended. Senders pass on its address, because it is large.
	Receipt Receipt
}

// SendEach sends each call with send, which sets its Receipt, all at once, and returns when all
// have ended. ended gets calls that have ended; it is called by several goroutines. If send panics,
// SendEach does when all others have ended.
func SendEach(ctx context.Context, calls []*Call, ended func([]*Call), send func(context.Context, *Call) *Receipt) {
	var all sync.WaitGroup
	panics := make(chan any, len(calls))
	for _, c := range calls {
		all.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					panics <- p
				}
			}()
			send(ctx, c)
			ended([]*Call{c})
		})
	}
	all.Wait()
	select {
	case p := <-panics:
		panic(p)
	default:
	}
}
