// SPDX-License-Identifier: Apache-2.0

package rest

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
func (a *api) batch(w *answer, r *http.Request) *problem {
	async, p := a.async(r)
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
	from := newBody(r, control, a.limits.BodyTime)
	if media == "application/json" {
		return a.run(w, r, async, from, newArray(from, a.limits.Item))
	}
	buffer := a.readers.get(from)
	defer a.readers.put(buffer)
	return a.run(w, r, async, from, &lines{body: from, in: buffer})
}

// run takes a batch from its first item to its last receipt. What it sends does not end with the request's own context
// but with the caller: see follow.
func (a *api) run(w *answer, r *http.Request, async bool, from *body, in items) *problem {
	ctx, leave := context.WithCancel(context.WithoutCancel(r.Context()))
	defer leave()
	b := &batch{
		api: a, app: w.app, requestID: w.requestID, async: async, ctx: ctx,
		places: make(chan struct{}, a.limits.InFlight), jobs: make(chan job, mostOrders), out: newOutput(w, a.limits.WriteTime),
	}
	w.Header()["Content-Type"] = ndjsonType
	if async {
		b.hireAcceptors()
		w.Header()["Preference-Applied"] = applied
		b.out.status = http.StatusAccepted
	}
	b.writer.Go(func() {
		if b.out.run() != nil {
			leave()
		}
	})
	from.beforeRead = b.clear
	unfollow := context.AfterFunc(r.Context(), func() { a.follow(from, leave) })
	defer func() { b.end(); unfollow() }()

	taken, p := b.read(in)
	if p != nil && p.kind != bodyTimeout {
		from.drain()
	}
	if p == nil || p.kind != bodyTimeout {
		_ = from.control.SetReadDeadline(time.Time{}) // it would end net/http's watch for the caller's departure
	}
	if p != nil && taken > 0 {
		b.refuse(taken, p)
		return nil
	}
	return p
}

// follow leaves with the caller. net/http ends a request's context also when a read runs out of time: then the caller
// is there, and what is in flight gets the time that it would get without one.
func (a *api) follow(from *body, leave context.CancelFunc) {
	if from.late() {
		time.AfterFunc(a.limits.SendTime, leave)
		return
	}
	leave()
}

// batch is one batch on its way through.
type batch struct {
	*api
	app       string
	requestID string
	async     bool            // the queue keeps them, and nobody waits for verdicts
	ctx       context.Context // ends when the caller has left
	term      term
	pile      []job          // read, and not handed on
	places    chan struct{}  // taken by what is on its way
	jobs      chan job       // for the acceptors
	busy      sync.WaitGroup // errands and acceptors
	out       *output
	writer    sync.WaitGroup
}

// end waits until all that was taken has ended and is written.
func (b *batch) end() {
	close(b.jobs)
	b.busy.Wait()
	b.out.finish()
	b.writer.Wait()
}

type job struct {
	index int
	*order
}

// term is the context of those whose turn came lately. They share it, for one of its own would cost each a timer.
type term struct {
	context.Context
	began time.Time
}

// turn returns the context of a notification whose turn comes now. It ends when the notification has had its time, or up
// to a 256th of that earlier: a tenth of a second, by default.
func (b *batch) turn() context.Context {
	if now := time.Now(); b.term.Context == nil || now.Sub(b.term.began) > b.limits.SendTime/256 {
		ctx, cancel := context.WithTimeout(b.ctx, b.limits.SendTime)
		_ = cancel // b.ctx ends with the batch
		b.term = term{ctx, now}
	}
	return b.term.Context
}

// read hands every item to the crew, and a bad one its receipt. It returns how many it took, and why it stopped
// before the end.
func (b *batch) read(in items) (taken int, p *problem) {
	defer b.clear()
	for ; b.ctx.Err() == nil; taken++ {
		text, err := in.next()
		switch {
		case err == io.EOF:
			return taken, nil
		case err != nil && !errors.Is(err, errTooLong):
			return taken, b.unreadable(err)
		case taken == b.limits.Batch && !b.async:
			return taken, &problem{kind: batchTooLarge,
				detail: fmt.Sprintf("must have at most %d notifications: this and what follows was not read", b.limits.Batch)}
		case err != nil:
			b.refuse(taken, &problem{kind: bodyTooLarge, detail: "must have at most " + bytesOf(b.limits.Item)})
		default:
			b.take(taken, text)
		}
	}
	return taken, nil
}

