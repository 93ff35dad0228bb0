// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/semaphore"

	"github.com/sluice-push/sluice/push"
)

// batch handles POST /v1/apps/{app}/notifications/batch. It reads notifications and writes a
// receipt for each as soon as it has ended or is stored in the queue. The whole batch fails with a
// problem only if no item has been accepted yet.
func (s *server) batch(w *response, r *http.Request) *problem {
	async, p := s.preferAsync(r)
	if p != nil {
		return p
	}
	if r.Header.Get("Idempotency-Key") != "" {
		return &problem{kind: invalidHeader, field: "Idempotency-Key",
			detail: "must be absent: in a batch, each notification has its own key in the field idempotency_key"}
	}
	media, p := bodyType(r, "application/json", "application/x-ndjson")
	if p != nil {
		return p
	}
	control := http.NewResponseController(w.ResponseWriter)
	_ = control.EnableFullDuplex() // if not supported, the body is read before the response is written
	src := newBody(r, control, s.limits.BodyTimeout)
	if media == "application/json" {
		return s.runBatch(w, r, async, src, &arrayReader{body: src, maxItem: s.limits.Item})
	}
	buffer := s.readers.get(src)
	defer s.readers.put(buffer)
	return s.runBatch(w, r, async, src, &lineReader{body: src, in: buffer})
}

// runBatch processes a batch from its first item to its last receipt. The sends do not end with the
// context of the request, but when the client disconnects: see cancelOnDisconnect.
func (s *server) runBatch(w *response, r *http.Request, async bool, src *body, in itemReader) *problem {
	attempts, cancelAttempts := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancelAttempts()
	ctx, cancel := context.WithCancel(attempts)
	defer cancel()
	b := &batch{
		server: s, app: w.app, access: w.access, requestID: w.requestID, async: async, ctx: ctx, attempts: attempts,
		slots: semaphore.NewWeighted(int64(s.limits.InFlight)), jobs: make(chan job, maxGroup), out: newOutput(w, s.limits.WriteTimeout),
	}
	w.Header()["Content-Type"] = ndjsonType
	if async {
		b.startEnqueuers()
		w.Header()["Preference-Applied"] = respondAsync
		b.out.status = http.StatusAccepted
	}
	b.out.written = b.slots.Release
	b.writer.Go(func() {
		if b.out.run() != nil {
			cancel()
		}
	})
	src.beforeRead = b.flush
	stop := context.AfterFunc(r.Context(), func() { s.cancelOnDisconnect(src, cancel) })
	defer func() { b.close(); stop() }()

	taken, p := b.readItems(in)
	if p != nil && p.kind != bodyTimeout {
		src.drain()
	}
	if p == nil || p.kind != bodyTimeout {
		_ = src.control.SetReadDeadline(time.Time{}) // it would end the read with which net/http detects that the client disconnects
	}
	if p != nil && taken > 0 {
		b.reject(taken, p)
		return nil
	}
	return p
}

// cancelOnDisconnect cancels the batch when the client disconnects. net/http also cancels a request's
// context if a read times out. In this case the client is still connected, and the notifications in
// flight may use their full send timeout.
func (s *server) cancelOnDisconnect(src *body, cancel context.CancelFunc) {
	if src.timedOut() {
		time.AfterFunc(s.limits.SendTimeout, cancel)
		return
	}
	cancel()
}

// batch is the state of one batch.
type batch struct {
	*server
	app       string
	access    access
	requestID string
	async     bool            // the items go to the queue, and the response does not wait for verdicts
	ctx       context.Context // cancelled when the client disconnects
	attempts  context.Context // of the attempts in flight; cancelled at the end
	shared    sharedContext
	pending   []job               // read, but not dispatched
	now       time.Time           // when the first one of pending was read
	slots     *semaphore.Weighted // one for each notification until its receipt is written
	jobs      chan job            // for the enqueuers
	running   sync.WaitGroup      // runs and enqueuers
	out       *output
	writer    sync.WaitGroup
}

// close waits until all accepted items have ended and their receipts are written.
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

// sharedContext is the context of the items that were dispatched recently. Sharing it saves a timer
// for each.
type sharedContext struct {
	context.Context
	created time.Time
}

