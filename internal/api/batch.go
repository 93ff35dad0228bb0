// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// batch is POST /v1/apps/{app}/notifications/batch: notifications in, a line for each out as it ends, or as the queue has
// it safe. The batch is refused as a whole only while nothing of it was taken.
func (a *server) batch(w *response, r *http.Request) *problem {
	async, p := a.preferAsync(r)
	if p != nil {
		return p
	}
	if r.Header.Get("Idempotency-Key") != "" {
		return &problem{kind: invalidHeader, field: "Idempotency-Key",
			detail: "must be absent: in a batch each notification has its own, in the member idempotency_key"}
	}
	media, p := bodyType(r, "application/json", "application/x-ndjson")
	if p != nil {
		return p
	}
	control := http.NewResponseController(w.ResponseWriter)
	_ = control.EnableFullDuplex() // where it is not to be had, the body is read before the answer is written
	from := newBody(r, control, a.limits.BodyTimeout)
	if media == "application/json" {
		return a.runBatch(w, r, async, from, newArray(from, a.limits.Item))
	}
	buffer := a.readers.get(from)
	defer a.readers.put(buffer)
	return a.runBatch(w, r, async, from, &lineReader{body: from, in: buffer})
}

// runBatch takes a batch from its first item to its last receipt. What it sends does not end with the request's own context
// but with the caller: see follow.
func (a *server) runBatch(w *response, r *http.Request, async bool, from *body, in itemReader) *problem {
	ctx, leave := context.WithCancel(context.WithoutCancel(r.Context()))
	defer leave()
	b := &batch{
		server: a, app: w.app, requestID: w.requestID, async: async, ctx: ctx,
		slots: make(chan struct{}, a.limits.InFlight), jobs: make(chan job, maxGroup), out: newOutput(w, a.limits.WriteTimeout),
	}
	w.Header()["Content-Type"] = ndjsonType
	if async {
		b.startEnqueuers()
		w.Header()["Preference-Applied"] = respondAsync
		b.out.status = http.StatusAccepted
	}
	b.writer.Go(func() {
		if b.out.run() != nil {
			leave()
		}
	})
	from.beforeRead = b.flush
	unfollow := context.AfterFunc(r.Context(), func() { a.cancelWithCaller(from, leave) })
	defer func() { b.close(); unfollow() }()

	taken, p := b.readItems(in)
	if p != nil && p.kind != bodyTimeout {
		from.drain()
	}
	if p == nil || p.kind != bodyTimeout {
		_ = from.control.SetReadDeadline(time.Time{}) // it would end net/http's watch for the caller's departure
	}
	if p != nil && taken > 0 {
		b.reject(taken, p)
		return nil
	}
	return p
}

// cancelWithCaller leaves with the caller. net/http ends a request's context also when a read runs out of time: then the caller
// is there, and what is in flight gets the time that it would get without one.
func (a *server) cancelWithCaller(from *body, leave context.CancelFunc) {
	if from.timedOut() {
		time.AfterFunc(a.limits.SendTimeout, leave)
		return
	}
	leave()
}

// batch is one batch on its way through.
type batch struct {
	*server
	app       string
	requestID string
	async     bool            // the queue keeps them, and nobody waits for verdicts
	ctx       context.Context // ends when the caller has left
	shared    sharedContext
	pending   []job          // read, and not handed on
	slots     chan struct{}  // taken by what is on its way
	jobs      chan job       // for the acceptors
	running   sync.WaitGroup // errands and acceptors
	out       *output
	writer    sync.WaitGroup
}

// close waits until all that was taken has ended and is written.
func (b *batch) close() {
	close(b.jobs)
	b.running.Wait()
	b.out.finish()
	b.writer.Wait()
}

type job struct {
	index int
	*submission
}

// sharedContext is the context of those whose turn came lately. They share it, for one of its own would cost each a timer.
type sharedContext struct {
	context.Context
	created time.Time
}

// itemContext returns the context of a notification whose turn comes now. It ends when the notification has had its time, or up
// to a 256th of that earlier: a tenth of a second, by default.
func (b *batch) itemContext() context.Context {
	if now := time.Now(); b.shared.Context == nil || now.Sub(b.shared.created) > b.limits.SendTimeout/256 {
		ctx, cancel := context.WithTimeout(b.ctx, b.limits.SendTimeout)
		_ = cancel // b.ctx ends with the batch
		b.shared = sharedContext{ctx, now}
	}
	return b.shared.Context
}

// readItems hands every item to the crew, and a bad one its receipt. It returns how many it took, and why it stopped
// before the end.
func (b *batch) readItems(in itemReader) (taken int, p *problem) {
	defer b.flush()
	for ; b.ctx.Err() == nil; taken++ {
		text, err := in.next()
		switch {
		case err == io.EOF:
			return taken, nil
		case err != nil && !errors.Is(err, errTooLong):
			return taken, b.readProblem(err)
		case taken == b.limits.Batch && !b.async:
			return taken, &problem{kind: batchTooLarge,
				detail: fmt.Sprintf("must have at most %d notifications: this and what follows was not read", b.limits.Batch)}
		case err != nil:
			b.reject(taken, &problem{kind: bodyTooLarge, detail: "must have at most " + formatBytes(b.limits.Item)})
		default:
			b.addItem(taken, text)
		}
	}
	return taken, nil
}