// unreadable is the problem of a batch that cannot be read from here on.
func (b *batch) unreadable(err error) *problem {
	const rest = ": this and what follows was not read"
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case errors.Is(err, errNotAnArray):
		return &problem{kind: invalidJSON,
			detail: "must be one array of notifications, or application/x-ndjson with one on each line"}
	case errors.Is(err, errEndless):
		return &problem{kind: bodyTooLarge, detail: "must have at most " + bytesOf(b.limits.Item) + rest}
	case ok && !errors.Is(err, io.ErrUnexpectedEOF):
		return &problem{kind: invalidJSON,
			detail: fmt.Sprintf("must be an array in valid JSON; reading stopped at byte %d%s", syntax.ByteOffset, rest)}
	default:
		p := b.cutShort(err)
		p.detail += rest
		return p
	}
}

// take decodes an item and hands it to the crew.
func (b *batch) take(index int, text []byte) {
	n, key, p := decodeItem(text)
	if p == nil {
		p = b.mayWait(n, b.async)
	}
	if p != nil {
		b.refuse(index, p)
		return
	}
	name(n, b.app)
	n.CanQueue = true
	if b.pile = append(b.pile, job{index, newOrder(n, key, text)}); len(b.pile) == mostPiled {
		b.clear()
	}
}

// mostPiled is how many items are handed on together, if so many have come together: what leaves for an endpoint at the
// same time leaves in one write.
const mostPiled = 64

// clear hands on what has piled up, unless the caller has left. Nothing of it waits for what has yet to come in.
func (b *batch) clear() {
	for _, j := range b.pile {
		if b.ctx.Err() == nil {
			b.hand(j)
		}
	}
	b.pile = b.pile[:0]
}

// hand passes a job on to the crew or the acceptors, as soon as there is room for it.
func (b *batch) hand(j job) {
	if b.async {
		select {
		case b.jobs <- j:
		case <-b.ctx.Done():
		}
		return
	}
	select {
	case b.places <- struct{}{}:
		b.busy.Add(1)
		b.crew.send(errand{b, j, b.turn()})
	case <-b.ctx.Done():
	}
}

// The queue is handed what has piled up while it was busy with what came before: so the group grows with the haste.
const (
	acceptors  = 4   // groups of one batch on their way into the queue
	mostOrders = 100 // of one group
)

func (b *batch) hireAcceptors() {
	for range acceptors {
		b.busy.Go(b.acceptAll)
	}
}

// acceptAll hands the queue groups until there are no more jobs.
func (b *batch) acceptAll() {
	group, orders := make([]job, 0, mostOrders), make([]*order, 0, mostOrders)
	for j := range b.jobs {
		group = b.gather(append(group[:0], j))
		orders = orders[:0]
		for _, j := range group {
			orders = append(orders, j.order)
		}
		b.guarded(group, func() { b.accept(b.ctx, orders) })
	}
}

// gather adds the jobs that wait.
func (b *batch) gather(group []job) []job {
	for len(group) < mostOrders {
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

// guarded does what ends the jobs and writes their receipts. A panic on the way is theirs alone.
func (b *batch) guarded(group []job, do func()) {
	defer func() {
		if panicked := recover(); panicked != nil {
			b.confess(b.ctx, panicked, b.requestID)
			for _, j := range group {
				r := (&problem{kind: internal}).line(j.index)
				r.ID = j.n.ID
				b.tell(r, false)
			}
		}
	}()
	do()
	for _, j := range group {
		b.tell(j.end.line(j.index), j.end.replayed)
	}
}

// refuse writes the receipt of an item that is not sent.
func (b *batch) refuse(index int, p *problem) {
	b.tell(p.line(index), false)
}

// tell writes a receipt on a line of its own, and whether it is that of an earlier call.
func (b *batch) tell(r push.Receipt, replayed bool) {
	line := buffers.Get().(*bytes.Buffer)
	defer release(line)
	if replayed {
		line.WriteString(`{"replayed":true,`)
		line.Write(append(r.AppendJSON(nil)[1:], '\n'))
	} else {
		line.Write(append(r.AppendJSON(line.AvailableBuffer()), '\n'))
	}
	b.out.add(line.Bytes())
}