// itemContext returns the context of an item that is dispatched now. It ends after the send
// timeout, or up to 1/256 of it earlier: by default, a tenth of a second.
func (b *batch) itemContext() context.Context {
	if now := time.Now(); b.shared.Context == nil || now.Sub(b.shared.created) > b.limits.SendTimeout/256 {
		ctx, cancel := sendContext(b.ctx, b.attempts, b.limits.SendTimeout)
		_ = cancel // b.ctx and b.attempts end with the batch
		b.shared = sharedContext{ctx, now}
	}
	return b.shared.Context
}

// readItems dispatches all items and rejects invalid ones. It returns how many it took, and the
// problem if it stopped before the end.
func (b *batch) readItems(in itemReader) (taken int, p *problem) {
	defer b.flush()
	for ; b.ctx.Err() == nil; taken++ {
		text, err := in.next()
		if err == io.EOF {
			return taken, nil
		}
		if p := b.access.check(); p != nil {
			p.detail += rest
			return taken, p
		}
		switch {
		case err != nil && !errors.Is(err, errTooLong):
			return taken, b.readProblem(err)
		case taken == b.limits.Batch && !b.async:
			return taken, &problem{kind: batchTooLarge,
				detail: fmt.Sprintf("must have at most %d notifications: this item and the following ones were not read", b.limits.Batch)}
		case err != nil:
			b.reject(taken, &problem{kind: bodyTooLarge, detail: "must have at most " + formatBytes(b.limits.Item)})
		default:
			b.addItem(taken, text)
		}
	}
	return taken, nil
}

// rest ends the detail of a problem that ends a batch.
const rest = ": this item and the following ones were not read"

// readProblem returns the problem of a batch whose rest cannot be read.
func (b *batch) readProblem(err error) *problem {
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case errors.Is(err, errNotAnArray):
		return &problem{kind: invalidJSON,
			detail: "must be one array of notifications, or application/x-ndjson with one on each line"}
	case errors.Is(err, errTokenTooLong):
		return &problem{kind: bodyTooLarge, detail: "must have at most " + formatBytes(b.limits.Item) + rest}
	case ok && !errors.Is(err, io.ErrUnexpectedEOF):
		return &problem{kind: invalidJSON,
			detail: fmt.Sprintf("must be a valid JSON array; parsing stopped at byte %d%s", syntax.ByteOffset, rest)}
	default:
		p := b.bodyProblem(err)
		p.detail += rest
		return p
	}
}

// addItem decodes an item and adds it to the pending ones.
func (b *batch) addItem(index int, text []byte) {
	n, key, p := decodeItem(text)
	if p == nil {
		p = b.checkSendAt(n, b.async)
	}
	if p != nil {
		b.reject(index, p)
		return
	}
	if len(b.pending) == 0 {
		b.now = time.Now()
	}
	assignID(n, b.app, b.now)
	n.CanQueue = true
	if b.pending = append(b.pending, job{index, newSubmission(n, key, text)}); len(b.pending) == maxPendingJobs {
		b.flush()
	}
}

// maxPendingJobs is how many items are dispatched together if they arrive together. Items that are
// sent together share most of their cost. More than this save nothing more.
const maxPendingJobs = 64

// flush dispatches the pending items, unless the client disconnected. It runs before each read, so
// that no item waits for the next one to arrive.
func (b *batch) flush() {
	pending := b.pending
	for len(pending) > 0 && b.ctx.Err() == nil {
		if b.async {
			b.enqueueLater(pending[0])
			pending = pending[1:]
			continue
		}
		var run []job
		run, pending = splitRun(pending, b.limits.InFlight)
		b.start(run)
	}
	clear(b.pending)
	b.pending = b.pending[:0]
}

// splitRun splits pending into up to limit jobs that can be sent together, in their order, and the
// others. A job with a key is sent by itself, because it may have to wait for an earlier request.
func splitRun(pending []job, limit int) (run, others []job) {
	first := pending[0]
	for i, j := range pending {
		switch {
		case i == 0, len(run) < limit && first.key == "" && j.key == "" && first.n.Platform == j.n.Platform && first.n.EffectiveLane() == j.n.EffectiveLane():
			run = append(run, j)
		default:
			others = append(others, j)
		}
	}
	return run, others
}

// enqueueLater passes a job to the enqueuers.
func (b *batch) enqueueLater(j job) {
	select {
	case b.jobs <- j:
	case <-b.ctx.Done():
	}
}

