// SPDX-License-Identifier: Apache-2.0

package wire

// A stream is one request from Do to its end. It is reused: nobody keeps one
// outside the connection's lock but the Do that waits for it, and it is in the
// connection's table or in one of its queues for as long as it can be found.
type stream struct {
	req      *Request
	deadline int64         // of the answer, on the connection's clock
	done     chan struct{} // gets exactly one token, when the stream has ended

	// The connection's lock guards the fields below.

	// id is zero until the writer takes the request up and hands its first
	// byte on. So id == 0 is the proof that the peer never saw it.
	id            uint32
	bodySent      int   // bytes of the body that were handed on
	endSent       bool  // END_STREAM was handed on
	outflow       int64 // what the peer lets us send; negative after its SETTINGS shrank it (RFC 9113 §6.9.2)
	responded     bool  // the peer answered something on it, so it did process it
	bodyReceived  int   // of the body, padding included
	contentLength int64 // the content-length that the answer declared, or -1
	res           *Response
	err           *Error
	ended         bool

	queue      *streamQueue // the one that it is in, if any
	prev, next *stream
}

func (c *Conn) newStream(r *Request) *stream {
	s, _ := c.streamPool.Get().(*stream)
	if s == nil {
		s = &stream{done: make(chan struct{}, 1)}
	}
	s.req = r
	s.contentLength = -1
	return s
}

// result is what came of s, for the Do that took its token. The stream is kept
// for reuse.
func (c *Conn) result(s *stream) (*Response, error) {
	res, err := s.res, s.err
	*s = stream{done: s.done}
	c.streamPool.Put(s)
	if err != nil {
		return nil, err
	}
	return res, nil
}

// processed says what is known of a stream that gets no answer.
func (s *stream) processed() Processed {
	if s.id == 0 {
		return Never
	}
	return Unknown
}

// streamQueue is a FIFO of streams that can be left from the middle.
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
