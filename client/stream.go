// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

const (
	maxItems          = 2000        // of one stream; then another begins, at the gateway that has the least to do by then
	streamIdleTimeout = time.Second // without a new item, until a stream ends
	flushSize         = 16 << 10    // bytes that leave in one write
)

// stream is one request to one gateway: notifications out and receipts back, both at the same time.
type stream struct {
	*batch
	conn      *gatewayConn
	ctx       context.Context
	body      *io.PipeWriter
	buf       []byte        // not written yet
	sent      int           // how many items were written
	done      chan struct{} // closed when no more receipts will come
	connected atomic.Bool

	mu       sync.Mutex
	items    []*item // by their index in the request; nil once told
	readUpTo int     // the gateway has read no further than this, where it says so; else -1
}

// startStreamWorker begins one more worker, that goes from stream to stream.
func (b *batch) startStreamWorker(first *item) bool {
	if b.workerCount == b.cfg.Streams {
		return false
	}
	b.workerCount++
	b.workers.Go(func() {
		for it, ok := first, true; ok; it, ok = b.next() {
			b.stream(it)
		}
	})
	return true
}

// stream sends first, and what else comes, to one gateway.
func (b *batch) stream(first *item) {
	ctx, cancel := b.withTimeout(b.ctx)
	lease, err := b.pool.Pick(ctx, nil)
	cancel()
	if err != nil {
		r := push.Receipt{Outcome: push.NoResponse(err)}
		b.report(first, r, errorFor(r, nil))
		return
	}
	s := &stream{batch: b, conn: lease.Conn().(*gatewayConn), done: make(chan struct{}), readUpTo: -1}
	answered, err := s.exchange(first)
	lease.Done(s.outcome(answered, err))
	s.settle(answered, err)
}

// exchange writes and reads until both have ended. It returns a gateway's refusal of the whole, or why the exchange broke.
func (s *stream) exchange(first *item) (refusal *response, err error) {
	ctx, cancel := context.WithCancel(s.batch.ctx)
	defer cancel()
	s.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { s.connected.Store(true) }})
	body, writer := io.Pipe()
	s.body = writer
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(s.done)
		defer func() { _ = body.CloseWithError(io.ErrClosedPipe) }()
		refusal, err = s.receive(body, cancel)
	})
	reading.Go(func() {
		select {
		case <-s.conn.lost:
			cancel()
		case <-s.done:
		}
	})
	s.write(first)
	reading.Wait()
	return refusal, err
}

// write writes first and what follows, until nothing does, or the gateway takes its leave.
func (s *stream) write(first *item) {
	defer func() { _ = s.body.Close() }()
	s.add(first)
	idle := time.NewTimer(streamIdleTimeout)
	defer idle.Stop()
	for range maxItems - 1 {
		it, ok := s.nextItem(idle)
		if !ok {
			break
		}
		s.add(it)
		if len(s.buf) >= flushSize && !s.flush() {
			return
		}
	}
	s.flush()
}

// nextItem is the next item. While there is none, what is there is written.
func (s *stream) nextItem(idle *time.Timer) (*item, bool) {
	select {
	case <-s.conn.draining:
		return nil, false
	case it, ok := <-s.queue:
		return it, ok
	default:
	}
	if !s.flush() {
		return nil, false
	}
	idle.Reset(streamIdleTimeout)
	select {
	case it, ok := <-s.queue:
		return it, ok
	case <-idle.C:
	case <-s.conn.draining:
	case <-s.done:
	case <-s.ctx.Done():
	}
	return nil, false
}

// add puts an item on the line.
func (s *stream) add(it *item) {
	text, err := encodeLine(it.n)
	if err != nil {
		r := push.Receipt{Outcome: push.InvalidNotification(err)}
		s.report(it, r, errorFor(r, nil))
		return
	}
	s.buf = append(append(s.buf, text...), '\n')
	s.route.Budget.Deposit()
	s.mu.Lock()
	s.items = append(s.items, it)
	s.mu.Unlock()
}

// encodeLine is a notification as a batch has it: with its Idempotency-Key inside, if its sender gave it one. Keys of our own
// would only fill the gateways' memory: what a stream lost is not sent to the same gateway again.
func encodeLine(n *push.Notification) ([]byte, error) {
	text, err := encode(n)
	if err != nil || n.ID == "" {
		return text, err
	}
	if err := checkKey(n.ID); err != nil {
		return nil, err
	}
	key, err := json.Marshal(n.ID)
	return append(append(append(text[:len(text)-1], `,"idempotency_key":`...), key...), '}'), err
}

// flush writes the line.
func (s *stream) flush() bool {
	if len(s.buf) == 0 {
		return true
	}
	s.sent = len(s.items)
	_, err := s.body.Write(s.buf)
	s.buf = s.buf[:0]
	return err == nil
}

