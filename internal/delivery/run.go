// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// SendAll sends calls of one app, platform and lane, and returns when all have ended. The calls that the
// limits admit at once are a run: they share permits, a lease and a write for their first attempts.
// Calls that are not admitted with the run, and those whose first attempt is not accepted, continue as
// in Send. The calls have the same BeforeRun, or none. ended gets calls that have ended. It is called by
// several goroutines and must not keep the slice. After a panic, the outcome of the calls that it has
// left without one is unknown.
func (r *Route) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	if len(calls) == 0 {
		return
	}
	b := batch{Route: r, started: time.Now(), ended: ended}
	b.guard(calls[0].Notification, func() { b.send(ctx, calls) })
	b.others.Wait()
	if b.panicked.Load() {
		b.finishPanicked(calls)
	}
}

// guard calls work and logs its panic.
func (b *batch) guard(n *push.Notification, work func()) {
	defer b.recoverPanic(n, func(push.Outcome) { b.panicked.Store(true) })
	work()
}

// finishPanicked ends the calls that a panic has left without a receipt. It is unknown whether they were
// sent.
func (b *batch) finishPanicked(calls []*push.Call) {
	var unended []*push.Call
	for _, c := range calls {
		if c.Receipt.ID == "" {
			setReceipt(c, &push.Outcome{Verdict: push.Unknown, Reason: reasonProviderPanic})
			unended = append(unended, c)
		}
	}
	b.finish(unended)
}

func (b *batch) send(ctx context.Context, calls []*push.Call) {
	items := b.prepare(ctx, calls)
	for len(items) > 0 {
		run := items[:b.admit(ctx, items)]
		if len(run) == 0 {
			b.runAlone(ctx, items)
			return
		}
		if items = items[len(run):]; len(items) == 0 {
			b.sendRun(ctx, run)
		} else {
			b.others.Go(func() { b.guard(run[0].Notification, func() { b.sendRun(ctx, run) }) })
		}
	}
}

// batch is the state of a SendAll.
type batch struct {
	*Route
	started time.Time
	ended   func([]*push.Call)
	others  sync.WaitGroup // goroutines of items that have left their run, and of parts of a run

	panicked atomic.Bool // some calls may have no receipt
}

// item is a call that is valid, and its request.
type item struct {
	*push.Call
	request *wire.Request
}

// prepare returns the calls that need an attempt. It ends the others: invalid calls, those to tokens
// that are known to be unregistered, and dry runs that do not ask the provider. Those to tokens with a
// replacement are sent like Send.
func (b *batch) prepare(ctx context.Context, calls []*push.Call) []item {
	items := make([]item, 0, len(calls))
	var done []*push.Call
	var last item // that was translated
	for _, c := range calls {
		if b.Replacements.has(c.Notification) {
			b.others.Go(func() {
				defer b.finish([]*push.Call{c})
				defer b.recoverPanic(c.Notification, func(o push.Outcome) { setReceipt(c, &o) })
				if !b.sendReplaced(ctx, c) { // evicted meanwhile
					b.Route.send(ctx, c, 0)
				}
			})
			continue
		}
		request, err := b.translateLike(last, c)
		if err == nil {
			last = item{c, request}
		}
		if o := b.endWithoutAttempt(ctx, c.Notification, err); o != nil {
			setReceipt(c, o)
			done = append(done, c)
			continue
		}
		items = append(items, last)
	}
	b.finish(done)
	return items
}

// finish reports calls that have ended.
func (b *batch) finish(calls []*push.Call) {
	if len(calls) == 0 {
		return
	}
	defer b.ended(calls) // also after a panic of the observer
	for _, c := range calls {
		b.Observer.ended(c, b.started)
	}
}

// leaveRun sends items like Send. They have places in the concurrency limit, which they may have to wait
// for again.
func (b *batch) leaveRun(ctx context.Context, items []item) {
	if len(items) > 0 {
		b.ConcurrencyLimit.release(items[0].Call, len(items))
	}
	b.runAlone(ctx, items)
}

// runAlone sends items like Send.
func (b *batch) runAlone(ctx context.Context, items []item) {
	for _, i := range items {
		b.run(ctx, i, &execution{})
	}
}

// run runs the execution of an item in a goroutine of its own. After a panic, the outcome is unknown.
func (b *batch) run(ctx context.Context, i item, x *execution) {
	x.Executor, x.Call, x.makeAttempt = b.Executor, i.Call, b.attempt(i.Notification, i.request)
	b.others.Go(func() {
		defer b.finish([]*push.Call{i.Call})
		defer b.recoverPanic(i.Notification, func(o push.Outcome) { setReceipt(i.Call, &o) })
		x.run(ctx)
		b.tryReplacement(ctx, i.Call)
	})
}