// start sends a run. It blocks until there are free slots, and does not wait for the end of the run.
func (b *batch) start(run []job) {
	if b.slots.Acquire(b.ctx, int64(len(run))) != nil {
		return // the client disconnected
	}
	ctx := b.itemContext()
	b.running.Go(func() {
		if run[0].key != "" { // it may have to wait for an earlier request with the key, which ctx must not limit
			b.runGuarded(run, func() { b.deliver(b.ctx, run[0].submission) })
			return
		}
		b.sendRun(ctx, run)
	})
}

// sendRun sends a run of jobs without keys and writes their receipts.
func (b *batch) sendRun(ctx context.Context, run []job) {
	calls, pointers := make([]push.Call, len(run)), make([]*push.Call, len(run))
	for i, j := range run {
		calls[i] = push.Call{Notification: j.n, Index: j.index}
		pointers[i] = &calls[i]
	}
	defer func() {
		if panicked := recover(); panicked != nil {
			b.logPanic(b.ctx, panicked, b.requestID)
			pointers = slices.DeleteFunc(pointers, func(c *push.Call) bool { return c.Receipt.ID != "" })
			for _, c := range pointers {
				c.Receipt = (&problem{kind: internal}).batchReceipt(c.Index)
				c.Receipt.ID = c.Notification.ID
			}
			b.writeReceipts(pointers)
		}
	}()
	b.sender.SendAll(ctx, pointers, b.writeReceipts)
}

// writeReceipts writes the receipts of calls that have ended.
func (b *batch) writeReceipts(calls []*push.Call) {
	lines := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(lines)
	for _, c := range calls {
		c.Receipt.Index = &c.Index
		lines.Write(append(c.Receipt.AppendJSON(lines.AvailableBuffer()), '\n'))
	}
	b.out.addWithSlots(lines.Bytes(), len(calls))
}

// The enqueuers pass items to the queue in groups. A group contains all items that arrived while
// the queue was busy, so it grows with the load.
const (
	enqueuers = 4   // concurrent groups of one batch
	maxGroup  = 100 // items in one group
)

func (b *batch) startEnqueuers() {
	for range enqueuers {
		b.running.Go(b.enqueueJobs)
	}
}

// enqueueJobs passes groups of jobs to the queue until there are no more.
func (b *batch) enqueueJobs() {
	group, subs := make([]job, 0, maxGroup), make([]*submission, 0, maxGroup)
	for j := range b.jobs {
		group = b.gather(append(group[:0], j))
		subs = subs[:0]
		for _, j := range group {
			subs = append(subs, j.submission)
		}
		b.runGuarded(group, func() { b.enqueue(b.ctx, subs) })
	}
}

// gather adds the jobs that are waiting to the group.
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

// runGuarded calls do, which sets the results of the jobs, and writes their receipts. A panic
// affects only these jobs.
func (b *batch) runGuarded(group []job, do func()) {
	defer func() {
		if panicked := recover(); panicked != nil {
			b.logPanic(b.ctx, panicked, b.requestID)
			for _, j := range group {
				r := (&problem{kind: internal}).batchReceipt(j.index)
				r.ID = j.n.ID
				b.writeReceipt(r, false, b.slotsPerJob())
			}
		}
	}()
	do()
	for _, j := range group {
		b.writeReceipt(j.result.batchReceipt(j.index), j.result.replayed, b.slotsPerJob())
	}
}

// reject writes the receipt of an item that is not sent.
func (b *batch) reject(index int, p *problem) {
	b.writeReceipt(p.batchReceipt(index), false, 0)
}

// slotsPerJob returns how many slots a job holds: items for the queue hold none.
func (b *batch) slotsPerJob() int {
	if b.async {
		return 0
	}
	return 1
}

// writeReceipt writes a receipt on its own line and frees the slots that its notification holds.
// replayed says that it belongs to an earlier request.
func (b *batch) writeReceipt(r push.Receipt, replayed bool, slots int) {
	line := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(line)
	if replayed {
		line.WriteString(`{"replayed":true,`)
		line.Write(append(r.AppendJSON(nil)[1:], '\n'))
	} else {
		line.Write(append(r.AppendJSON(line.AvailableBuffer()), '\n'))
	}
	if slots > 0 {
		b.out.addWithSlots(line.Bytes(), slots)
	} else {
		b.out.add(line.Bytes())
	}
}