// receive makes the request and reads the receipts. A gateway that tells of none for longer than it says that one takes is
// left.
func (s *stream) receive(body io.Reader, cancel func()) (refusal *response, err error) {
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.conn.base.String()+s.path+"notifications/batch", body)
	if err != nil {
		return nil, err
	}
	request.Header = s.header()
	limit := defaultAttemptTimeout
	if longest := s.conn.state.Load().maxDuration; longest > 0 {
		limit = longest + responseGrace
	}
	watch := time.AfterFunc(limit, cancel)
	defer watch.Stop()
	response, err := s.conn.http.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = response.Body.Close()
		select {
		case <-s.conn.draining: // nobody else will
			s.conn.http.CloseIdleConnections()
		default:
		}
	}()
	s.conn.update(response.Header.Get(loadReportHeader))
	if response.StatusCode != http.StatusOK {
		return readRefusal(response), nil
	}
	return nil, s.receipts(response.Body, func() { watch.Reset(limit) })
}

func (s *stream) header() http.Header {
	h := s.propagate(s.ctx)
	if h == nil {
		h = http.Header{}
	}
	h.Set("Authorization", "Bearer "+string(s.cfg.Key))
	h.Set("Content-Type", "application/x-ndjson")
	return h
}

// readRefusal reads why a gateway took nothing of a batch.
func readRefusal(response *http.Response) *response {
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	r := wire.Response{Status: response.StatusCode, Body: text}
	if after := response.Header.Get("Retry-After"); after != "" {
		r.Header = []wire.Field{{Name: "retry-after", Value: after}}
	}
	return parseResponse(&r)
}

// receipts reads them, line by line.
func (s *stream) receipts(from io.Reader, alive func()) error {
	lines := bufio.NewReaderSize(from, 32<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		alive()
		var r push.Receipt
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		s.handleReceipt(r)
	}
}

// unreadReasons are the reasons of a receipt that says that its notification, and all behind it, were not even read.
var unreadReasons = map[string]bool{"BatchTooLarge": true, "BodyTimeout": true, "BodyIncomplete": true}

// handleReceipt tells what a receipt says, or sends its notification once more where it says that nothing was sent.
func (s *stream) handleReceipt(r push.Receipt) {
	if r.Index == nil {
		return
	}
	if unreadReasons[r.Reason] && len(r.Attempts) == 0 {
		s.mu.Lock()
		s.readUpTo = *r.Index
		s.mu.Unlock()
		return
	}
	it := s.takeItem(*r.Index)
	switch {
	case it == nil:
	case r.Status() == push.StatusUnavailable && notSent(r):
		s.resend(it, push.Outcome{Verdict: push.Unavailable}, r)
	default:
		s.report(it, r, errorFor(r, nil))
	}
}

// takeItem returns the item with that index, once.
func (s *stream) takeItem(index int) *item {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index < 0 || index >= len(s.items) {
		return nil
	}
	it := s.items[index]
	s.items[index] = nil
	return it
}

// outcome is what the exchange says of the gateway.
func (s *stream) outcome(refusal *response, err error) push.Outcome {
	switch {
	case refusal != nil:
		return refusal.outcome()
	case err == nil:
		return push.Outcome{Verdict: push.Accepted, HTTP: http.StatusOK}
	case s.batch.ctx.Err() != nil:
		return push.Outcome{Verdict: push.Abandoned, Reason: string(wire.Cancelled)}
	default:
		return push.Outcome{Verdict: push.Unknown, Scope: push.ScopeEndpoint, Reason: string(wire.LostAfterWrite)}
	}
}

// settle ends what has no receipt.
func (s *stream) settle(refusal *response, err error) {
	for index := range s.items {
		it := s.takeItem(index)
		if it == nil {
			continue
		}
		switch {
		case index >= s.sent, s.readUpTo >= 0 && index >= s.readUpTo, err != nil && !s.connected.Load():
			s.resend(it, push.Outcome{Verdict: push.Unsent}, push.Receipt{Outcome: push.Outcome{Reason: string(wire.LostBeforeWrite)}})
		case refusal != nil && refusal.nothingSent():
			s.resend(it, refusal.outcome(), refusal.receipt)
		case refusal != nil:
			s.report(it, refusal.receipt, refusal.err)
		default:
			s.resend(it, push.Outcome{Verdict: push.Unknown}, push.Receipt{Outcome: push.Outcome{Verdict: push.Unknown, Reason: string(wire.LostAfterWrite)}})
		}
	}
}

// resend sends one that ended in o by a call of its own, if that may be; else r is its end. What a gateway refused costs of
// the budget, for the others may be as busy. What was on its way to one that was lost does not: all of it comes at once,
// and once only.
func (b *batch) resend(it *item, o push.Outcome, r push.Receipt) {
	refused := o.Verdict == push.Unavailable && !b.route.Budget.Withdraw(o)
	if b.ctx.Err() != nil || refused || o.Verdict == push.Unknown && !it.n.MayRetryUnknown() {
		b.report(it, r, errorFor(r, nil))
		return
	}
	b.workers.Go(func() {
		ctx, cancel := b.withTimeout(b.ctx)
		defer cancel()
		r, err := b.send(ctx, it.n, false)
		b.report(it, r, err)
	})
}