// admit acquires places in the concurrency limit for the first items, as one caller, and returns for how
// many. It returns 0 if the items must be sent alone: the throttler or the limit rejects some of them.
func (b *batch) admit(ctx context.Context, items []item) (admitted int) {
	if b.Throttler.RejectionRate() > 0 {
		return 0
	}
	since := b.Observer.startWaitAll(items)
	admitted, _ = b.ConcurrencyLimit.acquire(ctx, items[0].Call, len(items), b.maxWait(ctx, items))
	b.Observer.waitedAll(items, WaitConcurrencyLimit, since)
	return admitted
}

// maxWait returns how long a run may wait for places: until its first notification may not.
func (b *batch) maxWait(ctx context.Context, items []item) time.Duration {
	x := execution{Executor: b.Executor}
	for _, i := range items {
		at := sendDeadline(ctx, i.Notification)
		if !at.IsZero() && (x.deadline.IsZero() || at.Before(x.deadline)) {
			x.deadline = at
		}
	}
	return x.maxWait(ctx)
}

// sendRun makes the first attempts of items with places in the concurrency limit. While it waits for
// leases, the run has one place in the queue of the pool.
func (b *batch) sendRun(ctx context.Context, items []item) {
	for len(items) > 0 {
		c := items[0].Call
		since := b.Observer.startWaitAll(items)
		lease, err := b.Pool.PickN(ctx, pool.Request{N: len(items), Lane: c.Lane, Flow: c.App, CanQueue: c.CanQueue, MaxWait: b.maxWait(ctx, items)})
		b.Observer.waitedAll(items, WaitEndpoint, since)
		if err != nil {
			b.leaveRun(ctx, items)
			return
		}
		part := &part{batch: b, lease: lease, ready: make(chan struct{}, 1)}
		leased := items[:lease.Size()]
		if items = items[len(leased):]; len(items) == 0 {
			part.send(ctx, leased)
		} else {
			b.others.Go(func() { b.guard(leased[0].Notification, func() { part.send(ctx, leased) }) })
		}
	}
}

// part is the part of a run that shares a lease. It implements wire.Handler.
type part struct {
	*batch
	lease    *pool.Lease
	throttle retry.Permit
	items    []item
	held     int // places of the lease that are not returned
	used     any // of Provider.Sign

	mu      sync.Mutex
	results []wire.Result // that send has not processed yet
	ready   chan struct{} // has a value if there are results
}

// Complete implements wire.Handler.
func (p *part) Complete(results []wire.Result) {
	p.mu.Lock()
	p.results = append(p.results, results...)
	p.mu.Unlock()
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

// take returns the results that have arrived since the last call.
func (p *part) take() []wire.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	results := p.results
	p.results = nil
	return results
}

// send makes the attempts, and returns when each has ended or left the run. After a panic it returns the
// places of the lease, with the permits.
func (p *part) send(ctx context.Context, items []item) {
	p.held = len(items)
	c := items[0].Call
	defer func() {
		if p.held == 0 {
			return
		}
		p.lease.Cancel(p)
		unknown := push.Outcome{Verdict: push.Unknown, Reason: reasonProviderPanic}
		p.ConcurrencyLimit.release(c, p.held)
		p.throttle.Release(unknown, p.held)
		p.unlease(p.held, unknown)
	}()
	if p.items = p.mayUse(ctx, items); len(p.items) == 0 {
		return
	}
	p.Budget.Deposit(len(p.items))
	if p.items = p.beforeAttempts(ctx); len(p.items) == 0 {
		return
	}
	attempts := push.AttemptContext(ctx)
	field, used, failed := p.sign(attempts)
	if failed != nil {
		for _, i := range p.items {
			p.leave(ctx, i, &push.Attempt{Started: time.Now(), Outcome: *failed})
		}
		return
	}
	p.used = used
	requests := make([]*wire.Request, len(p.items))
	for n, i := range p.items {
		requests[n] = sign(i.request, field)
	}
	p.lease.Start(requests, p)
	ended := attempts.Done()
	for left := len(p.items); left > 0; {
		select {
		case <-p.ready:
			results := p.take()
			left -= len(results)
			p.process(ctx, results)
		case <-ended:
			p.lease.Cancel(p)
			ended = nil
		}
	}
}

// unlease gives back places of the lease whose requests have ended with o.
func (p *part) unlease(count int, o push.Outcome) {
	p.held -= count
	for range count {
		p.lease.Done(o)
	}
}

