// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"time"
)

// stream is the one call of a generator with Stream.
type stream struct {
	*worker
	due     []atomic.Int64 // nanoseconds from the start until each notification is due
	slots   chan struct{}  // one element for each notification in flight; nil in an open loop
	lines   bytes.Buffer   // not yet written; notifications that are due together share a write
	written error          // of the first write that failed
}

// stream sends all notifications in one call.
func (p *workerPool) stream(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	s := &stream{worker: p.newWorker(), due: make([]atomic.Int64, p.Count)}
	if p.InFlight > 0 {
		s.slots = make(chan struct{}, p.InFlight)
	}
	connection := s.conn.(*conn) // HTTP/1.1: a stream has no use for several calls on one connection
	defer connection.close()
	if err := connection.ensureOpen(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	written, request := make(chan error, 1), connection.nc
	go func() { written <- s.write(ctx, request) }()
	err := connection.readResponse(s.read)
	if err != nil {
		cancel() // ends the writer
	}
	if err = errors.Join(err, <-written); err != nil {
		return fmt.Errorf("load: %d receipts are missing: %w", p.Count-s.results, errors.Join(err, parent.Err()))
	}
	return nil
}

// write writes the request, and each notification when it is due.
func (s *stream) write(ctx context.Context, w io.Writer) error {
	defer s.Recorder.Ended()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &s.api.(sluiceAPI)[0]
	if _, err := w.Write(append(request.appendFields(nil), "\r\nTransfer-Encoding: chunked\r\n\r\n"...)); err != nil {
		return err
	}
	body := httputil.NewChunkedWriter(w)
	flush := func() {
		if s.lines.Len() > 0 && s.written == nil {
			if _, s.written = body.Write(s.lines.Bytes()); s.written != nil {
				cancel()
			}
			s.lines.Reset()
		}
	}
	offer := func(i int, due time.Duration) {
		s.due[i].Store(int64(due))
		s.Recorder.Offered(i, 1, due)
		s.lines.Write(append(s.Append(s.lines.AvailableBuffer(), i), '\n'))
		if s.lines.Len() > 32<<10 {
			flush()
		}
	}
	if s.slots == nil {
		s.schedule.idle = flush
		s.schedule.runOpenLoop(ctx, offer)
	} else {
		for i := 0; i < s.Count && s.acquireSlot(ctx, flush); i++ {
			offer(i, time.Since(s.Start))
		}
	}
	flush()
	if err := errors.Join(s.written, ctx.Err()); err != nil {
		return err
	}
	_, err := io.WriteString(w, "0\r\n\r\n") // the last chunk
	return err
}

// acquireSlot waits until fewer notifications than InFlight are in flight.
func (s *stream) acquireSlot(ctx context.Context, flush func()) bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
	}
	flush()
	select {
	case s.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// read reads the receipts.
func (s *stream) read(status int, body *body) error {
	if status != 200 && status != 202 {
		text, err := body.readAll()
		return errors.Join(fmt.Errorf("the gateway rejected the batch: %d %s %s", status, http.StatusText(status), bytes.TrimSpace(text)), err)
	}
	err := s.api.readResponse(&s.parser, status, body, s.Count, func(r *Result) error {
		now := time.Now()
		if r.Index < 0 || r.Index >= s.Count {
			return fmt.Errorf("receipt index %d is out of range for %d notifications", r.Index, s.Count)
		}
		s.results++
		r.Due, r.HTTPStatus = time.Duration(s.due[r.Index].Load()), status
		r.Latency = now.Sub(s.Start) - r.Due
		if err := s.Recorder.Answered(r, now); err != nil {
			return err
		}
		if s.slots != nil {
			<-s.slots
		}
		return nil
	})
	if err == nil && s.results < s.Count {
		err = io.ErrUnexpectedEOF
	}
	return err
}
