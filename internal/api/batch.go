// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"cmp"
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

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/tracing"
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
	b := s.newBatch(w, r, async)
	defer b.cancelAttempts()
	b.out = newOutput(w, s.limits.WriteTimeout, s.log)
	w.Header()["Content-Type"] = ndjsonType
	if async {
		w.Header()["Preference-Applied"] = respondAsync
		b.out.status = http.StatusAccepted
	}
	b.writer.Go(func() {
		if b.out.run() != nil {
			b.cancel()
		}
	})
	src.beforeRead = b.flush
	stop := context.AfterFunc(r.Context(), func() { s.cancelOnDisconnect(src, b.cancel) })
	defer func() { b.close(); stop() }()

	taken, p := b.readItems(in)
	w.count = b.count
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

// batch is the state of one batch, or of one notification with several targets.
type batch struct {
	*server
	app       string
	access    access
	caller    *identity.Limits
	requestID string
	call      *tracing.Call
	async     bool            // the items go to the queue, and the response does not wait for verdicts
	ctx       context.Context // cancelled when the client disconnects
	attempts  context.Context // of the attempts in flight; cancelled at the end
	timeout   time.Duration   // for a verdict
	shared    sharedTimeout
	count     int                                   // notifications that were read
	pending   []job                                 // read, but not dispatched
	now       time.Time                             // when the first one of pending was read
	slots     map[push.Platform]*semaphore.Weighted // one for each notification until its receipt is written
	jobs      chan job                              // for the enqueuers
	running   sync.WaitGroup                        // runs and enqueuers
	out       *output                               // nil if the results remain in the submissions
	writer    sync.WaitGroup

	cancel, cancelAttempts context.CancelFunc
}

// newBatch returns a batch without an output. Its caller calls cancelAttempts at the end.
func (s *server) newBatch(w *response, r *http.Request, async bool) *batch {
	b := &batch{
		server: s, app: w.app, access: w.access, caller: w.access.caller.Limits, requestID: w.requestID, call: &w.call, async: async, timeout: s.limits.SendTimeout,
		slots: map[push.Platform]*semaphore.Weighted{}, jobs: make(chan job, maxGroup),
	}
	b.attempts, b.cancelAttempts = context.WithCancel(context.WithoutCancel(r.Context()))
	b.ctx, b.cancel = context.WithCancel(b.attempts)
	if async {
		b.startEnqueuers()
	}
	return b
}

// close waits until all accepted items have ended and their receipts are written.
func (b *batch) close() {
	b.wait()
	b.out.finish()
	b.writer.Wait()
}

// wait waits until all accepted items have ended. No more can be added.
func (b *batch) wait() {
	close(b.jobs)
	b.running.Wait()
}

// job is the submission of an item, or of one target of it.
type job struct {
	index int // of the item, or notInBatch
	*submission
}

// notInBatch is the index of the jobs of a single request.
const notInBatch = -1

// appendReceipt appends the receipt of a job with its position.
func (j *job) appendReceipt(b []byte) []byte {
	r := *j.batchReceipt()
	if j.index != notInBatch {
		r.Index = &j.index
	}
	if j.entry.list != "" {
		r.TargetIndex = &j.entry.index
		r.Field, r.Detail = j.entry.rename(r.Field), j.entry.rename(r.Detail)
	}
	if !j.replayed {
		return r.AppendJSON(b)
	}
	b = append(b, `{"replayed":true,`...)
	start := len(b)
	b = r.AppendJSON(b)
	return append(b[:start], b[start+1:]...) // without the second brace
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
		case b.count == b.limits.Batch && !b.async:
			return taken, b.tooLarge()
		case err != nil:
			b.count++
			b.reject(taken, &problem{kind: bodyTooLarge, detail: "must have at most " + formatBytes(b.limits.Item)})
		default:
			if p := b.addItem(taken, text); p != nil {
				return taken, p
			}
		}
	}
	return taken, nil
}

func (b *batch) tooLarge() *problem {
	return &problem{kind: batchTooLarge, detail: fmt.Sprintf("must have at most %d notifications%s", b.limits.Batch, rest)}
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

// addItem decodes an item and adds its notifications to the pending ones. It returns a problem if they
// are too many for the batch.
func (b *batch) addItem(index int, text []byte) *problem {
	n, lists, key, p := decodeItem(text)
	if p == nil {
		p = cmp.Or(b.checkMode(n, b.async), b.access.checkTarget(n))
	}
	if p != nil {
		b.count++
		b.reject(index, p)
		return nil
	}
	if len(b.pending) == 0 {
		b.now = time.Now()
	}
	n.App, n.AcceptedAt = b.app, b.now
	subs := expand(n, lists, key, text)
	if b.count += len(subs); b.count > b.limits.Batch && !b.async {
		return b.tooLarge()
	}
	b.slowDown(len(subs))
	b.add(index, subs)
	return nil
}

// slowDown waits for the rate of the caller to allow n more notifications.
func (b *batch) slowDown(n int) {
	wait := b.caller.Wait(n)
	if wait <= 0 {
		return
	}
	b.flush() // what came before need not wait
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.ctx.Done():
	}
}

