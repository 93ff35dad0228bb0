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
	maxItems   = 2000        // of one stream; then another begins, at the gateway that has the least to do by then
	idleStream = time.Second // without a new item, until a stream ends
	fullLine   = 16 << 10    // bytes that leave in one write
)

// stream is one request to one gateway: notifications out and receipts back, both at the same time.
type stream struct {
	*batch
	link      *link
	ctx       context.Context
	body      *io.PipeWriter
	line      []byte        // not written yet
	sent      int           // how many items were written
	over      chan struct{} // closed when no more receipts will come
	connected atomic.Bool

	mu    sync.Mutex
	items []*item // by their index in the request; nil once told
	read  int     // the gateway has read no further than this, where it says so; else -1
}

// hireStream begins one more worker, that goes from stream to stream.
func (b *batch) hireStream(first *item) bool {
	if b.hired == b.cfg.Streams {
		return false
	}
	b.hired++
	b.crew.Go(func() {
		for it, ok := first, true; ok; it, ok = b.next() {
			b.stream(it)
		}
	})
	return true
}

// stream sends first, and what else comes, to one gateway.
func (b *batch) stream(first *item) {
	ctx, cancel := b.within(b.ctx)
	lease, err := b.pool.Pick(ctx, nil)
	cancel()
	if err != nil {
		r := push.Receipt{Outcome: push.NoResponse(err)}
		b.tell(first, r, problemOf(r, nil))
		return
	}
	s := &stream{batch: b, link: lease.Conn().(*link), over: make(chan struct{}), read: -1}
	answered, err := s.exchange(first)
	lease.Done(s.outcome(answered, err))
	s.settle(answered, err)
}

