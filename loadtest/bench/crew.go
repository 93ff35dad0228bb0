// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// call is one request that is due: with the notifications from number first on.
type call struct {
	first int
	due   time.Duration // since the schedule began
}

// crew makes calls, each worker on a connection of its own.
type crew struct {
	*test
	dialect dialect
	phrases *phrases
	most    int             // workers
	ctx     context.Context // ends when nothing is waited for any more
	working group

	mu      sync.Mutex
	idle    []*worker // last in, first out: a few connections carry most, and the others rest
	waiting []call    // nobody is idle, and there are as many workers as may be
	hired   int
	over    bool
}

// worker makes one call after the other.
type worker struct {
	*crew
	next  chan call
	conn  *conn
	text  []byte
	seen  int // verdicts on the call's notifications
	now   call
	began time.Time // when the call was sent
	parse parser
}

// offer has a call made as soon as there is a connection for it. It does not wait.
func (c *crew) offer(i int, due time.Duration) {
	job := call{first: i * c.Batch, due: due}
	c.book.offer(due-c.WarmUp, c.Batch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		c.idle[n-1].next <- job // has room for one
		c.idle = c.idle[:n-1]
		return
	}
	if c.hired == c.most {
		c.waiting = append(c.waiting, job)
		return
	}
	c.hired++
	w := c.worker()
	w.next <- job
	c.working.Go(w.work)
}

func (c *crew) worker() *worker {
	w := &worker{crew: c, next: make(chan call, 1)}
	w.conn = &conn{address: c.URL, timeout: c.Timeout}
	return w
}

// work makes calls until there are no more.
func (w *worker) work() {
	defer w.conn.close()
	for job := range w.next {
		for more := true; more; {
			w.make(job)
			job, more = w.rest()
		}
	}
}

// rest takes the call that has waited longest, or stands idle.
func (w *worker) rest() (call, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) > 0 {
		job := w.waiting[0]
		w.waiting = w.waiting[1:]
		return job, true
	}
	if w.over {
		close(w.next)
	} else {
		w.idle = append(w.idle, w)
	}
	return call{}, false
}

// call makes one call after the other as long as next has one.
func (c *crew) call(next func() (i int, due time.Duration, more bool)) {
	w := c.worker()
	defer w.conn.close()
	for i, due, more := next(); more; i, due, more = next() {
		c.book.offer(due-c.WarmUp, c.Batch)
		w.make(call{first: i * c.Batch, due: due})
	}
}

// finish lets all that is under way end, for grace at most; then give ends what it waits for.
func (c *crew) finish(grace time.Duration, give func()) {
	c.mu.Lock()
	c.over = true
	for _, w := range c.idle {
		close(w.next)
	}
	c.idle = nil
	c.mu.Unlock()
	last := time.AfterFunc(grace, give)
	defer last.Stop()
	c.working.Wait()
}

// make makes one call and books what came of each of its notifications.
func (w *worker) make(job call) {
	if w.crew.ctx.Err() != nil {
		w.book.lose(job.due-w.WarmUp, w.Batch, "never sent: no connection was free in time")
		return
	}
	w.now, w.seen = job, 0
	w.text = w.dialect.compose(w.text[:0], w.phrases, job.first, w.Batch)
	if err := w.conn.open(w.crew.ctx); err != nil {
		w.book.lose(job.due-w.WarmUp, w.Batch, "no connection")
		_ = sleep(w.crew.ctx, 10*time.Millisecond) // a closed loop would spin
		return
	}
	w.began = time.Now()
	w.book.late(w.began.Sub(w.schedule.began.Add(job.due)), job.due-w.WarmUp)
	err := w.conn.do(w.text, w.Batch > 1, w.answer)
	if missing := w.Batch - w.seen; missing > 0 {
		w.book.lose(job.due-w.WarmUp, missing, lostBecause(err))
	}
	if err != nil {
		w.conn.close()
	}
}

func lostBecause(err error) string {
	if err == nil {
		return "the answer leaves it out"
	}
	return fmt.Sprintf("no answer: %s", cause(err))
}

// answer reads the answer to the call of the moment.
func (w *worker) answer(status int, body *body) error {
	return w.dialect.read(&w.parse, status, body, w.Batch, func(v *verdict) {
		if w.seen == w.Batch {
			return // more than was asked: the ledger will tell
		}
		w.seen++
		now := time.Now()
		v.latency = now.Sub(w.schedule.began) - w.now.due
		v.sent = now.Sub(w.began)
		w.book.answer(w.now.due-w.WarmUp, now, v, w.Batch == 1)
	})
}