// add adds the submissions of an item to the pending ones.
func (b *batch) add(index int, subs []*submission) {
	for _, sub := range subs {
		j := job{index, sub}
		if sub.Notification == nil {
			b.writeResult(&j, nil)
			continue
		}
		sub.CanQueue, sub.Trace = true, b.call.Item()
		if b.pending = append(b.pending, j); len(b.pending) == maxPendingJobs {
			b.flush()
		}
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
		run, pending = splitRun(pending, min(b.limits.InFlight, b.caller.MaxInFlight()))
		b.start(run)
	}
	clear(b.pending)
	b.pending = b.pending[:0]
}

// splitRun splits pending into up to limit jobs that can be sent together, in their order, and the
// others. A job with a key is a run of one, because it may have to wait for an earlier request.
func splitRun(pending []job, limit int) (run, others []job) {
	first := pending[0]
	for i, j := range pending {
		switch {
		case i == 0, len(run) < limit && first.key == "" && j.key == "" && first.Platform == j.Platform && first.EffectiveLane() == j.EffectiveLane():
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

// start sends a run. It blocks until its platform has free slots, and does not wait for the end of the
// run. A platform that does not respond therefore leaves the slots of the others free.
func (b *batch) start(run []job) {
	platform := run[0].Platform
	slots := b.slots[platform]
	if slots == nil {
		slots = semaphore.NewWeighted(int64(b.limits.InFlight))
		b.slots[platform] = slots
	}
	if slots.Acquire(b.ctx, int64(len(run))) != nil || b.caller.Acquire(b.ctx, len(run)) != nil {
		return // the client disconnected
	}
	ctx := sendContext(b.ctx, b.shared.context(b.attempts, b.timeout))
	b.running.Go(func() {
		defer b.caller.Release(len(run))
		defer ctx.cancel()
		if run[0].key != "" { // it may have to wait for an earlier request with the key, which ctx must not limit
			b.runGuarded(run, slots, func() { b.deliver(b.ctx, run[0].submission) })
			return
		}
		b.sendRun(ctx, run, slots)
	})
}

// sendRun sends a run of jobs without keys and writes their receipts.
func (b *batch) sendRun(ctx context.Context, run []job, slots *semaphore.Weighted) {
	calls := make([]*push.Call, len(run))
	for i, j := range run {
		calls[i], j.Call.Index = &j.Call, i
	}
	ended := func(calls []*push.Call) { b.writeReceipts(run, calls, slots) }
	defer func() {
		if panicked := recover(); panicked != nil {
			b.logPanic(b.ctx, panicked, b.requestID)
			calls = slices.DeleteFunc(calls, func(c *push.Call) bool { return c.Receipt.ID != "" })
			for _, c := range calls {
				c.Receipt = internalReceipt(c.Notification)
			}
			ended(calls)
		}
	}()
	b.sender.SendAll(ctx, calls, ended)
}

// internalReceipt returns the receipt of a notification whose send panicked.
func internalReceipt(n *push.Notification) push.Receipt {
	r := (&problem{kind: internal}).batchReceipt()
	r.ID = n.ID
	return *r
}

// writeReceipts writes the receipts of calls that have ended, and frees their slots. The Index of each is
// its position in run.
func (b *batch) writeReceipts(run []job, calls []*push.Call, slots *semaphore.Weighted) {
	if b.out == nil {
		slots.Release(int64(len(calls)))
		return
	}
	lines := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(lines)
	for _, c := range calls {
		lines.Write(append(run[c.Index].appendReceipt(lines.AvailableBuffer()), '\n'))
	}
	b.out.addWithSlots(lines.Bytes(), slots, len(calls))
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
		b.runGuarded(group, nil, func() { b.enqueue(b.ctx, subs) })
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
// affects only these jobs. Each job holds one of slots, or none if slots is nil.
func (b *batch) runGuarded(group []job, slots *semaphore.Weighted, do func()) {
	defer func() {
		if panicked := recover(); panicked != nil {
			b.logPanic(b.ctx, panicked, b.requestID)
			for i := range group {
				group[i].Receipt, group[i].problem = internalReceipt(group[i].Notification), nil
				b.writeResult(&group[i], slots)
			}
		}
	}()
	do()
	for i := range group {
		b.writeResult(&group[i], slots)
	}
}

// reject writes the receipt of an item that is not sent.
func (b *batch) reject(index int, p *problem) {
	b.writeResult(&job{index, rejected(p)}, nil)
}

// writeResult writes the receipt of a job on its own line and frees its slot, if it holds one of slots.
func (b *batch) writeResult(j *job, slots *semaphore.Weighted) {
	if b.out == nil {
		if slots != nil {
			slots.Release(1)
		}
		return
	}
	line := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(line)
	line.Write(append(j.appendReceipt(line.AvailableBuffer()), '\n'))
	if slots != nil {
		b.out.addWithSlots(line.Bytes(), slots, 1)
	} else {
		b.out.add(line.Bytes())
	}
}
