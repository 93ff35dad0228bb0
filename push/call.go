// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"sync"
)

// Call is one of several notifications that are sent together.
type Call struct {
	Notification *Notification
	// Index identifies the call to its sender, such as its position in a batch.
	Index int
	// Receipt is set when the call has ended.
	Receipt Receipt
}

// SendEach sends each call with send, all at once, and returns when all have ended. ended gets calls that
// have ended; it is called by several goroutines. If send panics, SendEach does when all others have
// ended.
func SendEach(ctx context.Context, calls []*Call, ended func([]*Call), send func(context.Context, *Notification) Receipt) {
	var all sync.WaitGroup
	panics := make(chan any, len(calls))
	for _, c := range calls {
		all.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					panics <- p
				}
			}()
			c.Receipt = send(ctx, c.Notification)
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