// mayUse returns the items that the rate limit and the throttler admit immediately. The others leave the
// run, and so do those that have expired while they waited for the lease.
func (p *part) mayUse(ctx context.Context, items []item) (admitted []item) {
	var leaving []item
	live := slices.DeleteFunc(items, func(i item) bool {
		if expired(i.Notification) {
			leaving = append(leaving, i)
			return true
		}
		return false
	})
	ns := make([]*push.Notification, len(live))
	for n, i := range live {
		ns[n] = i.Notification
	}
	count := p.RateLimiter.TryAcquireN(ns)
	var err error
	if p.throttle, err = p.Throttler.Acquire(count); err != nil {
		p.RateLimiter.Return(ns[:count])
		count = 0
	}
	leaving = append(leaving, live[count:]...)
	p.unlease(len(leaving), push.Outcome{})
	p.leaveRun(ctx, leaving)
	return live[:count]
}

// beforeAttempts calls BeforeRun and returns the items that it allows to be sent. The others leave the
// run, and end. Without BeforeRun, it calls the BeforeAttempt of each item.
func (p *part) beforeAttempts(ctx context.Context) []item {
	var errs []error
	if before := p.items[0].BeforeRun; before != nil {
		calls := make([]*push.Call, len(p.items))
		for n, i := range p.items {
			calls[n] = i.Call
		}
		errs = before(calls)
	} else if p.items[0].BeforeAttempt != nil {
		for _, i := range p.items {
			errs = append(errs, i.BeforeAttempt(1))
		}
	}
	if errs == nil {
		return p.items
	}
	allowed := p.items[:0]
	for n, i := range p.items {
		if errs[n] == nil {
			allowed = append(allowed, i)
		} else {
			p.leave(ctx, i, &push.Attempt{Started: time.Now(), Outcome: push.Outcome{Verdict: push.Abandoned, Reason: reasonNotRecorded}})
		}
	}
	return allowed
}

// sign is Provider.Sign for all items, whose credential is the same.
func (p *part) sign(ctx context.Context) (field wire.Field, used any, failed *push.Outcome) {
	n := p.items[0].Notification
	defer p.recoverPanic(n, func(o push.Outcome) { failed = &o })
	return p.Provider.Sign(ctx, n)
}

// process records results. It ends the items that were accepted, and continues with the others.
func (p *part) process(ctx context.Context, results []wire.Result) {
	accepted := make([]*push.Call, 0, len(results))
	attempts := make([]push.Attempt, len(results))
	var took time.Duration // of all that were accepted
	defer func() {         // also after a panic
		if count := len(accepted); count > 0 {
			mean := took / time.Duration(count)
			p.held -= count
			p.lease.Succeeded(count, mean)
			p.throttle.Release(push.Outcome{Verdict: push.Accepted}, count)
			p.ConcurrencyLimit.release(accepted[0], count)
			p.finish(accepted)
		}
	}()
	for n, result := range results {
		i, a := p.items[result.Index], &attempts[n]
		*a = push.Attempt{Started: result.Started, Took: result.Ended.Sub(result.Started), Outcome: p.judge(ctx, i.Notification, result)}
		if a.Verdict != push.Accepted {
			p.leave(ctx, i, a)
			continue
		}
		a.Endpoint, a.Environment = p.lease.Endpoint().String(), p.Environment
		p.RateLimiter.Record(i.Notification, a.Outcome)
		p.Observer.attempted(i.Notification, 1, a, p.lease.Conn())
		setReceipt(i.Call, &a.Outcome, attempts[n:n+1:n+1]...)
		accepted = append(accepted, i.Call)
		took += a.Took
	}
}

// judge is Provider.Judge. After a panic, the outcome is unknown.
func (p *part) judge(ctx context.Context, n *push.Notification, result wire.Result) (o push.Outcome) {
	defer p.recoverPanic(n, func(unknown push.Outcome) { o = unknown })
	err := result.Err
	if e, ok := errors.AsType[*wire.Error](err); ok && e.Reason == wire.Canceled { // name the cause, which Cancel does not know
		err = &wire.Error{Reason: e.Reason, Processed: e.Processed, Err: push.AttemptContext(ctx).Err()}
	}
	o = p.Provider.Judge(n, p.used, result.Response, err)
	p.Unregistered.record(n, &o)
	return o
}

// leave records an attempt that was not accepted, and continues with its item as Send does.
func (p *part) leave(ctx context.Context, i item, a *push.Attempt) {
	a.Endpoint, a.Environment = p.lease.Endpoint().String(), p.Environment
	p.unlease(1, a.Outcome)
	x := &execution{
		Executor: p.Executor, Call: i.Call, lease: p.lease, admitted: true, throttlePermit: p.throttle,
		attempts:  []push.Attempt{*a},
		cancelled: a.Verdict == push.Unknown && errors.Is(push.AttemptContext(ctx).Err(), context.Canceled),
	}
	x.record()
	p.run(ctx, i, x)
}
