// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"iter"
	"sync"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// batchWindow limits the notifications of a batch that were read and whose receipts were not yet
// returned. It limits the memory of a batch of any length.
const batchWindow = 4096

// SendBatch sends all notifications of in and yields a receipt for each as it ends, in any order.
// The receipt's Index is the position in the sequence, from 0, and the error is the one that Send
// would return. At most a few thousand notifications are in memory at a time, however long the
// batch.
//
// SendBatch reads in between two receipts, never while the body of the loop runs, so a slow loop
// body delays the batch. If the loop ends early, the notifications in flight may or may not be
// sent. When ctx ends, SendBatch stops reading and fails what is in flight; if in was not
// exhausted, the last error is ctx's own, with a receipt without Index.
//
//	for receipt, err := range c.SendBatch(ctx, notifications) {
//		...
//	}
func (c *Client) SendBatch(ctx context.Context, in iter.Seq[*push.Notification]) iter.Seq2[push.Receipt, error] {
	return func(yield func(push.Receipt, error) bool) {
		if c.direct != nil {
			c.batchDirect(ctx, in, yield)
			return
		}
		b := newBatch(ctx, c, in)
		defer b.close()
		b.startWorker = b.startStreamWorker
		b.run(yield)
	}
}

// item is one notification of a batch.
type item struct {
	index int
	n     *push.Notification
}

// batchResult is the result of one item.
type batchResult struct {
	push.Receipt
	err error
}

// batch is the state of one SendBatch.
type batch struct {
	*Client
	ctx         context.Context
	cancel      context.CancelFunc
	pull        func() (*push.Notification, bool)
	stop        func()
	startWorker func(first *item) bool // starts a worker with first, if another one is allowed
	workerCount int
	queue       chan *item       // to the workers; closed after the last item
	results     chan batchResult // from the workers
	workers     sync.WaitGroup
	taken       int // read from in
	pending     int // read, but the receipt was not yet returned
}

func newBatch(ctx context.Context, c *Client, in iter.Seq[*push.Notification]) *batch {
	b := &batch{Client: c, queue: make(chan *item), results: make(chan batchResult, batchWindow)}
	b.ctx, b.cancel = context.WithCancel(ctx)
	b.pull, b.stop = iter.Pull(in)
	return b
}

// close stops all workers and waits for them.
func (b *batch) close() {
	b.stop()
	b.cancel()
	b.workers.Wait()
}

// run reads items, passes them to the workers, and yields their results, until all are done or
// yield returns false.
func (b *batch) run(yield func(push.Receipt, error) bool) {
	for b.ctx.Err() == nil {
		if b.pending == batchWindow {
			if !b.yield(<-b.results, yield) {
				return
			}
			continue
		}
		it, ok := b.take()
		if !ok {
			b.drain(yield)
			return
		}
		if !b.dispatch(it, yield) {
			return
		}
	}
	if b.drain(yield) {
		yield(push.Receipt{}, b.ctx.Err())
	}
}

// drain yields the results of all items that were read.
func (b *batch) drain(yield func(push.Receipt, error) bool) bool {
	close(b.queue)
	for b.pending > 0 {
		if !b.yield(<-b.results, yield) {
			return false
		}
	}
	return true
}

func (b *batch) take() (*item, bool) {
	n, ok := b.pull()
	if !ok {
		return nil, false
	}
	it := &item{b.taken, n}
	b.taken++
	b.pending++
	return it, true
}

// dispatch passes an item to an idle worker, or to a new one. It yields results while it waits.
func (b *batch) dispatch(it *item, yield func(push.Receipt, error) bool) bool {
	select {
	case b.queue <- it:
		return b.drainResults(yield)
	default:
	}
	if b.startWorker(it) {
		return true
	}
	for {
		select {
		case b.queue <- it:
			return true
		case res := <-b.results:
			if !b.yield(res, yield) {
				return false
			}
		case <-b.ctx.Done():
			b.reportNotSent(it)
			return true
		}
	}
}

// drainResults yields the results that are available.
func (b *batch) drainResults(yield func(push.Receipt, error) bool) bool {
	for {
		select {
		case res := <-b.results:
			if !b.yield(res, yield) {
				return false
			}
		default:
			return true
		}
	}
}

func (b *batch) yield(res batchResult, yield func(push.Receipt, error) bool) bool {
	b.pending--
	return yield(res.Receipt, res.err)
}

// next returns the next item for a worker; false means that there are no more.
func (b *batch) next() (*item, bool) {
	select {
	case it, ok := <-b.queue:
		return it, ok
	case <-b.ctx.Done():
		return nil, false
	}
}

// report passes a result to run. It never blocks, because results has room for all pending items.
func (b *batch) report(it *item, r push.Receipt, err error) {
	r.Index = &it.index
	b.results <- batchResult{r, err}
}

// reportNotSent reports an item that no worker took before the context ended.
func (b *batch) reportNotSent(it *item) {
	r := push.Receipt{Outcome: push.NoResponse(&wire.Error{Reason: wire.Canceled, Processed: wire.Never, Err: b.ctx.Err()})}
	b.report(it, r, errorFor(r, nil))
}
