// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"iter"
	"sync"

	"github.com/sluice-push/sluice/push"
)

// batchWindow bounds the notifications of a batch that were taken and whose end was not handed out: it bounds the memory that
// a batch of any length needs.
const batchWindow = 4096

// SendBatch sends all that in gives, and hands out each receipt as its notification ends, in any order: Index counts in's
// notifications from 0. The error beside it is what Send would have returned. However long the batch, only some thousands
// of its notifications are in memory at a time.
//
// in is read between two receipts, never at the same time as the loop's body runs: the receipts wait for a slow one. A
// loop that is left early leaves what is on its way to its fate. When ctx ends, so does all that is not settled, and no
// more is taken from in; if it had more, the last error is ctx's own, beside a receipt without an Index.
//
//	for receipt, err := range c.SendBatch(ctx, everybody) {
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

// batchResult is the end of one.
type batchResult struct {
	push.Receipt
	err error
}

// batch is one batch on its way.
type batch struct {
	*Client
	ctx         context.Context
	cancel      context.CancelFunc
	pull        func() (*push.Notification, bool)
	stop        func()
	startWorker func(first *item) bool // begins one more worker with first, if there may be one more
	workerCount int
	queue       chan *item       // to the workers; closed behind the last
	results     chan batchResult // from them
	workers     sync.WaitGroup
	taken       int // from in
	pending     int // of these, whose end has not been handed out
}

func newBatch(ctx context.Context, c *Client, in iter.Seq[*push.Notification]) *batch {
	b := &batch{Client: c, queue: make(chan *item), results: make(chan batchResult, batchWindow)}
	b.ctx, b.cancel = context.WithCancel(ctx)
	b.pull, b.stop = iter.Pull(in)
	return b
}

// close leaves nothing behind.
func (b *batch) close() {
	b.stop()
	b.cancel()
	b.workers.Wait()
}

// run takes what in gives, hands it to the workers, and hands out what they tell, until all is told or yield has enough.
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

// drain tells the ends of all that was taken.
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

// dispatch gives it to whoever has time, or else to one more worker, and tells ends while it waits.
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
		case t := <-b.results:
			if !b.yield(t, yield) {
				return false
			}
		case <-b.ctx.Done():
			b.reportNotSent(it)
			return true
		}
	}
}

// drainResults tells what has ended meanwhile.
func (b *batch) drainResults(yield func(push.Receipt, error) bool) bool {
	for {
		select {
		case t := <-b.results:
			if !b.yield(t, yield) {
				return false
			}
		default:
			return true
		}
	}
}

func (b *batch) yield(t batchResult, yield func(push.Receipt, error) bool) bool {
	b.pending--
	return yield(t.Receipt, t.err)
}

// next is a worker's next item; false means that there are no more.
func (b *batch) next() (*item, bool) {
	select {
	case it, ok := <-b.queue:
		return it, ok
	case <-b.ctx.Done():
		return nil, false
	}
}

// report hands an end to run. There is room for all: no more are pending than it holds.
func (b *batch) report(it *item, r push.Receipt, err error) {
	r.Index = &it.index
	b.results <- batchResult{r, err}
}

// reportNotSent tells the end of one that nobody took before the context ended.
func (b *batch) reportNotSent(it *item) {
	o := push.NoResponse(b.ctx.Err())
	if o.Verdict == push.Unknown { // out of time, and not sent
		o.Verdict = push.Unsent
	}
	r := push.Receipt{Outcome: o}
	b.report(it, r, errorFor(r, nil))
}
