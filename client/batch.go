// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"iter"
	"sync"

	"github.com/sluice-push/sluice/push"
)

// window bounds the notifications of a batch that were taken and whose end was not handed out: it bounds the memory that
// a batch of any length needs.
const window = 4096

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
		defer b.end()
		b.hire = b.hireStream
		b.run(yield)
	}
}

// item is one notification of a batch.
type item struct {
	index int
	n     *push.Notification
}

// told is the end of one.
type told struct {
	push.Receipt
	err error
}

// batch is one batch on its way.
type batch struct {
	*Client
	ctx     context.Context
	cancel  context.CancelFunc
	pull    func() (*push.Notification, bool)
	stop    func()
	hire    func(first *item) bool // begins one more worker with first, if there may be one more
	hired   int
	queue   chan *item // to the workers; closed behind the last
	told    chan told  // from them
	crew    sync.WaitGroup
	taken   int // from in
	pending int // of these, whose end has not been handed out
}

func newBatch(ctx context.Context, c *Client, in iter.Seq[*push.Notification]) *batch {
	b := &batch{Client: c, queue: make(chan *item), told: make(chan told, window)}
	b.ctx, b.cancel = context.WithCancel(ctx)
	b.pull, b.stop = iter.Pull(in)
	return b
}

// end leaves nothing behind.
func (b *batch) end() {
	b.stop()
	b.cancel()
	b.crew.Wait()
}

// run takes what in gives, hands it to the workers, and hands out what they tell, until all is told or yield has enough.
func (b *batch) run(yield func(push.Receipt, error) bool) {
	for b.ctx.Err() == nil {
		if b.pending == window {
			if !b.yield(<-b.told, yield) {
				return
			}
			continue
		}
		it, ok := b.take()
		if !ok {
			b.rest(yield)
			return
		}
		if !b.hand(it, yield) {
			return
		}
	}
	if b.rest(yield) {
		yield(push.Receipt{}, b.ctx.Err())
	}
}

// rest tells the ends of all that was taken.
func (b *batch) rest(yield func(push.Receipt, error) bool) bool {
	close(b.queue)
	for b.pending > 0 {
		if !b.yield(<-b.told, yield) {
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

// hand gives it to whoever has time, or else to one more worker, and tells ends while it waits.
func (b *batch) hand(it *item, yield func(push.Receipt, error) bool) bool {
	select {
	case b.queue <- it:
		return b.drainTold(yield)
	default:
	}
	if b.hire(it) {
		return true
	}
	for {
		select {
		case b.queue <- it:
			return true
		case t := <-b.told:
			if !b.yield(t, yield) {
				return false
			}
		case <-b.ctx.Done():
			b.lose(it)
			return true
		}
	}
}

// drainTold tells what has ended meanwhile.
func (b *batch) drainTold(yield func(push.Receipt, error) bool) bool {
	for {
		select {
		case t := <-b.told:
			if !b.yield(t, yield) {
				return false
			}
		default:
			return true
		}
	}
}

func (b *batch) yield(t told, yield func(push.Receipt, error) bool) bool {
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

// tell hands an end to run. There is room for all: no more are pending than it holds.
func (b *batch) tell(it *item, r push.Receipt, err error) {
	r.Index = &it.index
	b.told <- told{r, err}
}

// lose tells the end of one that nobody took before the context ended.
func (b *batch) lose(it *item) {
	o := push.NoResponse(b.ctx.Err())
	if o.Verdict == push.Unknown { // out of time, and not sent
		o.Verdict = push.Unsent
	}
	r := push.Receipt{Outcome: o}
	b.tell(it, r, problemOf(r, nil))
}