// exchange writes and reads until both have ended. It returns a gateway's refusal of the whole, or why the exchange broke.
func (s *stream) exchange(first *item) (refusal *answer, err error) {
	ctx, cancel := context.WithCancel(s.batch.ctx)
	defer cancel()
	s.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { s.connected.Store(true) }})
	body, writer := io.Pipe()
	s.body = writer
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(s.over)
		defer func() { _ = body.CloseWithError(io.ErrClosedPipe) }()
		refusal, err = s.receive(body, cancel)
	})
	reading.Go(func() {
		select {
		case <-s.link.lost:
			cancel()
		case <-s.over:
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
	idle := time.NewTimer(idleStream)
	defer idle.Stop()
	for range maxItems - 1 {
		it, ok := s.following(idle)
		if !ok {
			break
		}
		s.add(it)
		if len(s.line) >= fullLine && !s.flush() {
			return
		}
	}
	s.flush()
}

// following is the next item. While there is none, what is there is written.
func (s *stream) following(idle *time.Timer) (*item, bool) {
	select {
	case <-s.link.leaving:
		return nil, false
	case it, ok := <-s.queue:
		return it, ok
	default:
	}
	if !s.flush() {
		return nil, false
	}
	idle.Reset(idleStream)
	select {
	case it, ok := <-s.queue:
		return it, ok
	case <-idle.C:
	case <-s.link.leaving:
	case <-s.over:
	case <-s.ctx.Done():
	}
	return nil, false
}

// add puts an item on the line.
func (s *stream) add(it *item) {
	text, err := line(it.n)
	if err != nil {
		r := push.Receipt{Outcome: push.InvalidNotification(err)}
		s.tell(it, r, problemOf(r, nil))
		return
	}
	s.line = append(append(s.line, text...), '\n')
	s.route.Budget.Earn()
	s.mu.Lock()
	s.items = append(s.items, it)
	s.mu.Unlock()
}

// line is a notification as a batch has it: with its Idempotency-Key inside, if its sender gave it one. Keys of our own
// would only fill the gateways' memory: what a stream lost is not sent to the same gateway again.
func line(n *push.Notification) ([]byte, error) {
	text, err := write(n)
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
	if len(s.line) == 0 {
		return true
	}
	s.sent = len(s.items)
	_, err := s.body.Write(s.line)
	s.line = s.line[:0]
	return err == nil
}

// receive makes the request and reads the receipts. A gateway that tells of none for longer than it says that one takes is
// left.
func (s *stream) receive(body io.Reader, cancel func()) (refusal *answer, err error) {
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.link.base.String()+s.path+"notifications/batch", body)
	if err != nil {
		return nil, err
	}
	request.Header = s.header()
	limit := patience
	if longest := s.link.told.Load().max; longest > 0 {
		limit = longest + grace
	}
	watch := time.AfterFunc(limit, cancel)
	defer watch.Stop()
	response, err := s.link.http.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = response.Body.Close()
		select {
		case <-s.link.leaving: // nobody else will
			s.link.http.CloseIdleConnections()
		default:
		}
	}()
	s.link.hear(response.Header.Get(signalHeader))
	if response.StatusCode != http.StatusOK {
		return refused(response), nil
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

// refused reads why a gateway took nothing of a batch.
func refused(response *http.Response) *answer {
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	r := wire.Response{Status: response.StatusCode, Body: text}
	if after := response.Header.Get("Retry-After"); after != "" {
		r.Header = []wire.Field{{Name: "retry-after", Value: after}}
	}
	return read(&r)
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
		s.hand(r)
	}
}

// unread are the reasons of a receipt that says that its notification, and all behind it, were not even read.
var unread = map[string]bool{"BatchTooLarge": true, "BodyTimeout": true, "BodyIncomplete": true}

// hand tells what a receipt says, or sends its notification once more where it says that nothing was sent.
func (s *stream) hand(r push.Receipt) {
	if r.Index == nil {
		return
	}
	if unread[r.Reason] && len(r.Attempts) == 0 {
		s.mu.Lock()
		s.read = *r.Index
		s.mu.Unlock()
		return
	}
	it := s.claim(*r.Index)
	switch {
	case it == nil:
	case r.Status() == push.StatusUnavailable && untouched(r):
		s.again(it, push.Outcome{Verdict: push.Unavailable}, r)
	default:
		s.tell(it, r, problemOf(r, nil))
	}
}

// claim returns the item with that index, once.
func (s *stream) claim(index int) *item {
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
func (s *stream) outcome(refusal *answer, err error) push.Outcome {
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
func (s *stream) settle(refusal *answer, err error) {
	for index := range s.items {
		it := s.claim(index)
		if it == nil {
			continue
		}
		switch {
		case index >= s.sent, s.read >= 0 && index >= s.read, err != nil && !s.connected.Load():
			s.again(it, push.Outcome{Verdict: push.Unsent}, push.Receipt{Outcome: push.Outcome{Reason: string(wire.LostBeforeWrite)}})
		case refusal != nil && refusal.again():
			s.again(it, refusal.outcome(), refusal.receipt)
		case refusal != nil:
			s.tell(it, refusal.receipt, refusal.err)
		default:
			s.again(it, push.Outcome{Verdict: push.Unknown}, push.Receipt{Outcome: push.Outcome{Verdict: push.Unknown, Reason: string(wire.LostAfterWrite)}})
		}
	}
}

// again sends one that ended in o by a call of its own, if that may be; else r is its end. What a gateway refused costs of
// the budget, for the others may be as busy. What was on its way to one that was lost does not: all of it comes at once,
// and once only.
func (b *batch) again(it *item, o push.Outcome, r push.Receipt) {
	refused := o.Verdict == push.Unavailable && !b.route.Budget.Take(o)
	if b.ctx.Err() != nil || refused || o.Verdict == push.Unknown && !it.n.MayRetryUnknown() {
		b.tell(it, r, problemOf(r, nil))
		return
	}
	b.crew.Go(func() {
		ctx, cancel := b.within(b.ctx)
		defer cancel()
		r, err := b.send(ctx, it.n, false)
		b.tell(it, r, err)
	})
}
