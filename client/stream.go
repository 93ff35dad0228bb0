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
	maxItems          = 2000        // in one stream; the next stream starts at the gateway that has the least load by then
	streamIdleTimeout = time.Second // a stream without new items ends
	flushSize         = 16 << 10    // bytes in one write
)

// stream is one batch request to one gateway. It sends notifications and receives receipts at the
// same time.
type stream struct {
	*batch
	conn      *gatewayConn
	ctx       context.Context
	body      *io.PipeWriter
	buf       []byte        // not yet written
	sent      int           // number of written items
	done      chan struct{} // closed when no more receipts will arrive
	connected atomic.Bool

	mu       sync.Mutex
	items    []*item // by index in the request; nil when the receipt has arrived
	readUpTo int     // items from this index on were not read by the gateway; -1 if it did not say so
}

// startStreamWorker starts a worker that runs one stream after another.
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

// stream sends first and the following items to one gateway.
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
	refusal, err := s.exchange(first)
	lease.Done(s.outcome(refusal, err))
	s.settle(refusal, err)
}

// exchange writes and reads until both have ended. It returns the gateway's refusal of the whole
// request, or the error that ended the exchange.
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

// write writes first and the following items, until there are no more or the gateway drains.
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

// nextItem returns the next item. If none is available, it flushes the buffer and waits.
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

// add adds an item to the buffer.
func (s *stream) add(it *item) {
	text, err := encodeLine(it.n)
	if err != nil {
		r := push.Receipt{Outcome: push.InvalidNotification(err)}
		s.report(it, r, errorFor(r, nil))
		return
	}
	s.buf = append(append(s.buf, text...), '\n')
	s.executor.Budget.Deposit(1)
	s.mu.Lock()
	s.items = append(s.items, it)
	s.mu.Unlock()
}

// encodeLine encodes a notification as a line of a batch. It includes an Idempotency-Key only if
// the caller set the ID. A generated key would only use the gateways' memory, because items of a
// lost stream are not sent to the same gateway again.
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

// flush writes the buffer.
func (s *stream) flush() bool {
	if len(s.buf) == 0 {
		return true
	}
	s.sent = len(s.items)
	_, err := s.body.Write(s.buf)
	s.buf = s.buf[:0]
	return err == nil
}

// receive sends the request and reads the receipts. It cancels the stream if no receipt arrives for
// longer than the gateway's maximum response time.
func (s *stream) receive(body io.Reader, cancel func()) (refusal *response, err error) {
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.conn.base.String()+s.path+"notifications/batch", body)
	if err != nil {
		return nil, err
	}
	request.Header = s.header()
	limit := defaultAttemptTimeout
	if max := s.conn.state.Load().maxDuration; max > 0 {
		limit = max + responseGrace
	}
	timer := time.AfterFunc(limit, cancel)
	defer timer.Stop()
	res, err := s.conn.http.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = res.Body.Close()
		select {
		case <-s.conn.draining: // Run may have closed the idle connections already
			s.conn.http.CloseIdleConnections()
		default:
		}
	}()
	s.conn.update(res.Header.Get(loadReportHeader))
	if res.StatusCode != http.StatusOK {
		return readRefusal(res), nil
	}
	err = s.receipts(res.Body, func() { timer.Reset(limit) })
	if errors.Is(err, errNoReceipt) {
		return intermediaryResponse(res.StatusCode, describeResponse(res.StatusCode, res.Header.Get("Content-Type"), "")), nil
	}
	return nil, err
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

// readRefusal reads why a gateway refused a whole batch.
func readRefusal(res *http.Response) *response {
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxResponse))
	wireRes := wire.Response{Status: res.StatusCode, Body: text}
	for _, name := range []string{"retry-after", "content-type", "location"} {
		if value := res.Header.Get(name); value != "" {
			wireRes.Header = append(wireRes.Header, wire.Field{Name: name, Value: value})
		}
	}
	return parseRefusal(&wireRes)
}

// errNoReceipt means that a response to a batch does not consist of receipts.
var errNoReceipt = errors.New("client: the response has a line that is not a receipt, or no line")

// receipts reads the receipts line by line.
func (s *stream) receipts(body io.Reader, alive func()) error {
	lines := bufio.NewReaderSize(body, 32<<10)
	for empty := true; ; empty = false {
		line, err := lines.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return err
		}
		if len(line) == 0 {
			if empty && s.hasItems() {
				return errNoReceipt
			}
			return nil
		}
		alive()
		var r push.Receipt
		if json.Unmarshal(line, &r) != nil {
			return errNoReceipt
		}
		s.handleReceipt(r)
	}
}

// unreadReasons are the reasons of a receipt which says that this item and all after it were not
// read.
var unreadReasons = map[string]bool{"BatchTooLarge": true, "BodyTimeout": true, "BodyIncomplete": true, "Unauthenticated": true}

// handleReceipt reports the result in a receipt. It resends the notification if the receipt says
// that nothing was sent.
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

// hasItems reports whether the stream has items, with or without a receipt.
func (s *stream) hasItems() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.items) > 0
}

// takeItem returns the item with this index, once.
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

// outcome returns the outcome for the gateway.
func (s *stream) outcome(refusal *response, err error) push.Outcome {
	switch {
	case refusal != nil:
		return refusal.outcome()
	case err == nil:
		return push.Outcome{Verdict: push.Accepted, HTTP: http.StatusOK}
	case s.batch.ctx.Err() != nil:
		return push.Outcome{Verdict: push.Abandoned, Reason: string(wire.Canceled)}
	default:
		return push.Outcome{Verdict: push.Unknown, Scope: push.ScopeEndpoint, Reason: string(wire.LostAfterWrite)}
	}
}

// settle reports or resends the items without a receipt.
func (s *stream) settle(refusal *response, err error) {
	for index := range s.items {
		it := s.takeItem(index)
		if it == nil {
			continue
		}
		switch {
		case index >= s.sent, s.readUpTo >= 0 && index >= s.readUpTo, err != nil && !s.connected.Load():
			s.resend(it, push.Outcome{Verdict: push.Unsent}, push.Receipt{Outcome: push.Outcome{Reason: string(wire.LostBeforeWrite)}})
		case refusal == nil:
			s.resend(it, push.Outcome{Verdict: push.Unknown}, push.Receipt{Outcome: push.Outcome{Verdict: push.Unknown, Reason: string(wire.LostAfterWrite)}})
		case refusal.outcome().Verdict == push.Accepted:
			s.report(it, refusal.receipt, refusal.err)
		default:
			s.resend(it, refusal.outcome(), refusal.receipt)
		}
	}
}

// resend sends an item as a single request if its outcome o allows it; otherwise it reports r.
// Items that were refused take from the retry budget, because other gateways may be as busy.
// Items that were in flight to a lost gateway do not: they all fail at once, and are resent only
// once.
func (b *batch) resend(it *item, o push.Outcome, r push.Receipt) {
	refused := o.Verdict == push.Unavailable || o.HTTP != 0
	exhausted := refused && !b.executor.Budget.Withdraw(o)
	if b.ctx.Err() != nil || exhausted || o.Verdict == push.Unknown && !it.n.MayRetryUnknown() {
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