// readProblem is the problem of a batch that cannot be read from here on.
func (b *batch) readProblem(err error) *problem {
	const rest = ": this and what follows was not read"
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case errors.Is(err, errNotAnArray):
		return &problem{kind: invalidJSON,
			detail: "must be one array of notifications, or application/x-ndjson with one on each line"}
	case errors.Is(err, errTokenTooLong):
		return &problem{kind: bodyTooLarge, detail: "must have at most " + formatBytes(b.limits.Item) + rest}
	case ok && !errors.Is(err, io.ErrUnexpectedEOF):
		return &problem{kind: invalidJSON,
			detail: fmt.Sprintf("must be an array in valid JSON; reading stopped at byte %d%s", syntax.ByteOffset, rest)}
	default:
		p := b.bodyProblem(err)
		p.detail += rest
		return p
	}
}

// addItem decodes an item and hands it to the crew.
func (b *batch) addItem(index int, text []byte) {
	n, key, p := decodeItem(text)
	if p == nil {
		p = b.checkSendAt(n, b.async)
	}
	if p != nil {
		b.reject(index, p)
		return
	}
	assignID(n, b.app)
	n.CanQueue = true
	if b.pending = append(b.pending, job{index, newSubmission(n, key, text)}); len(b.pending) == maxPendingJobs {
		b.flush()
	}
}

// maxPendingJobs is how many items are handed on together, if so many have come together: what leaves for an endpoint at the
// same time leaves in one write.
const maxPendingJobs = 64

// flush hands on what has piled up, unless the caller has left. Nothing of it waits for what has yet to come in.
func (b *batch) flush() {
	for _, j := range b.pending {
		if b.ctx.Err() == nil {
			b.dispatch(j)
		}
	}
	b.pending = b.pending[:0]
}

// dispatch passes a job on to the crew or the acceptors, as soon as there is room for it.
func (b *batch) dispatch(j job) {
	if b.async {
		select {
		case b.jobs <- j:
		case <-b.ctx.Done():
		}
		return
	}
	select {
	case b.slots <- struct{}{}:
		b.running.Add(1)
		b.workers.submit(task{b, j, b.itemContext()})
	case <-b.ctx.Done():
	}
}

// The queue is handed what has piled up while it was busy with what came before: so the group grows with the haste.
const (
	enqueuers = 4   // groups of one batch on their way into the queue
	maxGroup  = 100 // of one group
)

func (b *batch) startEnqueuers() {
	for range enqueuers {
		b.running.Go(b.enqueueJobs)
	}
}

// enqueueJobs hands the queue groups until there are no more jobs.
func (b *batch) enqueueJobs() {
	group, orders := make([]job, 0, maxGroup), make([]*submission, 0, maxGroup)
	for j := range b.jobs {
		group = b.gather(append(group[:0], j))
		orders = orders[:0]
		for _, j := range group {
			orders = append(orders, j.submission)
		}
		b.runGuarded(group, func() { b.enqueue(b.ctx, orders) })
	}
}

// gather adds the jobs that wait.
func (b *batch) gather(group []job) []job {
	for len(group) < maxGroup {
		select {
		case j, ok := <-b.jobs:
			if !ok {
				return group
			}
			group = append(group, j)
		default:
			return group
		}
	}
	return group
}

// runGuarded does what ends the jobs and writes their receipts. A panic on the way is theirs alone.
func (b *batch) runGuarded(group []job, do func()) {
	defer func() {
		if panicked := recover(); panicked != nil {
			b.logPanic(b.ctx, panicked, b.requestID)
			for _, j := range group {
				r := (&problem{kind: internal}).batchReceipt(j.index)
				r.ID = j.n.ID
				b.writeReceipt(r, false)
			}
		}
	}()
	do()
	for _, j := range group {
		b.writeReceipt(j.result.batchReceipt(j.index), j.result.replayed)
	}
}

// reject writes the receipt of an item that is not sent.
func (b *batch) reject(index int, p *problem) {
	b.writeReceipt(p.batchReceipt(index), false)
}

// writeReceipt writes a receipt on a line of its own, and whether it is that of an earlier call.
func (b *batch) writeReceipt(r push.Receipt, replayed bool) {
	line := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(line)
	if replayed {
		line.WriteString(`{"replayed":true,`)
		line.Write(append(r.AppendJSON(nil)[1:], '\n'))
	} else {
		line.Write(append(r.AppendJSON(line.AvailableBuffer()), '\n'))
	}
	b.out.add(line.Bytes())
}
