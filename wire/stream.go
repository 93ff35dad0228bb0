// SPDX-License-Identifier: Apache-2.0

package wire

// stream is one request from Do or Start to its end. Streams are reused: after the stream has left
// the table and the queues of its connection, only the Do that waits for it, or the goroutine that
// delivers its result, may use it.
type stream struct {
	req      *Request
	deadline int64         // of the response, on the connection's clock
	run      *run          // nil for Do
	index    int           // in run
	done     chan struct{} // for Do: receives exactly one value, when the stream has ended

	// Conn.mu guards the fields below.

	// id is zero until the writer starts to write the request. It proves that the peer never saw a
	// request whose id is zero.
	id              uint32
	bodySent        int   // bytes of the body that were written
	endSent         bool  // END_STREAM was written
	outflow         int64 // send window; negative after a smaller initial window (RFC 9113 §6.9.2)
	responded       bool  // the peer sent something on this stream, so it processed the request
	headersReceived int   // size of all header lists, counted as in RFC 9113 §6.5.2
	bodyReceived    int   // including padding
	contentLength   int64 // of the response, or -1
	res             *Response
	err             *Error
	ended           bool

	queue      *streamQueue // the queue that contains the stream, or nil
	prev, next *stream
}

func (c *Conn) newStream(r *Request) *stream {
	s, _ := c.streamPool.Get().(*stream)
	if s == nil {
		s = &stream{}
	}
	s.req = r
	s.contentLength = -1
	return s
}

// result returns the result of s after its end, and frees s for reuse.
func (c *Conn) result(s *stream) (*Response, error) {
	res, err := s.res, s.err
	*s = stream{done: s.done}
	c.streamPool.Put(s)
	if err != nil {
		return nil, err
	}
	return res, nil
}

// processed returns what is known about a stream that gets no response.
func (s *stream) processed() Processed {
	if s.id == 0 {
		return Never
	}
	return Unknown
}

// streamQueue is a FIFO queue of streams that supports removal from the middle.
type streamQueue struct {
	first, last *stream
	n           int
}

func (q *streamQueue) push(s *stream) {
	s.queue, s.prev = q, q.last
	if q.last == nil {
		q.first = s
	} else {
		q.last.next = s
	}
	q.last = s
	q.n++
}

func (q *streamQueue) pop() *stream {
	s := q.first
	s.dequeue()
	return s
}

func (s *stream) dequeue() {
	q := s.queue
	if q == nil {
		return
	}
	if s.prev == nil {
		q.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		q.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	q.n--
	s.queue, s.prev, s.next = nil, nil, nil
}
